"""A grid of frames: image | teacher | student | error, one row a frame, with the scales of its colours below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from tiekd_cache.errors import ShapeError
from tiekd_cache.pictures.colours import (
    DEPTH_COLOURS,
    ERROR_COLOURS,
    NEAREST_M,
    WORST_ABS_REL,
    Map,
    Picture,
    abs_rel_error,
    depth_to_colour,
    error_to_colour,
    shrink,
)
from tiekd_cache.pictures.figure_file import save_figure

_DPI = 100
_GAP_PX = 6
_CAPTION_PX = 20
_HEAD_PX = 32
_LEGEND_PX = 62
_INK = "#222222"


@dataclass(frozen=True)
class GridRow:
    """One frame of a picture grid.

    Attributes:
        frame_id: written above the row.
        image: [H,W,3] uint8 RGB.
        teacher_depth: [H,W] metres, 0 = missing.
        student_depth: [H,W] metres.
        gt_depth: [H,W] metres, 0 = missing: what the error is measured against; None = against the teacher.
    """

    frame_id: str
    image: Picture
    teacher_depth: Map
    student_depth: Map
    gt_depth: Map | None = None

    @property
    def error_abs_rel(self) -> npt.NDArray[np.float32]:
        """[H,W] the student's relative error, NaN where the reference has no value."""
        return abs_rel_error(self.student_depth, self.teacher_depth if self.gt_depth is None else self.gt_depth)


def picture_grid(rows: Sequence[GridRow], path: Path, *, max_depth: float = 80.0, width_px: int = 1560) -> Path:
    """Write a PNG with one row a frame, image | teacher | student | error, and the scales below; returns its path.

    Maps are shrunk by averaging the values that are there, so that sparse LiDAR points stay visible.

    Args:
        rows: at least one; the maps of a row have its image's height and width.
        path: the PNG; replaced atomically.
        max_depth: far end of the depth scale, metres, > 2.
        width_px: about the picture's width, >= 800.
    Raises:
        ShapeError: no rows, or a map that does not fit its image.
        RangeError: max_depth is too small.
        DataError: the file cannot be written.
    """
    if not rows:
        raise ShapeError("A picture grid needs at least one frame, got none.")
    panel_width = (max(width_px, 800) - 5 * _GAP_PX) // 4
    panels = [_panels(row, panel_width, max_depth) for row in rows]
    width = 4 * panel_width + 5 * _GAP_PX
    height = _HEAD_PX + _LEGEND_PX + sum(row[0].shape[0] + _CAPTION_PX + _GAP_PX for row in panels)
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    lefts = [_GAP_PX + column * (panel_width + _GAP_PX) for column in range(4)]
    for left, title in zip(lefts, ("image", "teacher", "student", "error of the student"), strict=True):
        _write(figure, left + panel_width / 2, height - _HEAD_PX / 2, title, 13, "center")
    top = height - _HEAD_PX
    for row, pictures in zip(rows, panels, strict=True):
        _write(figure, lefts[0], top - _CAPTION_PX / 2, row.frame_id, 9, "left")
        _write(figure, lefts[3], top - _CAPTION_PX / 2, _error_caption(row), 9, "left")
        bottom = top - _CAPTION_PX - pictures[0].shape[0]
        for left, picture in zip(lefts, pictures, strict=True):
            figure.figimage(picture, left, bottom, origin="upper")
        top = bottom - _GAP_PX
    _depth_scale(figure, lefts[1], 2 * panel_width + _GAP_PX, max_depth)
    _error_scale(figure, lefts[3], panel_width)
    _write(figure, lefts[0], _LEGEND_PX - 15, "black: no value", 10, "left")
    return save_figure(figure, path)


def _panels(row: GridRow, target_px: int, max_depth: float) -> tuple[Picture, Picture, Picture, Picture]:
    """The four pictures of a row, `target_px` wide."""
    height, width = row.image.shape[:2]
    maps = {"teacher_depth": row.teacher_depth, "student_depth": row.student_depth, "gt_depth": row.gt_depth}
    for name, values in maps.items():
        if values is not None and values.shape != (height, width):
            raise ShapeError(f"{name} {values.shape} of {row.frame_id} must be {(height, width)}, as its image.")
    size = (target_px, max(1, round(height * target_px / width)))
    image: Picture = np.asarray(cv2.resize(row.image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    teacher, student = (
        depth_to_colour(shrink(values, np.isfinite(values) & (values > 0), size), max_depth)
        for values in (row.teacher_depth, row.student_depth)
    )
    error = row.error_abs_rel
    return image, teacher, student, error_to_colour(shrink(error, np.isfinite(error), size))


def _error_caption(row: GridRow) -> str:
    error = row.error_abs_rel
    against = "teacher" if row.gt_depth is None else "ground truth"
    if not np.isfinite(error).any():
        return f"against {against}: no value"
    return f"against {against}: mean {100 * float(np.nanmean(error)):.1f} %"


def _write(figure: Figure, x: float, y: float, text: str, points: float, align: str) -> None:
    """Text at a place in pixels from the lower left corner."""
    width, height = (float(inches) * _DPI for inches in figure.get_size_inches())
    figure.text(x / width, y / height, text, fontsize=points, ha=align, va="center", color=_INK)


def _scale(
    figure: Figure, left: float, width: float, name: str, label: str, marks: Sequence[tuple[float, str]]
) -> None:
    """A horizontal colour bar at the foot of the figure, with marks (place 0..1, text)."""
    full_width, full_height = (float(inches) * _DPI for inches in figure.get_size_inches())
    place = (left / full_width, (_LEGEND_PX - 22) / full_height, width / full_width, 12 / full_height)
    axes = figure.add_axes(place)
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=name, aspect="auto", extent=(0, 1, 0, 1))
    axes.set_yticks([])
    axes.set_xticks([place for place, _ in marks], [text for _, text in marks])
    axes.tick_params(labelsize=9, length=2, pad=1, colors=_INK)
    axes.set_xlabel(label, fontsize=10, labelpad=1, color=_INK)
    labels = axes.get_xticklabels()
    labels[0].set_horizontalalignment("left")  # the ends' labels stay within their bar
    labels[-1].set_horizontalalignment("right")
    for spine in axes.spines.values():
        spine.set_visible(False)


def _depth_scale(figure: Figure, left: float, width: float, max_depth: float) -> None:
    depths = [depth for depth in (2, 3, 5, 10, 20, 40) if depth < 0.75 * max_depth] + [max_depth]
    marks = [(float(np.log(depth / NEAREST_M) / np.log(max_depth / NEAREST_M)), f"{depth:g}") for depth in depths]
    _scale(figure, left, width, DEPTH_COLOURS, "depth (m), logarithmic", marks)


def _error_scale(figure: Figure, left: float, width: float) -> None:
    marks = [(share / 5, f"{100 * WORST_ABS_REL * share / 5:.0f} %") for share in range(5)]
    marks.append((1.0, f"≥ {100 * WORST_ABS_REL:.0f} %"))
    _scale(figure, left, width, ERROR_COLOURS, "relative error |student − reference| / reference", marks)
