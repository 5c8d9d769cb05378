"""What an evaluation found. No torch here: `compare` reads these, and nothing is computed on them."""

from __future__ import annotations

from dataclasses import dataclass, field

from tiekd_cache.data.protocol import Protocol, Range

Metrics = dict[str, float]


@dataclass(frozen=True)
class ImageMetrics:
    """What one image contributes.

    Attributes:
        frame_id: which.
        gt_pixels: pixels with ground truth that count.
        ground_truth: name -> value; None without such pixels.
        ranges: name of a range, `20-40` -> the metrics over its pixels, where there are any.
        teacher_pixels: pixels that the teacher answers.
        teacher: the metrics against these; None without.
    """

    frame_id: str
    gt_pixels: int = 0
    ground_truth: Metrics | None = None
    ranges: dict[str, Metrics] = field(default_factory=dict)
    teacher_pixels: int = 0
    teacher: Metrics | None = None


@dataclass(frozen=True)
class RangeMetrics:
    """Metrics over the ground truth in a range of depth.

    Attributes:
        bounds: (near, far), metres.
        metrics: name -> mean over images; None where no image has pixels there.
        frames: images that have.
    """

    bounds: Range
    metrics: Metrics | None
    frames: int


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a student.

    Attributes:
        ground_truth: name -> mean over images; None where no frame has ground truth.
        teacher: the same against the teacher's responses; None without a store.
        gt_frames: images in `ground_truth`.
        teacher_frames: images in `teacher`.
        ranges: the metrics against ground truth by range of depth.
        images: what each image contributes, in the order of the split.
        protocol: which pixels counted.
        flip_average: whether predictions were averaged with the mirrored image's.
        store_fingerprint: of the store that holds the teacher's responses; None without one.
        seconds: wall time.
    """

    ground_truth: Metrics | None
    teacher: Metrics | None
    gt_frames: int
    teacher_frames: int
    ranges: tuple[RangeMetrics, ...]
    images: tuple[ImageMetrics, ...]
    protocol: Protocol
    flip_average: bool
    store_fingerprint: str | None
    seconds: float
