"""Depth and relative error as colours.

Depth is coloured by its logarithm with matplotlib's `plasma`, near = bright. Equal steps of colour are equal *ratios*
of distance, which is how relative error is counted; and the map has no black, which therefore can mean "no value".
"""

from __future__ import annotations

from typing import Any, Literal

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt

from tiekd_cache.errors import RangeError, ShapeError

Picture = npt.NDArray[np.uint8]
Map = npt.NDArray[np.floating[Any]]
Missing = Literal["black", "white"]

NEAREST_M = 2.0
WORST_ABS_REL = 0.5
DEPTH_COLOURS = "plasma_r"
ERROR_COLOURS = "viridis"


def abs_rel_error(prediction: Map, truth: Map) -> npt.NDArray[np.float32]:
    """[H,W] float32 |prediction - truth| / truth; NaN where truth is 0 (missing). Both in metres.

    Raises:
        ShapeError: the two maps differ in shape.
    """
    if prediction.shape != truth.shape:
        raise ShapeError(f"Prediction {prediction.shape} and truth {truth.shape} differ. Pass maps of one frame.")
    known = truth > 0
    error = np.abs(prediction - truth) / np.where(known, truth, 1)
    return np.where(known, error, np.nan).astype(np.float32)


def depth_to_colour(
    depth: Map, max_depth: float, *, min_depth: float = NEAREST_M, missing: Missing = "black"
) -> Picture:
    """[H,W,3] uint8 RGB of a depth map [H,W] in metres: logarithmic, near = bright yellow, far = dark blue.

    Args:
        depth: metres; 0, negative or not finite = missing. Values outside the range take its end's colour.
        max_depth: metres, > min_depth.
        min_depth: metres, > 0.
        missing: colour of pixels without a value.
    Raises:
        RangeError: not 0 < min_depth < max_depth.
        ShapeError: depth is not [H,W].
    """
    if not 0 < min_depth < max_depth:
        raise RangeError(f"Depth colours from {min_depth} m to {max_depth} m: must be 0 < min_depth < max_depth.")
    known = np.isfinite(depth) & (depth > 0)
    ratio = np.clip(np.where(known, depth, max_depth), min_depth, max_depth) / min_depth
    return _colours(np.log(ratio) / np.log(max_depth / min_depth), known, DEPTH_COLOURS, missing)


def error_to_colour(error_abs_rel: Map, *, worst: float = WORST_ABS_REL, missing: Missing = "black") -> Picture:
    """[H,W,3] uint8 RGB of relative errors [H,W]: 0 = dark violet, `worst` and more = yellow; NaN = missing.

    Raises:
        RangeError: worst is not > 0.
        ShapeError: the map is not [H,W].
    """
    if not worst > 0:
        raise RangeError(f"Error colours end at {worst}: must be > 0.")
    known = np.isfinite(error_abs_rel)
    return _colours(np.where(known, error_abs_rel, 0) / worst, known, ERROR_COLOURS, missing)


def shrink(values: Map, known: npt.NDArray[np.bool_], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """A map at `size` (width, height): each pixel the mean of the known values it covers; NaN where there is none."""
    share = cv2.resize(known.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    total = cv2.resize(np.where(known, values, 0).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return np.where(share > 1e-6, total / np.maximum(share, 1e-6), np.nan).astype(np.float32)


def _colours(share: Map, known: npt.NDArray[np.bool_], name: str, missing: Missing) -> Picture:
    """Values 0..1 through a colour map, by its 256 entries."""
    if share.ndim != 2:
        raise ShapeError(f"Map of shape {share.shape} cannot be coloured: must be [H,W].")
    table = np.rint(matplotlib.colormaps[name](np.arange(256))[:, :3] * 255).astype(np.uint8)
    picture: Picture = table[np.clip(np.rint(share * 255), 0, 255).astype(np.int64)]
    picture[~known] = 0 if missing == "black" else 255
    return picture
