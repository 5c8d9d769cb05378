"""The loops behind `fused_passes.NumbaPasses`, compiled by numba: rows of a tile, vectorised over its pixels.

Vectors need an exponential without a call: e^x = 2^n e^r with n whole and |r| <= ln(2) / 2, e^r by a polynomial, 2^n by
adding n to the exponent's bits. Its error is at most 2 units in the last place for -87 <= x <= 80; below it stays at
e^-87, 1.6e-38.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_LOG2_E = np.float32(1.4426950408889634)
# ln(2) in two parts, so that n * the first is exact
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_ROUND = np.float32(1.5 * 2**23)
"""Added to a small number it leaves the number, rounded, in the lowest bits."""
_LOWEST = np.float32(-87.0)
_C2, _C3, _C4 = np.float32(1 / 2), np.float32(1.6666665459e-1), np.float32(4.1665795894e-2)
_C5, _C6, _C7 = np.float32(8.3334519073e-3), np.float32(1.3981999507e-3), np.float32(1.9875691500e-4)
_ONE = np.float32(1)


def _scale(context: Any, factor: Any, rounded: Any) -> Any:
    """For numba: factor * 2^n, where the lowest bits of `rounded` are n."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        bits, power = (builder.bitcast(value, ir.IntType(32)) for value in values)
        return builder.bitcast(builder.add(bits, builder.shl(power, ir.IntType(32)(23))), ir.FloatType())

    return types.float32(types.float32, types.float32), generate


_scaled = intrinsic(_scale)


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _exp(x: Any) -> Any:
    x = _LOWEST if x < _LOWEST else x  # NaN stays
    rounded = x * _LOG2_E + _ROUND
    n = rounded - _ROUND
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = ((((_C7 * r + _C6) * r + _C5) * r + _C4) * r + _C3) * r + _C2
    return _scaled(p * (r * r) + r + _ONE, rounded)


def _moments(logits: Any, centers: Any, highest: Any, total: Any, weighted: Any) -> None:
    for j in range(logits.shape[1]):
        highest[j] = logits[0, j]
        total[j] = weighted[j] = np.float32(0)
    for k in range(1, logits.shape[0]):
        row = logits[k]
        for j in range(logits.shape[1]):
            highest[j] = row[j] if row[j] > highest[j] else highest[j]
    for k in range(logits.shape[0]):
        row, center = logits[k], centers[k]
        for j in range(logits.shape[1]):
            e = _exp(row[j] - highest[j])
            total[j] += e
            weighted[j] += e * center


def _slope(log_probability: Any, centers: Any, everywhere: Any, of_depth: Any) -> None:
    for k in range(log_probability.shape[0]):
        row, center = log_probability[k], centers[k]
        for j in range(log_probability.shape[1]):
            row[j] = _exp(row[j]) * (everywhere[j] + center * of_depth[j])


def _compile(function: Callable[..., Any], signature: Any) -> Callable[..., Any]:
    # products may be fused into sums; nothing is put into another order
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
    try:
        return numba.njit(signature, cache=True, **options)(function)  # type: ignore[no-any-return]
    except (OSError, RuntimeError, EOFError):  # no folder to keep it in, or a torn file there
        return numba.njit(signature, **options)(function)  # type: ignore[no-any-return]


_TILE, _ROW = types.float32[:, ::1], types.float32[::1]

moments = _compile(_moments, types.void(_TILE, _ROW, _ROW, _ROW, _ROW))
slope = _compile(_slope, types.void(_TILE, _ROW, _ROW, _ROW))
