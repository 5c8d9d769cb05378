"""Relative inverse depth becomes metres: scale and shift that fit it to a frame's sparse LiDAR depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tiekd_cache.errors import DataError

MIN_DEPTH_M = 1e-3
"""Nearest depth that an aligned map holds, metres."""

MIN_MEASUREMENTS = 100
"""Fewer measured pixels than this decide no scale and shift."""

_TUKEY = 4.685  # 95 % efficiency for normal errors
_MAD_TO_SIGMA = 1.4826
_STEPS = 50
_Values = npt.NDArray[np.float64]


def align_description(max_depth: float) -> Mapping[str, Any]:
    """How maps are aligned, as JSON values: part of a teacher's preprocessing, and so of its digest.

    Args:
        max_depth: metres; farther is cut.
    """
    return {
        "method": "gt",
        "version": 1,  # to be raised whenever the same data begin to give another scale or shift
        "fit": "inverse depth: least absolute deviations, then Tukey biweight",
        "min_depth": MIN_DEPTH_M,
        "max_depth": max_depth,
    }


def fit_scale_shift(predicted: npt.ArrayLike, depth: npt.ArrayLike, where: str) -> tuple[float, float]:
    """(s, t) such that s * predicted + t is the inverse of depth, 1/m, for most of the values.

    Minimises sum rho(1/depth - s * predicted - t) by iteratively reweighted least squares (Holland and Welsch 1977),
    first with rho(r) = |r|, whose fit gross errors in depth hardly move, then from there with Tukey's biweight
    (Beaton and Tukey 1974; c = 4.685, spread of the residuals by their median absolute deviation), which gives them
    no weight at all. Scale and shift of inverse depth are what MiDaS leaves open (Ranftl et al. 2022). The order of
    the values does not matter, so a mirrored frame has the same fit.

    Args:
        predicted: [n] relative inverse depth, larger = nearer.
        depth: [n] measured depth, metres, > 0.
        where: the frame, for errors.
    Raises:
        DataError: fewer than 100 values; a prediction that is constant or not finite; or one that does not grow where
            the measurements come nearer.
    """
    x = np.asarray(predicted, np.float64).ravel()
    y = 1.0 / np.asarray(depth, np.float64).ravel()
    if x.size < MIN_MEASUREMENTS:
        raise DataError(
            f"Frame {where} has {x.size} pixels with LiDAR depth; at least {MIN_MEASUREMENTS} are needed to align a "
            "relative teacher. Leave the frame out of the split."
        )
    if not np.isfinite(x).all() or not np.isfinite(y).all():
        raise DataError(f"Frame {where}: the teacher's inverse depth or the LiDAR depth is not finite; no fit of both.")
    centre, spread = float(x.mean()), float(x.std())
    if spread <= 1e-9 * max(1.0, abs(centre)):
        raise DataError(f"Frame {where}: the teacher says the same inverse depth everywhere; nothing to align.")
    x = (x - centre) / spread
    s, t = _least_absolute(x, y)
    s, t = _biweight(x, y, s, t)
    if s <= 0:
        raise DataError(
            f"Frame {where}: the teacher's inverse depth does not grow where the LiDAR comes nearer (scale {s:.3g}); "
            "is it a model of relative inverse depth? Leave the frame out of the split, or choose another teacher."
        )
    return s / spread, t - s * centre / spread


def to_depth(predicted: npt.NDArray[np.float32], s: float, t: float, max_depth: float) -> npt.NDArray[np.float32]:
    """1 / (s * predicted + t) within [0.001, max_depth] metres; what lies beyond infinity is max_depth. Same shape."""
    inverse = np.clip(s * predicted.astype(np.float64) + t, 1.0 / max_depth, 1.0 / MIN_DEPTH_M)
    return np.asarray(1.0 / inverse, np.float32)


def _least_absolute(x: _Values, y: _Values) -> tuple[float, float]:
    s, t = _weighted(x, y, np.ones_like(x))
    floor = 1e-6 * float(np.abs(y).mean())  # a residual of nought must not weigh infinitely
    for _ in range(_STEPS):
        s, t = _weighted(x, y, 1.0 / np.maximum(np.abs(y - s * x - t), floor))
    return s, t


def _biweight(x: _Values, y: _Values, s: float, t: float) -> tuple[float, float]:
    floor = 1e-6 * float(np.abs(y).mean())
    for _ in range(_STEPS):
        residual = np.abs(y - s * x - t)
        sigma = max(_MAD_TO_SIGMA * float(np.median(residual)), floor)
        weight = np.square(np.clip(1.0 - np.square(residual / (_TUKEY * sigma)), 0.0, None))
        before = s, t
        s, t = _weighted(x, y, weight)
        if np.allclose(before, (s, t), rtol=1e-9, atol=0.0):
            break
    return s, t


def _weighted(x: _Values, y: _Values, weight: _Values) -> tuple[float, float]:
    """(s, t) of the least weighted sum of (y - s x - t)^2."""
    total = float(weight.sum())
    mean_x, mean_y = float(weight @ x) / total, float(weight @ y) / total
    variance = float(weight @ np.square(x - mean_x))
    s = float(weight @ ((x - mean_x) * (y - mean_y))) / variance if variance > 0 else 0.0
    return s, mean_y - s * mean_x
