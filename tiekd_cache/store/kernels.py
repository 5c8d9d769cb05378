"""Prediction undone, maps resized: compiled where numba can be had, in numpy elsewhere; the same bits either way."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tiekd_cache.machine_code import load_compiled
from tiekd_cache.store.codec import (
    Codes,
    Depth,
    check_map,
    check_range,
    dequantise,
    lorenzo_decode_inplace,
    lorenzo_encode,
    quantise,
)

_BLOCK_ROWS = 32


@dataclass(frozen=True)
class Axis:
    """For each output position of an axis: two source positions, at most one apart, and their weights.

    Attributes:
        first, second: [n] uint64; second is first or first + 1.
        first_weight, second_weight: [n] float32.
    """

    first: npt.NDArray[np.uint64]
    second: npt.NDArray[np.uint64]
    first_weight: npt.NDArray[np.float32]
    second_weight: npt.NDArray[np.float32]


class Kernels(Protocol):
    """The loops in which writing and reading a frame spend their time.

    Attributes:
        fast_planes: whether splitting into bit planes and joining them is faster here than inside Blosc.
    """

    fast_planes: bool

    def encode(self, depth: Depth, step: float, min_depth: float, max_depth: float) -> tuple[Codes, Codes]:
        """Codes and residual of a frame [h,w] float32 metres; raises as `quantise`."""

    def join_planes(self, planes: npt.NDArray[np.uint8], block: int, result: Codes) -> None:
        """Fill result [n] with the integers whose bit planes, block by block, are in planes [2n].

        Args:
            planes: of every block of integers its 16 planes, one after the other.
            block: integers in a block; it and n are multiples of 8, the last block is what is left.
            result: the integers.
        """

    def decode(self, residual: Codes, depth: Depth, step: float, min_depth: float) -> None:
        """Turn a frame's residual [h,w], contiguous, into its codes in place, and fill depth [h,w] with metres."""

    def codes(self, residual: Codes) -> None:
        """Turn a frame's residual [h,w], contiguous, into its codes in place."""

    def interpolate(self, source: Depth, rows: Axis, columns: Axis, result: Depth) -> None:
        """Fill result [H,W] with source [h,w], columns blended first, all in float32."""

    def split_planes(self, integers: Codes, block: int) -> npt.NDArray[np.uint8]:
        """The inverse: planes [2n] of integers [n]."""

    def image(self, differences: npt.NDArray[np.uint8], image: npt.NDArray[np.uint8]) -> None:
        """Fill image [H,W,3] from planes [3,H,W] in which each pixel is less its left neighbour, modulo 256."""


class NumpyKernels:
    """The definition, and what is used where numba cannot be."""

    fast_planes = False

    def encode(self, depth: Depth, step: float, min_depth: float, max_depth: float) -> tuple[Codes, Codes]:
        """See Kernels."""
        codes = quantise(depth, step, min_depth, max_depth)
        return codes, lorenzo_encode(codes)

    def join_planes(self, planes: npt.NDArray[np.uint8], block: int, result: Codes) -> None:
        """See Kernels."""
        for start in range(0, len(result), block):
            integers = result[start : start + block]
            bits = np.unpackbits(planes[2 * start : 2 * (start + len(integers))].reshape(16, -1), 1, bitorder="little")
            integers[:] = np.packbits(bits, 0, bitorder="little").T.copy().view("<u2")[:, 0]

    def decode(self, residual: Codes, depth: Depth, step: float, min_depth: float) -> None:
        """See Kernels."""
        lorenzo_decode_inplace(residual)
        dequantise(residual, step, min_depth, out=depth)

    def codes(self, residual: Codes) -> None:
        """See Kernels."""
        lorenzo_decode_inplace(residual)

    def interpolate(self, source: Depth, rows: Axis, columns: Axis, result: Depth) -> None:
        """See Kernels."""
        # In blocks of rows: the temporaries stay in the cache, and fresh pages would cost more than the arithmetic.
        left, right = columns.first.astype(np.intp), columns.second.astype(np.intp)
        for start in range(0, len(result), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            first, second = rows.first[block].astype(np.intp), rows.second[block].astype(np.intp)
            near = source[first[0] : second[-1] + 1]
            wide = np.take(near, left, axis=1, mode="clip")  # near[:, i] would come back in Fortran order
            wide *= columns.first_weight
            other = np.take(near, right, axis=1, mode="clip")
            other *= columns.second_weight
            wide += other
            tall = np.take(wide, first - first[0], axis=0, out=result[block], mode="clip")
            tall *= rows.first_weight[block, None]
            below = np.take(wide, second - first[0], axis=0, mode="clip")
            below *= rows.second_weight[block, None]
            tall += below

    def split_planes(self, integers: Codes, block: int) -> npt.NDArray[np.uint8]:
        """See Kernels."""
        blocks = [integers[start : start + block].astype("<u2") for start in range(0, len(integers), block)]
        bits = [np.unpackbits(each.view(np.uint8), bitorder="little").reshape(-1, 16).T for each in blocks]
        return np.concatenate([np.packbits(each, 1, bitorder="little").reshape(-1) for each in bits])

    def image(self, differences: npt.NDArray[np.uint8], image: npt.NDArray[np.uint8]) -> None:
        """See Kernels."""
        image[...] = differences.cumsum(axis=2, dtype=np.uint8).transpose(1, 2, 0)


class CompiledKernels:
    """The same by numba; leaves Python's lock, so threads run side by side."""

    fast_planes = True

    def __init__(self, compiled: Any, planes: Any) -> None:
        self._compiled = compiled
        self._planes = planes

    def encode(self, depth: Depth, step: float, min_depth: float, max_depth: float) -> tuple[Codes, Codes]:
        """See Kernels."""
        check_map(depth)
        check_range(step, min_depth, max_depth)
        codes, residual = np.empty((2, *depth.shape), np.uint16)
        limits = np.float32(min_depth), np.float32(max_depth)
        if not self._compiled.encode_frame(np.ascontiguousarray(depth), 1 / step, *limits, codes, residual):
            quantise(depth, step, min_depth, max_depth)  # says which value cannot be stored
        return codes, residual

    def join_planes(self, planes: npt.NDArray[np.uint8], block: int, result: Codes) -> None:
        """See Kernels."""
        self._planes.join_planes(planes, block, result)

    def split_planes(self, integers: Codes, block: int) -> npt.NDArray[np.uint8]:
        """See Kernels."""
        planes = np.empty(2 * len(integers), np.uint8)
        self._planes.split_planes(integers, block, planes)
        return planes

    def decode(self, residual: Codes, depth: Depth, step: float, min_depth: float) -> None:
        """See Kernels."""
        self._compiled.decode_frame(residual, depth, np.float32(step), np.float32(min_depth))

    def codes(self, residual: Codes) -> None:
        """See Kernels."""
        self.decode(residual, np.empty(residual.shape, np.float32), 1.0, 1.0)

    def interpolate(self, source: Depth, rows: Axis, columns: Axis, result: Depth) -> None:
        """See Kernels."""
        r, c = rows, columns
        self._compiled.interpolate(
            source,
            *(r.first, r.second, r.first_weight, r.second_weight),
            *(c.first, c.second, c.first_weight, c.second_weight),
            result,
        )

    def image(self, differences: npt.NDArray[np.uint8], image: npt.NDArray[np.uint8]) -> None:
        """See Kernels."""
        self._compiled.sum_image(differences, image)


@cache
def kernels() -> Kernels:
    """The compiled loops; numpy's where numba cannot be had (`load_compiled`)."""
    modules = load_compiled("tiekd_cache.store.compiled", "tiekd_cache.store.compiled_planes")
    return NumpyKernels() if modules is None else CompiledKernels(*modules)
