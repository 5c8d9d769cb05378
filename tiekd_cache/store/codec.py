"""Metres to stored integers and back: rounding to a fixed step, 2-D prediction, and the digest of a frame.

    depth [h,w] m --quantise--> code [h,w] uint16 --lorenzo_encode--> residual [h,w] uint16 --> compressor

Every function is plain numpy, exact in wrapping 16-bit arithmetic, and its inverse stands beside it. Reading a frame
runs the compiled form of two of them, see `kernels.py`.
"""

from __future__ import annotations

import math

import google_crc32c
import numpy as np
import numpy.typing as npt

from tiekd_cache.errors import RangeError, ShapeError

Depth = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint16]

MISSING_CODE = 65535
"""Code of a pixel without depth. It is -1 in wrapping arithmetic, so beside small codes it costs what 0 would."""

MAX_CODE = MISSING_CODE - 1
"""Largest code of a depth: with a step of 1/64 m, 1023.97 m."""

_BLOCK_ROWS = 32

DEFAULT_STEP = 1 / 64
"""Metres: the coarsest power of two whose rounding is lost in a DPM of sigma 0.5 m, see docs/store_format.md."""

FINE_STEP = 11 / 8192
"""Metres: reaches 88 m, and keeps the KL between normalised Gaussians of sigma 0.5 m, before and after, under 1e-6."""

NEAR_RANGE_M, NEAR_STEP = 16.0, 1 / 512
"""Metres: indoor ranges go with a DPM that is as much narrower (NYU: 10 m, sigma 0.15 m)."""


def default_step(max_depth: float) -> float:
    """The step, metres, of a store whose depths end at `max_depth` metres."""
    return NEAR_STEP if max_depth <= NEAR_RANGE_M else DEFAULT_STEP


def check_range(step: float, min_depth: float, max_depth: float) -> None:
    """Raise RangeError unless every depth between the limits has a code of its own.

    Args:
        step: metres, of at most 8 significant bits (a power of two, 5/4096, 11/8192, …), so that code * step is exact
            in float32 and the error bound holds to the bit.
        min_depth: metres, > 0: zero means missing.
        max_depth: metres, > min_depth, at most 65534 steps.
    """
    if not (math.isfinite(step) and step > 0):
        raise RangeError(f"Store step {step} m is none: it must be positive and finite, e.g. 1/64 m (0.015625)")
    if not (math.frexp(step)[0] * 256).is_integer():
        raise RangeError(
            f"Store step {step} m has more than 8 significant bits, so that its multiples are not exact in float32: use"
            " 1/64 m (0.015625), 11/8192 m, or another power of two"
        )
    if not (0 < min_depth < max_depth and math.isfinite(max_depth)):
        raise RangeError(
            f"Depth range {min_depth:g} .. {max_depth:g} m is not one: the minimum must be above 0 m (0 means missing)"
            " and below the maximum"
        )
    if max_depth / step > MAX_CODE:
        raise RangeError(
            f"Maximum depth {max_depth:g} m does not fit 16 bits at a step of {step:g} m: the limit is"
            f" {MAX_CODE * step:g} m; lower the maximum or take a larger step"
        )


def check_map(depth: Depth) -> None:
    """Raise ShapeError unless this is a float32 array of two or more dimensions that is not empty."""
    if depth.dtype != np.float32 or depth.ndim < 2 or depth.size == 0:
        raise ShapeError(f"Depth must be float32 [...,h,w] and not empty, not {depth.dtype} {list(depth.shape)}")


def find_invalid(depth: Depth, min_depth: float, max_depth: float) -> tuple[tuple[int, ...], str] | None:
    """The first value that cannot be stored, as (its index, what is wrong with it in words); None where all can."""
    bad = ~((depth == 0) | ((depth >= min_depth) & (depth <= max_depth)))
    if not bad.any():
        return None
    index = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), depth.shape))
    value = float(depth[index])
    if math.isnan(value):
        return index, "is NaN"
    if not math.isfinite(value):
        return index, "is infinite"
    if value < 0:
        return index, f"{value:.7g} m is negative"
    if value > max_depth:
        return index, f"{value:.7g} m exceeds the limit of {max_depth:g} m"
    return index, f"{value:.7g} m lies below the limit of {min_depth:g} m (only 0 itself means missing)"


def quantise(depth: Depth, step: float, min_depth: float, max_depth: float) -> Codes:
    """The code of each pixel, rint(depth / step); 65535 where depth is 0 (missing).

    Args:
        depth: [...,h,w] float32, metres; 0 = missing.
        step: metres; `dequantise` is at most half of it away from `depth`.
        min_depth: smallest depth that may occur, metres.
        max_depth: largest depth that may occur, metres.
    Returns:
        [...,h,w] uint16, contiguous.
    Raises:
        ShapeError: depth is no float32 array of two or more dimensions, or is empty.
        RangeError: a value is NaN, infinite, negative or outside the limits, or the limits make no sense.
    """
    check_map(depth)
    check_range(step, min_depth, max_depth)
    # 1 / step is exact in float32 where step is a power of two; elsewhere the product would round wrongly near ties
    exact = np.float32 if math.frexp(step)[0] == 0.5 else np.float64
    scale = exact(1.0 / step)
    if depth.min() >= min_depth and depth.max() <= max_depth:  # false where there is a NaN
        scaled = np.multiply(depth, scale, order="C", dtype=exact)
        return np.rint(scaled, out=scaled).astype(np.uint16)
    invalid = find_invalid(depth, min_depth, max_depth)
    if invalid is not None:
        raise RangeError(f"Depth at index {list(invalid[0])} {invalid[1]}")
    scaled = np.multiply(depth, scale, order="C", dtype=exact)
    codes = np.rint(scaled, out=scaled).astype(np.uint16)
    codes[depth == 0] = MISSING_CODE
    return codes


def dequantise(codes: Codes, step: float, min_depth: float, out: Depth | None = None) -> Depth:
    """Metres of each code: max(code * step, min_depth), and 0.0 where the code says missing.

    A response at the minimum may have code 0; the maximum keeps it from being mistaken for a missing pixel, and
    brings it nearer to what it was.

    Args:
        codes: [...,h,w] uint16.
        step: metres.
        min_depth: metres.
        out: [...,h,w] float32 to fill; a new array where None.
    Returns:
        [...,h,w] float32, metres; 0 = missing.
    """
    depth = np.multiply(codes, np.float32(step), out=out, dtype=np.float32)
    if codes.size and float(codes.min()) * step < min_depth:
        np.maximum(depth, np.float32(min_depth), out=depth)
    if codes.size and codes.max() == MISSING_CODE:
        depth[codes == MISSING_CODE] = 0.0
    return depth


def lorenzo_encode(codes: Codes) -> Codes:
    """What the neighbours do not predict: zigzagged code[i,j] - code[i-1,j] - code[i,j-1] + code[i-1,j-1].

    Codes outside the map count as 0. All arithmetic wraps at 16 bits, so nothing is lost whatever the codes are.

    Args:
        codes: [...,h,w] uint16.
    Returns:
        [...,h,w] uint16: 0, 1, 2, 3, 4 stand for 0, -1, 1, -2, 2.
    Source: Ibarria, Lindstrom, Rossignac, Szymczak, "Out-of-core compression and decompression of large
        n-dimensional scalar fields", Computer Graphics Forum 22(3), 2003 (the Lorenzo predictor).
    """
    rows = np.empty(codes.shape, np.uint16)
    rows[..., :1, :] = codes[..., :1, :]
    np.subtract(codes[..., 1:, :], codes[..., :-1, :], out=rows[..., 1:, :])
    residual = np.empty_like(rows)
    residual[..., :1] = rows[..., :1]
    np.subtract(rows[..., 1:], rows[..., :-1], out=residual[..., 1:])
    sign = np.right_shift(residual, 15, out=rows)
    np.negative(sign, out=sign)
    np.left_shift(residual, 1, out=residual)
    return np.bitwise_xor(residual, sign, out=residual)


def lorenzo_decode(residual: Codes) -> Codes:
    """The codes [...,h,w] uint16 that `lorenzo_encode` was given."""
    codes = np.array(residual, dtype=np.uint16, order="C", copy=True)
    for frame in codes.reshape(-1, *codes.shape[-2:]):
        lorenzo_decode_inplace(frame)
    return codes


def lorenzo_decode_inplace(residual: Codes) -> None:
    """Turn one frame's residual into its codes: the inverse zigzag, then running sums along rows and down columns.

    The definition of what `kernels.py` compiles, and its stand-in. In place (fresh pages cost more than the sums), in
    blocks of rows that stay in the cache, and down the columns by adding whole rows: a third of what
    `np.add.accumulate` takes there.

    Args:
        residual: [h,w] uint16, contiguous; overwritten with the codes.
    """
    above = np.zeros(residual.shape[1], np.uint16)
    for start in range(0, residual.shape[0], _BLOCK_ROWS):
        rows = residual[start : start + _BLOCK_ROWS]
        sign = np.bitwise_and(rows, 1)
        np.negative(sign, out=sign)
        np.right_shift(rows, 1, out=rows)
        np.bitwise_xor(rows, sign, out=rows)
        np.add.accumulate(rows, axis=1, dtype=np.uint16, out=rows)
        for row in rows:
            above = np.add(row, above, out=row)


def frame_digest(codes: Codes) -> int:
    """crc32c of a frame's codes [h,w] as little-endian bytes in C order: what a read must reproduce."""
    return int(google_crc32c.value(np.ascontiguousarray(codes, dtype="<u2")))
