"""A student against ground truth on its data set's protocol, and against its teacher.

Protocol (see `data.protocol`): the prediction is averaged with the mirrored image's and clamped to the data set's
range; metrics are taken over the pixels with ground truth inside the crop, an image at a time; then the mean over
images. By depth range, the mean is over the images that have pixels there. Against the teacher: all pixels that the
teacher answers, on KITTI from row 110 down.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tiekd_cache.data.frame import DepthMap, FrameSource
from tiekd_cache.data.normalize import normalize
from tiekd_cache.data.protocol import Protocol, Range, protocol_of, range_name
from tiekd_cache.errors import DataError
from tiekd_cache.evaluation import Evaluation, ImageMetrics, Metrics, RangeMetrics
from tiekd_cache.metrics import MetricsMean, depth_metrics
from tiekd_cache.progress import ProgressFactory, progress_bar
from tiekd_cache.store import ResponseStore
from tiekd_cache.students import Student

__all__ = [
    "EvaluateConfig",
    "Evaluation",
    "Metrics",
    "evaluate",
    "evaluate_predictor",
    "image_metrics",
    "predict_depth",
]


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of the protocol; None = as usual for the data set.

    Attributes:
        flip_average: average the prediction with the mirrored image's.
        crop: `garg`, `eigen` or `none`.
        min_depth: metres; ground truth at or below it does not count, predictions are clamped to it.
        max_depth: metres; ground truth at or beyond it does not count, predictions are clamped to it.
        ranges: (near, far), metres, in which metrics are computed as well.
        limit_frames: only the first so many frames.
    """

    flip_average: bool = True
    crop: str | None = None
    min_depth: float = 1e-3
    max_depth: float | None = None
    ranges: tuple[Range, ...] | None = None
    limit_frames: int | None = None

    def protocol(self, source: FrameSource) -> Protocol:
        """The protocol for these frames; raises ConfigError where the settings do not suit the data set."""
        return protocol_of(
            source.name,
            source.max_depth,
            crop=self.crop,
            min_depth=self.min_depth,
            max_depth=self.max_depth,
            ranges=self.ranges,
        )


def evaluate(
    student: Student,
    source: FrameSource,
    config: EvaluateConfig,
    *,
    store: ResponseStore | None = None,
    progress: ProgressFactory = progress_bar,
) -> Evaluation:
    """Metrics of a student over the frames of a split.

    Args:
        store: compare with these responses too, where they have the frame.
    Raises:
        DataError: no frame has anything to compare with.
        ConfigError: the settings do not suit the data set.
    """
    device = next(student.parameters()).device

    def predict(image: np.ndarray) -> DepthMap:
        return predict_depth(student, image, config.flip_average, device)

    return evaluate_predictor(predict, source, config, store=store, progress=progress)


def evaluate_predictor(
    predict: Callable[[np.ndarray], DepthMap],
    source: FrameSource,
    config: EvaluateConfig,
    *,
    store: ResponseStore | None = None,
    progress: ProgressFactory = progress_bar,
) -> Evaluation:
    """Metrics of anything that maps an image [H,W,3] uint8 to depth [H,W] in metres; see `evaluate`."""
    started = time.monotonic()
    protocol = config.protocol(source)
    frame_ids = [
        frame_id
        for frame_id in list(source.frame_ids)[: config.limit_frames]
        if source.has_gt(frame_id) or (store is not None and frame_id in store)
    ]
    images = []
    with progress(len(frame_ids), "evaluate", "frame") as bar:
        for frame_id in frame_ids:
            frame = source.load(frame_id, with_gt=source.has_gt(frame_id))
            student_depth = np.clip(predict(frame.image), protocol.min_depth, protocol.max_depth)
            teacher_depth = store[frame_id] if store is not None and frame_id in store else None
            images.append(image_metrics(frame_id, student_depth, frame.gt_depth, teacher_depth, protocol))
            bar.update(1)
    (ground_truth, gt_frames) = _mean(image.ground_truth for image in images)
    (teacher, teacher_frames) = _mean(image.teacher for image in images)
    if ground_truth is None and teacher is None:
        raise DataError(
            f"None of the {len(source.frame_ids)} frames of {source.split} has ground truth or a teacher's response: "
            "there is nothing to compare with. Name another --split, or a --store that has these frames."
        )
    return Evaluation(
        ground_truth=ground_truth,
        teacher=teacher,
        gt_frames=gt_frames,
        teacher_frames=teacher_frames,
        ranges=_by_range(images, protocol.ranges),
        images=tuple(images),
        protocol=protocol,
        flip_average=config.flip_average,
        store_fingerprint=store.info.schema.fingerprint if store is not None else None,
        seconds=time.monotonic() - started,
    )


def image_metrics(
    frame_id: str,
    student_depth: DepthMap,
    gt_depth: DepthMap | None,
    teacher_depth: DepthMap | None,
    protocol: Protocol,
) -> ImageMetrics:
    """The metrics of one image.

    Args:
        student_depth: [H,W] metres, within the protocol's range.
        gt_depth: [H,W] metres, 0 = none; or None.
        teacher_depth: [H,W] metres, 0 = missing; or None.
    Raises:
        ShapeError: the maps differ in size.
    """
    gt_pixels, against_gt, ranges = 0, None, {}
    if gt_depth is not None:
        valid = protocol.counts(gt_depth)
        gt_pixels = int(valid.sum())
        if gt_pixels:
            against_gt = depth_metrics(student_depth, gt_depth, valid)
        for bounds in protocol.ranges:
            within = valid & (gt_depth >= bounds[0]) & (gt_depth < bounds[1])
            if within.any():
                ranges[range_name(bounds)] = depth_metrics(student_depth, gt_depth, within)
    teacher_pixels, against_teacher = 0, None
    if teacher_depth is not None:
        answered = teacher_depth > 0
        answered[: protocol.first_row] = False
        teacher_pixels = int(answered.sum())
        if teacher_pixels:
            against_teacher = depth_metrics(student_depth, teacher_depth, answered)
    return ImageMetrics(frame_id, gt_pixels, against_gt, ranges, teacher_pixels, against_teacher)


def predict_depth(student: Student, image: np.ndarray, flip_average: bool, device: torch.device) -> DepthMap:
    """[H,W] float32 metres: the student's answer to an image [H,W,3] uint8, mirrored average if asked for."""
    student.eval()
    images = normalize(torch.from_numpy(image))[None].to(device)
    with torch.inference_mode():
        depth = student.predict(images)
        if flip_average:
            depth = (depth + student.predict(images.flip(-1)).flip(-1)) / 2
    prediction: DepthMap = depth[0, 0].float().cpu().numpy()
    return prediction


def _by_range(images: Sequence[ImageMetrics], ranges: Iterable[Range]) -> tuple[RangeMetrics, ...]:
    return tuple(
        RangeMetrics(bounds, *_mean(image.ranges.get(range_name(bounds)) for image in images)) for bounds in ranges
    )


def _mean(metrics: Iterable[Metrics | None]) -> tuple[Metrics | None, int]:
    """(mean over the images that have metrics, how many have)."""
    mean = MetricsMean()
    for one in metrics:
        if one is not None:
            mean.add(one)
    return (mean.mean() if mean.count else None), mean.count
