"""Do responses speak metres? One response against sparse ground truth, and the rule for their ratio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tiekd_cache.data.frame import DepthMap

MIN_PIXELS = 20
"""Measured pixels below which a frame says nothing about a unit."""

UNIT_FACTOR = 1.3
"""A teacher that speaks metres has a median ratio to ground truth between 1/1.3 and 1.3."""


@dataclass(frozen=True)
class FrameAgreement:
    """One response against the frame's ground truth, where both have depth.

    Attributes:
        frame_id: which frame.
        pixels: how many were compared.
        abs_rel: mean of |response - truth| / truth.
        median_ratio: median of response / truth.
    """

    frame_id: str
    pixels: int
    abs_rel: float
    median_ratio: float


def frame_agreement(
    frame_id: str, teacher_depth: DepthMap, gt_depth: DepthMap, max_depth: float
) -> FrameAgreement | None:
    """A response [H,W] metres against ground truth [H,W] metres up to `max_depth`; None with too few common pixels."""
    both = (teacher_depth > 0) & (gt_depth > 0) & (gt_depth <= max_depth)
    count = int(np.count_nonzero(both))
    if count < MIN_PIXELS:
        return None
    ratio = teacher_depth[both].astype(np.float64) / gt_depth[both]
    return FrameAgreement(frame_id, count, round(float(np.abs(ratio - 1).mean()), 6), round(float(np.median(ratio)), 6))


def median_ratio(agreement: Sequence[FrameAgreement]) -> float | None:
    """The median over frames of their median ratios; None without frames."""
    return float(np.median([frame.median_ratio for frame in agreement])) if agreement else None


def is_wrong_unit(ratio: float) -> bool:
    """Whether a median ratio to ground truth lies outside 1/1.3 .. 1.3."""
    return not 1 / UNIT_FACTOR <= ratio <= UNIT_FACTOR
