"""Sparse LiDAR depth -> a complete depth map, by classical means.

1. Visibility: the LiDAR stands beside the camera and sees behind things that hide the view from there. A measured pixel
   is dropped where pixels clearly nearer lie close by both on its left and on its right, in its own row or above.
   (Not below: on the road everything below is nearer.)
2. Interpolation: a plane's inverse depth is linear over the image. So inverse depth is interpolated linearly over the
   Delaunay triangulation of the measured pixels: planes come back exactly, from any sampling.
3. Outside of what was measured: above a column's highest measured pixel (of its neighbourhood) and below the
   triangulation the column continues with its last value, as a wall would; columns without any value take the nearest
   column's.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import median_filter
from scipy.spatial import Delaunay, QhullError

from tiekd_cache.errors import DataError

DepthMap = npt.NDArray[np.float32]
# Pixels stand on a grid, where Delaunay is ambiguous (any four corners of a rectangle lie on one circle) and slow.
# Sheared a little it is neither, and what is linear stays linear.
_SHEAR = 2.0**-7
_CHUNK = 1 << 19  # pixels of bounding boxes looked at in one go: bounds the memory


@dataclass(frozen=True)
class Densification:
    """Parameters of the method.

    Attributes:
        min_depth, max_depth: metres; measurements and results are clipped to them.
        visibility_tolerance: a pixel counts as clearly nearer from this relative excess of inverse depth on.
        visibility_rows: how far above a pixel nearer ones hide it, pixels.
        visibility_columns: how far left and right, pixels.
        field_columns: how far left and right the highest measured pixel of a column's neighbourhood is sought, pixels.
        extension_columns: how far left and right the median of what is continued upwards reaches, pixels.
        min_points: fewer measured pixels than this are refused.
    """

    min_depth: float = 1e-3
    max_depth: float = 80.0
    visibility_tolerance: float = 0.15
    visibility_rows: int = 6
    visibility_columns: int = 6
    field_columns: int = 12
    extension_columns: int = 24
    min_points: int = 100


def densify(sparse: DepthMap, settings: Densification, where: str) -> DepthMap:
    """A complete map: [H,W] float32, metres, within [min_depth, max_depth].

    Args:
        sparse: [H,W] float32, metres, 0 = no measurement.
        settings: parameters.
        where: the frame, for errors.
    Raises:
        DataError: negative or not finite depths; too few measured pixels, or all on one line.
    """
    if not np.isfinite(sparse).all() or (sparse < 0).any():
        raise DataError(
            f"LiDAR depth of {where} has negative or not finite values; metres > 0, or 0 for none, are asked for."
        )
    measured = sparse > 0
    count = int(measured.sum())
    if count < settings.min_points:
        raise DataError(
            f"LiDAR depth of {where} has {count} measured pixels; at least {settings.min_points} are needed for a "
            "complete map. Leave the frame out of the split."
        )
    inverse = np.zeros(sparse.shape, np.float32)
    inverse[measured] = 1.0 / np.clip(sparse[measured], settings.min_depth, settings.max_depth)
    inverse[hidden(inverse, settings)] = 0.0
    filled = _interpolate(inverse, where)
    filled = _extend(filled, _field_top(inverse, settings.field_columns), settings.extension_columns)
    return np.clip(1.0 / filled, settings.min_depth, settings.max_depth).astype(np.float32)


def hidden(inverse: DepthMap, settings: Densification) -> npt.NDArray[np.bool_]:
    """[H,W]: measured pixels that the camera cannot see, since clearly nearer ones enclose them on both sides.

    Args:
        inverse: [H,W] float32, 1/m, 0 = no measurement.
        settings: parameters.
    """
    rows, columns = settings.visibility_rows, settings.visibility_columns
    window = np.ones((rows + 1, columns + 1), np.uint8)
    left = cv2.dilate(inverse, window, anchor=(columns, rows))
    right = cv2.dilate(inverse, window, anchor=(0, rows))
    enclosed: npt.NDArray[np.bool_] = np.minimum(left, right) > inverse * (1.0 + settings.visibility_tolerance)
    return (inverse > 0) & enclosed


def _interpolate(inverse: DepthMap, where: str) -> npt.NDArray[np.float64]:
    """[H,W]: linear over the Delaunay triangulation of the pixels > 0; 0 outside of it."""
    v, u = np.nonzero(inverse)
    try:
        triangles = Delaunay(np.stack([u + _SHEAR * v, v], axis=1)).simplices
    except QhullError as error:
        raise DataError(
            f"LiDAR depth of {where} has its {len(u)} visible pixels on one line; no surface can be laid through them."
        ) from error
    filled = inverse.astype(np.float64)
    x, y = u[triangles].astype(np.int64), v[triangles].astype(np.int64)  # [N,3]
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    larger = np.abs(area) > 1  # a triangle of grid points with half a pixel's area holds no further grid point
    x, y, area, triangles = x[larger], y[larger], area[larger], triangles[larger]
    values = inverse[v, u].astype(np.float64)[triangles]
    boxes = np.cumsum((np.ptp(x, axis=1) + 1) * (np.ptp(y, axis=1) + 1)) // _CHUNK
    for chunk in np.split(np.arange(len(area)), np.flatnonzero(np.diff(boxes)) + 1):
        _rasterise(filled, x[chunk], y[chunk], area[chunk], values[chunk])
    return filled


def _rasterise(
    filled: npt.NDArray[np.float64],
    x: npt.NDArray[np.int64],
    y: npt.NDArray[np.int64],
    area: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
) -> None:
    """Write the linear interpolant of each triangle (corners x, y [N,3], twice its signed area) to its pixels.

    Walks each triangle's bounding box; whole numbers decide what lies inside, so no pixel is missed between two.
    """
    left, top, width = x.min(axis=1), y.min(axis=1), np.ptp(x, axis=1) + 1
    sizes = width * (np.ptp(y, axis=1) + 1)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    step = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    u, v = left[owner] + step % width[owner], top[owner] + step // width[owner]
    weights = []  # of each corner: the area of the triangle that the pixel makes with the other two
    for a, b in ((1, 2), (2, 0), (0, 1)):
        dx, dy = x[:, b] - x[:, a], y[:, b] - y[:, a]
        weights.append(np.sign(area)[owner] * (dx[owner] * (v - y[owner, a]) - dy[owner] * (u - x[owner, a])))
    inside = (weights[0] >= 0) & (weights[1] >= 0) & (weights[2] >= 0)
    owner, u, v = owner[inside], u[inside], v[inside]
    total = sum(weight[inside] * values[owner, corner] for corner, weight in enumerate(weights))
    filled[v, u] = total / np.abs(area[owner])


def _field_top(inverse: DepthMap, columns: int) -> npt.NDArray[np.int64]:
    """[W]: the first measured row of each column's neighbourhood; H where nothing is measured there."""
    measured = inverse > 0
    first = np.where(measured.any(axis=0), measured.argmax(axis=0), inverse.shape[0]).astype(np.float32)
    window = np.ones((1, 2 * columns + 1), np.uint8)
    return np.asarray(cv2.erode(first[None], window)[0], np.int64)


def _extend(filled: npt.NDArray[np.float64], top: npt.NDArray[np.int64], columns: int) -> npt.NDArray[np.float64]:
    """Complete the map: empty columns copy the nearest one, each goes on above `top` and below its last value.

    Above, the median over the neighbouring columns goes on, so that a thin thing does not become a pillar.
    """
    height, width = filled.shape
    rows, every = np.arange(height)[:, None], np.arange(width)
    known = (filled > 0) & (rows >= top)
    full = np.flatnonzero(known.any(axis=0))
    right = full[np.clip(np.searchsorted(full, every), 0, len(full) - 1)]
    left = full[np.clip(np.searchsorted(full, every, side="right") - 1, 0, len(full) - 1)]
    column = np.where(np.abs(every - left) <= np.abs(right - every), left, right)
    first = known.argmax(axis=0)[column]
    last = height - 1 - known[::-1].argmax(axis=0)[column]
    above = median_filter(filled[first, column], size=2 * columns + 1, mode="nearest")
    below = filled[np.clip(rows, first, last), column]
    extended: npt.NDArray[np.float64] = np.where(rows < first, above, below)
    return extended
