"""A student against ground truth on the Eigen protocol, and against its teacher.

Protocol (KITTI): KB crop of image and ground truth; prediction averaged with the mirrored image's and clamped
to 1e-3..80 m; metrics over the pixels with ground truth inside the Garg crop, an image at a time; then the mean
over images. Against the teacher: all pixels from row 110 down that the teacher answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from tiekd_cache.data.frame import DepthMap, FrameSource
from tiekd_cache.data.normalize import normalize
from tiekd_cache.data.transforms import garg_crop_mask
from tiekd_cache.errors import DataError
from tiekd_cache.metrics import MetricsMean, depth_metrics
from tiekd_cache.progress import ProgressFactory, progress_bar
from tiekd_cache.store import ResponseStore
from tiekd_cache.students import Student

TEACHER_FIRST_ROW = 110
"""Rows above carry no LiDAR; the paper compares with the teacher below them."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of the protocol.

    Attributes:
        flip_average: average the prediction with the mirrored image's.
        min_depth: metres; ground truth at or below it does not count, predictions are clamped to it.
        max_depth: metres; ground truth at or beyond it does not count, predictions are clamped to it.
        limit_frames: only the first so many frames.
    """

    flip_average: bool = True
    min_depth: float = 1e-3
    max_depth: float = 80.0
    limit_frames: int | None = None


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a student.

    Attributes:
        ground_truth: name -> mean over images; None where no frame has ground truth.
        teacher: the same against the teacher's responses; None without a store.
        gt_frames: images in `ground_truth`.
        teacher_frames: images in `teacher`.
        seconds: wall time.
    """

    ground_truth: dict[str, float] | None
    teacher: dict[str, float] | None
    gt_frames: int
    teacher_frames: int
    seconds: float


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
    against_gt, against_teacher = MetricsMean(), MetricsMean()
    frame_ids = [
        frame_id
        for frame_id in list(source.frame_ids)[: config.limit_frames]
        if source.has_gt(frame_id) or (store is not None and frame_id in store)
    ]
    with progress(len(frame_ids), "evaluate", "frame") as bar:
        for frame_id in frame_ids:
            frame = source.load(frame_id, with_gt=source.has_gt(frame_id))
            student_depth = np.clip(predict(frame.image), config.min_depth, config.max_depth)
            if frame.gt_depth is not None:
                valid = (frame.gt_depth > config.min_depth) & (frame.gt_depth < config.max_depth)
                valid &= garg_crop_mask(*valid.shape)
                if valid.any():
                    against_gt.add(depth_metrics(student_depth, frame.gt_depth, valid))
            if store is not None and frame_id in store:
                teacher_depth = store[frame_id]
                answered = teacher_depth > 0
                answered[:TEACHER_FIRST_ROW] = False
                against_teacher.add(depth_metrics(student_depth, teacher_depth, answered))
            bar.update(1)
    if not against_gt.count and not against_teacher.count:
        raise DataError(
            f"None of the {len(source.frame_ids)} frames of {source.split} has ground truth or a teacher's response: "
            "there is nothing to compare with. Name another --split, or a --store that has these frames."
        )
    return Evaluation(
        ground_truth=against_gt.mean() if against_gt.count else None,
        teacher=against_teacher.mean() if against_teacher.count else None,
        gt_frames=against_gt.count,
        teacher_frames=against_teacher.count,
        seconds=time.monotonic() - started,
    )


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
