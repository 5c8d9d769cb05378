"""A small picture of a depth map, as the bytes of a PNG."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from tiekd_cache.errors import RangeError
from tiekd_cache.pictures.colours import NEAREST_M, Map, depth_to_colour, shrink


@dataclass(frozen=True)
class Thumbnail:
    """A PNG with its size in pixels."""

    png: bytes
    width: int
    height: int


def depth_thumbnail(depth: Map, max_depth: float, *, width_px: int = 240) -> Thumbnail:
    """A depth map [H,W] in the colours of `depth_to_colour`, black where there is no value.

    Args:
        depth: metres, 0 = missing.
        max_depth: far end of the colours, metres, > 0.
        width_px: the picture's width; its height keeps the map's proportions, up to three times the width.
    Raises:
        RangeError: max_depth is not > 0.
        ShapeError: depth is not [H,W].
    """
    if not max_depth > 0:
        raise RangeError(f"Depth colours end at {max_depth} m: must be > 0.")
    height = min(max(1, round(depth.shape[0] * width_px / depth.shape[1])), 3 * width_px)
    small = shrink(depth, np.isfinite(depth) & (depth > 0), (width_px, height))
    colours = depth_to_colour(small, max_depth, min_depth=min(NEAREST_M, max_depth / 10))
    png = cv2.imencode(".png", cv2.cvtColor(colours, cv2.COLOR_RGB2BGR))[1].tobytes()
    return Thumbnail(png, width_px, height)
