"""A teacher's last step, replayed on reading: bilinear resizing from its own resolution to the image's.

numpy only, and equal to `torch.nn.functional.interpolate` on the CPU to 1e-4 m: the source coordinates are
rounded to float32 where torch rounds them (left in float64 they land elsewhere, by up to 1.1 mm of depth).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tiekd_cache.store.codec import Depth

_BLOCK_ROWS = 32


@dataclass(frozen=True)
class _Axis:
    """For each output position of an axis: two source positions and their weights."""

    first: npt.NDArray[np.intp]
    second: npt.NDArray[np.intp]
    first_weight: npt.NDArray[np.float32]
    second_weight: npt.NDArray[np.float32]


@lru_cache(maxsize=64)
def _axis(source: int, target: int, align_corners: bool) -> _Axis:
    output = np.arange(target, dtype=np.float32)
    if align_corners:
        scale = np.float32(source - 1) / np.float32(target - 1) if target > 1 else np.float32(0)
        position = scale * output
    else:
        # scale * (output + 0.5) - 0.5 is rounded once: torch's compiler fuses it on every CPU that can (AVX2, ARM).
        # A product of two float32 is exact in float64.
        centre = np.float64(np.float32(source) / np.float32(target)) * (output.astype(np.float64) + 0.5)
        position = np.maximum((centre - 0.5).astype(np.float32), np.float32(0))
    first = np.minimum(position.astype(np.intp), source - 1)
    second = np.minimum(first + 1, source - 1)
    second_weight = np.minimum(position - first.astype(np.float32), np.float32(1))
    return _Axis(first, second, np.float32(1) - second_weight, second_weight)


def _interpolate(values: Depth, rows: _Axis, columns: _Axis) -> Depth:
    # In blocks of rows: the temporaries stay in the cache, and fresh pages would cost more than the arithmetic.
    result = np.empty((len(rows.first), len(columns.first)), np.float32)
    for start in range(0, len(result), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        first, second = rows.first[block], rows.second[block]
        source = values[first[0] : second[-1] + 1]
        wide = np.take(source, columns.first, axis=1, mode="clip")  # source[:, i] would come back in Fortran order
        wide *= columns.first_weight
        right = np.take(source, columns.second, axis=1, mode="clip")
        right *= columns.second_weight
        wide += right
        tall = np.take(wide, first - first[0], axis=0, out=result[block], mode="clip")
        tall *= rows.first_weight[block, None]
        below = np.take(wide, second - first[0], axis=0, mode="clip")
        below *= rows.second_weight[block, None]
        tall += below
    return result


def resize_bilinear(depth: Depth, size: tuple[int, int], align_corners: bool) -> Depth:
    """The map at another size, each pixel a convex combination of four, so the stored error bound carries over.

    A pixel is missing (0.0) if any source pixel that contributes to it with a weight above zero is missing: a
    missing pixel is no measurement of 0 m, and blending it would pull valid depths towards the camera.

    Args:
        depth: [h,w] float32, metres; 0 = missing.
        size: (H, W) of the result, pixels.
        align_corners: as in `torch.nn.functional.interpolate`.
    Returns:
        [H,W] float32, metres; 0 = missing.
    """
    if depth.shape == size:
        return depth
    rows = _axis(depth.shape[0], size[0], align_corners)
    columns = _axis(depth.shape[1], size[1], align_corners)
    resized = _interpolate(depth, rows, columns)
    missing = depth == 0
    if missing.any():
        resized[_interpolate(missing.astype(np.float32), rows, columns) > 0] = 0.0
    return resized
