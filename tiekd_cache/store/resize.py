"""A teacher's last step, replayed on reading: bilinear resizing from its own resolution to the image's.

No torch, and equal to `torch.nn.functional.interpolate` on the CPU to 1e-4 m: the source coordinates are
rounded to float32 where torch rounds them (left in float64 they land elsewhere, by up to 1.1 mm of depth).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tiekd_cache.store.codec import Depth
from tiekd_cache.store.kernels import Axis, kernels


@lru_cache(maxsize=64)
def _axis(source: int, target: int, align_corners: bool) -> Axis:
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
    return Axis(first.astype(np.uint64), second.astype(np.uint64), np.float32(1) - second_weight, second_weight)


def resize_bilinear(depth: Depth, size: tuple[int, int], align_corners: bool, out: Depth | None = None) -> Depth:
    """The map at another size, each pixel a convex combination of four, so the stored error bound carries over.

    A pixel is missing (0.0) if any source pixel that contributes to it with a weight above zero is missing: a
    missing pixel is no measurement of 0 m, and blending it would pull valid depths towards the camera.

    Args:
        depth: [h,w] float32, metres; 0 = missing.
        size: (H, W) of the result, pixels.
        align_corners: as in `torch.nn.functional.interpolate`.
        out: [H,W] float32, contiguous, to fill; a new array where None.
    Returns:
        [H,W] float32, metres; 0 = missing.
    """
    resized = np.empty(size, np.float32) if out is None else out
    if depth.shape == size:
        resized[:] = depth
        return resized
    depth = np.ascontiguousarray(depth)
    rows = _axis(depth.shape[0], size[0], align_corners)
    columns = _axis(depth.shape[1], size[1], align_corners)
    kernels().interpolate(depth, rows, columns, resized)
    if depth.min() <= 0:
        touched = np.empty(size, np.float32)
        kernels().interpolate((depth == 0).astype(np.float32), rows, columns, touched)
        resized[touched > 0] = 0.0
    return resized
