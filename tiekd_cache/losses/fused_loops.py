"""The loops of `fused_compiled`, compiled by numba; the formulas are those of `fused_torch`, in the same order.

A tile is worked through in blocks of pixels that stay in the processor's nearest cache. Loops over pixels become
vector instructions; for that exponential and logarithm are polynomials, exact to the last two bits of float32. NaN
stays NaN, so that a training step that went wrong shows.

`_any_order` lets a sum be taken in any order, which vectors need; the polynomials' range reduction must not have it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tiekd_cache.dpm import DENSITY_FLOOR, FLOORED_SCORE
from tiekd_cache.losses.dpm_kl import EPSILON
from tiekd_cache.losses.fused_torch import SUPPORT_SIGMAS
from tiekd_cache.machine_code import compile_kept

_BLOCK = 128
"""Pixels: 131 kB of 257 bins."""

_f = np.float32
_i = np.int32
_ZERO, _HALF, _ONE = _f(0), _f(0.5), _f(1)
_INFINITY = _f(np.inf)
_FLOOR, _FLOORED, _EPSILON, _SUPPORT = _f(DENSITY_FLOOR), _f(FLOORED_SCORE), _f(EPSILON), _f(SUPPORT_SIGMAS)
_ROOT_2PI = math.sqrt(2 * math.pi)
# log 2 in two parts, the first short enough that its multiples are exact; a number whose addition rounds to integers
_LOG2_E, _LOG2_HIGH, _LOG2_LOW, _ROUNDER = _f(1 / math.log(2)), _f(0.693359375), _f(-2.12194440e-4), _f(1.5 * 2**23)
_LEAST, _UNDERFLOW = _f(-87), _f(-104)  # exp(-87) is all but the least normal number; 0 below -104
_ROOT_HALF = _f(math.sqrt(0.5))
_SHIFT, _MANTISSA, _EXPONENT_OF_HALF, _BIAS = _i(23), _i(0x7FFFFF), _i(0x3F000000), _i(126)
# Minimax polynomials of the Cephes library (S. L. Moshier): exp(x) - 1 - x, and log(1 + x) - x + x^2 / 2.
_E0, _E1, _E2, _E3, _E4, _E5 = (
    _f(c) for c in (
        1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1,
    )
)  # fmt: skip
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = (
    _f(c) for c in (
        7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
        2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
    )
)  # fmt: skip

_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _loop(*fastmath: str) -> _Decorator:
    return numba.njit(nogil=True, error_model="numpy", fastmath={"contract", *fastmath})  # type: ignore[no-any-return]


_exact, _any_order, _any_order_finite = _loop(), _loop("reassoc"), _loop("reassoc", "nnan", "nsz")


@intrinsic  # type: ignore[untyped-decorator]
def _bits(context: Any, number: Any) -> Any:
    """A float32's bits as int32."""
    return types.int32(types.float32), lambda context, builder, signature, given: builder.bitcast(
        given[0], ir.IntType(32)
    )


@intrinsic  # type: ignore[untyped-decorator]
def _number(context: Any, bits: Any) -> Any:
    """The inverse."""
    return types.float32(types.int32), lambda context, builder, signature, given: builder.bitcast(
        given[0], ir.FloatType()
    )


@_exact
def exp(x: Any) -> Any:
    """exp(x) for x <= 88."""
    inside = _LEAST if x < _LEAST else x
    shifted = inside * _LOG2_E + _ROUNDER
    power = shifted - _ROUNDER
    rest = inside - power * _LOG2_HIGH
    rest = rest - power * _LOG2_LOW
    series = ((((_E0 * rest + _E1) * rest + _E2) * rest + _E3) * rest + _E4) * rest + _E5
    series = series * rest * rest + rest + _ONE
    result = _number(types.int32(_bits(series) + (_bits(shifted) << _SHIFT)))
    result = _ZERO if x < _UNDERFLOW else result
    return result if x == x else x


@_exact
def log(x: Any) -> Any:
    """log(x) for normal numbers x > 0; a finite number for 0."""
    bits = _bits(x)
    power = types.float32((bits >> _SHIFT) - _BIAS)
    fraction = _number(types.int32((bits & _MANTISSA) | _EXPONENT_OF_HALF))
    small = fraction < _ROOT_HALF
    power = power - _ONE if small else power
    rest = (fraction + fraction if small else fraction) - _ONE
    square = rest * rest
    series = ((((_L0 * rest + _L1) * rest + _L2) * rest + _L3) * rest + _L4) * rest + _L5
    series = ((series * rest + _L6) * rest + _L7) * rest + _L8
    series = series * rest * square + power * _LOG2_LOW - _HALF * square
    result = rest + series + power * _LOG2_HIGH
    return result if x == x else x


@_exact
def _first_at_least(centers: Any, depth: Any) -> Any:
    low, high = 0, len(centers)
    while low < high:
        middle = (low + high) >> 1
        if centers[middle] < depth:
            low = middle + 1
        else:
            high = middle
    return low


@_exact
def _support(centers: Any, depth: Any, width: Any, released: Any) -> Any:
    """(first, count) of the bins in which the DPM is not zero, and one more on each side; see `_reach`."""
    last = len(centers) - 1
    if released:
        reach = width * _f(math.sqrt(max(-2 * math.log(DENSITY_FLOOR * _ROOT_2PI * width), 0.0)))
    else:
        above = min(max(_first_at_least(centers, depth), 1), last)
        nearest = min(abs(centers[above] - depth), abs(centers[above - 1] - depth))
        reach = _f(math.sqrt(nearest * nearest + (_SUPPORT * width) ** 2))
    first = max(_first_at_least(centers, depth - reach) - 1, 0)
    return first, min(_first_at_least(centers, depth + reach), last) - first + 1


@_any_order_finite
def _fill_dpm(centers: Any, depth: Any, width: Any, released: Any, dpm: Any) -> None:
    """The DPM in the bins of the support, [n] of these centres."""
    steepness, amplitude = -_HALF / (width * width), _f(1 / _ROOT_2PI) / width
    for j in range(len(dpm)):
        distance = centers[j] - depth
        dpm[j] = distance * distance * steepness
    if released:
        for j in range(len(dpm)):
            density = exp(dpm[j]) * amplitude
            dpm[j] = _FLOORED if density < _FLOOR else density
    highest = -_INFINITY
    for j in range(len(dpm)):
        highest = dpm[j] if dpm[j] > highest else highest
    total = _ZERO
    for j in range(len(dpm)):
        share = exp(dpm[j] - highest)
        dpm[j] = share
        total += share
    for j in range(len(dpm)):
        dpm[j] /= total


@_any_order
def _kl(teacher: Any, log_student: Any, released: Any) -> Any:
    total = _ZERO
    if released:
        for j in range(len(teacher)):
            student = exp(log_student[j])
            term = teacher[j] * log(teacher[j] / (student + _EPSILON) + _EPSILON)
            total += _ZERO if student == _ZERO else term
    else:
        for j in range(len(teacher)):
            total += teacher[j] * (log(teacher[j]) - log_student[j])
    return total


@_any_order
def _kl_slopes(teacher: Any, student: Any, upstream: Any, released: Any, beside: Any) -> Any:
    """e, and s in `beside`, such that d KL / d logits, times upstream, is p_k * e, plus s at the support's bins."""
    if not released:
        for j in range(len(teacher)):
            beside[j] = -teacher[j] * upstream
        return upstream
    total = _ZERO
    for j in range(len(teacher)):
        t, shifted = teacher[j], student[j] + _EPSILON
        slope = student[j] * t * t / ((t + _EPSILON * shifted) * shifted) * upstream
        beside[j] = -slope
        total += slope
    return total


@_exact
def _softmax_sums(logits: Any, start: Any, centers: Any, highest: Any, total: Any, weighted: Any) -> None:
    total[:], weighted[:] = _ZERO, _ZERO
    for k in range(len(centers)):
        row, center = logits[k, start : start + len(highest)], centers[k]
        for p in range(len(highest)):
            share = exp(row[p] - highest[p])
            total[p] += share
            weighted[p] += share * center


def _terms(
    logits: Any, highest: Any, centers: Any, sigma: Any, sigma_share: Any, released: Any,
    teacher_depth: Any, weights: Any, kl: Any, student_depth: Any, log_norm: Any,
) -> None:  # fmt: skip
    total, weighted = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    dpm, score = np.empty(len(centers), np.float32), np.empty(len(centers), np.float32)
    for start in range(0, len(kl), _BLOCK):
        pixels = min(_BLOCK, len(kl) - start)
        _softmax_sums(logits, start, centers, highest[start : start + pixels], total[:pixels], weighted[:pixels])
        for p in range(pixels):
            at = start + p
            student_depth[at] = weighted[p] / total[p]
            log_norm[at] = highest[at] + log(total[p])
            for t in range(len(weights)):
                if weights[t, at] == _ZERO:
                    continue
                depth = teacher_depth[t, at]
                width = max(sigma, sigma_share * depth)
                first, count = _support(centers, depth, width, released)
                _fill_dpm(centers[first : first + count], depth, width, released, dpm[:count])
                for j in range(count):
                    score[j] = logits[first + j, at] - log_norm[at]
                kl[at] += weights[t, at] * _kl(dpm[:count], score[:count], released)


@_exact
def _to_probabilities(logits: Any, start: Any, log_norm: Any) -> None:
    for k in range(len(logits)):
        row = logits[k, start : start + len(log_norm)]
        for p in range(len(log_norm)):
            row[p] = exp(row[p] - log_norm[p])


@_exact
def _times_slopes(probabilities: Any, start: Any, centers: Any, everywhere: Any, grad_depth: Any) -> None:
    for k in range(len(centers)):
        row, center = probabilities[k, start : start + len(everywhere)], centers[k]
        for p in range(len(everywhere)):
            row[p] *= everywhere[p] + center * grad_depth[p]


def _slopes(
    logits: Any, centers: Any, sigma: Any, sigma_share: Any, released: Any,
    teacher_depth: Any, weights: Any, grad_kl: Any, grad_depth: Any, student_depth: Any, log_norm: Any,
) -> None:  # fmt: skip
    teachers = len(weights)
    everywhere = np.empty(_BLOCK, np.float32)
    dpm, student = np.empty(len(centers), np.float32), np.empty(len(centers), np.float32)
    beside = np.empty((teachers, _BLOCK, len(centers)), np.float32)
    firsts, counts = np.empty((2, teachers, _BLOCK), np.int64)
    for start in range(0, len(log_norm), _BLOCK):
        pixels = min(_BLOCK, len(log_norm) - start)
        here = slice(start, start + pixels)
        _to_probabilities(logits, start, log_norm[here])
        for p in range(pixels):
            at = start + p
            everywhere[p] = -grad_depth[at] * student_depth[at]
            for t in range(teachers):
                upstream, depth = weights[t, at] * grad_kl[at], teacher_depth[t, at]
                width = max(sigma, sigma_share * depth)
                first, count = _support(centers, depth, width, released) if weights[t, at] != _ZERO else (0, 0)
                firsts[t, p], counts[t, p] = first, count
                if count:
                    _fill_dpm(centers[first : first + count], depth, width, released, dpm[:count])
                    for j in range(count):
                        student[j] = logits[first + j, at]
                    bins = beside[t, p, :count]
                    everywhere[p] += _kl_slopes(dpm[:count], student[:count], upstream, released, bins)
        _times_slopes(logits, start, centers, everywhere[:pixels], grad_depth[here])
        for t in range(teachers):
            for p in range(pixels):
                for j in range(counts[t, p]):
                    logits[firsts[t, p] + j, start + p] += beside[t, p, j]


_vector, _rows, _number_type = types.float32[::1], types.float32[:, ::1], types.float32
_head = (_vector, _number_type, _number_type, types.boolean)
_fastmath = {"fastmath": {"contract"}}

terms = compile_kept(_terms, types.void(_rows, _vector, *_head, _rows, _rows, _vector, _vector, _vector), **_fastmath)
slopes = compile_kept(_slopes, types.void(_rows, *_head, _rows, _rows, _vector, _vector, _vector, _vector), **_fastmath)
