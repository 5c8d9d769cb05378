"""A look at the student while it learns: the Eigen metrics on a few frames of the test split."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tiekd_cache.data.frame import DataSet, FrameSource
from tiekd_cache.evaluate import EvaluateConfig, evaluate
from tiekd_cache.progress import no_progress_bar
from tiekd_cache.students import Student

METRICS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log_10", "silog", "a1", "a2", "a3")


def validation_frames(
    source: DataSet | None, count: int, note: Callable[[str], None] = lambda text: None
) -> FrameSource | None:
    """`count` frames with ground truth, evenly over the test split; None, with a note, where there is none.

    Args:
        source: the test split, or None where the data have none.
        count: how many at most; 0 = no validation.
    """
    if count == 0:
        return None
    with_gt = [] if source is None else [frame_id for frame_id in source.frame_ids if source.has_gt(frame_id)]
    if source is None or not with_gt:
        note("No validation: there is no test split with ground truth beside the data (train.validate_frames = 0).")
        return None
    places = np.linspace(0, len(with_gt) - 1, min(count, len(with_gt))).astype(int)
    return source.subset([with_gt[place] for place in places])


def validate(student: Student, source: FrameSource) -> dict[str, float]:
    """Metrics against ground truth by the data set's protocol, without the mirrored average: name -> mean over images.

    Raises:
        DataError: a frame cannot be read, or none has ground truth inside the crop.
    """
    result = evaluate(student, source, EvaluateConfig(flip_average=False), progress=no_progress_bar)
    said = result.ground_truth or {}
    return {name: float(said[name]) for name in METRICS if name in said}


def is_better(abs_rel: float, best: float | None) -> bool:
    """Whether a validation is the best so far; one that is not finite never is."""
    return math.isfinite(abs_rel) and (best is None or abs_rel < best)
