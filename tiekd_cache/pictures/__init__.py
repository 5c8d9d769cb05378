"""Pictures for people: depth and error in colour, a grid of frames with its scales, a training run's loss curve."""

from __future__ import annotations

from tiekd_cache.pictures.colours import abs_rel_error, depth_to_colour, error_to_colour
from tiekd_cache.pictures.grid import GridRow, picture_grid
from tiekd_cache.pictures.loss_curve import loss_curve
from tiekd_cache.pictures.thumbnail import Thumbnail, depth_thumbnail

__all__ = [
    "GridRow",
    "Thumbnail",
    "abs_rel_error",
    "depth_thumbnail",
    "depth_to_colour",
    "error_to_colour",
    "loss_curve",
    "picture_grid",
]
