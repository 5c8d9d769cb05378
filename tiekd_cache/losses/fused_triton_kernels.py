# mypy: ignore-errors
"""The Triton kernels of the fused head: compiled for the GPU at their first launch, or run by Triton's interpreter.

Importing this module imports triton; `fused_triton` does so when it is used. A program works on BLOCK_P neighbouring
pixels of one sample as [pixels, bins] blocks of BLOCK_K bins, so that the softmax reduces along a row. Maps of one
number a pixel are contiguous float32 [B,pixels] (of T teachers [B,T,pixels]); features are read through their strides,
an offset within one sample being 32 bits wide (2**31 numbers a sample). All sums are float32. A GPU's fast exponential
flushes probabilities below 1.2e-38 to 0, which the released form then drops; plain torch goes down to 1e-45.

Constants of every kernel: K bins, C channels, T teachers; RELEASED the form; WITH_KL; OPERAND the dtype and PRECISION
the input precision of the matrix products.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from tiekd_cache.dpm import DENSITY_FLOOR, FLOORED_SCORE
from tiekd_cache.losses.dpm_kl import EPSILON

_FLOOR = tl.constexpr(DENSITY_FLOOR)
_FLOORED = tl.constexpr(FLOORED_SCORE)
_EPSILON = tl.constexpr(EPSILON)
_ROOT_2PI = tl.constexpr(math.sqrt(2 * math.pi))


@triton.jit
def _logits(
    features, matrix, bias, pixels, inside, bins, stride_c, stride_p,
    K: tl.constexpr, C: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """[pixels, bins] float32 logits of one sample's features; -inf in bins beyond K."""
    logits = tl.zeros([pixels.shape[0], bins.shape[0]], dtype=tl.float32)
    for start in range(0, C, BLOCK_C):
        channels = start + tl.arange(0, BLOCK_C)
        some = channels < C
        at = features + pixels[:, None] * stride_p + channels[None, :] * stride_c
        x = tl.load(at, mask=inside[:, None] & some[None, :], other=0.0)
        at = matrix + bins[None, :] * C + channels[:, None]
        w = tl.load(at, mask=(bins < K)[None, :] & some[:, None], other=0.0)
        logits = tl.dot(x.to(OPERAND), w.to(OPERAND), logits, input_precision=PRECISION)
    return logits + tl.load(bias + bins, mask=bins < K, other=-float("inf"))[None, :]


@triton.jit
def _teacher(depths, weights, centers, row, pixels, inside, sigma, sigma_share):
    """(depth, width, weight) [pixels] of one teacher; where the weight is 0 its depth is not looked at, but 1 m."""
    weight = tl.load(weights + row + pixels, mask=inside, other=0.0)
    depth = tl.load(depths + row + pixels, mask=inside & (weight != 0), other=1.0)
    return depth, tl.maximum(depth * sigma_share, sigma), weight


@triton.jit
def _scores(depth, width, centers, bins, K: tl.constexpr, RELEASED: tl.constexpr):
    """[pixels, bins] of what the teacher's DPM is the softmax; -inf in bins beyond K."""
    center = tl.load(centers + bins, mask=bins < K, other=0.0)
    steps = (center[None, :] - depth[:, None]) / width[:, None]
    scores = -0.5 * steps * steps
    if RELEASED:
        density = tl.exp(tl.maximum(scores, -80.0)) / (width * _ROOT_2PI)[:, None]
        scores = tl.where(density < _FLOOR, _FLOORED, density)
    return tl.where((bins < K)[None, :], scores, -float("inf"))


@triton.jit
def _released_slope(teacher, student):
    """[pixels, bins]: d/ds of t * log(t / (s + eps) + eps), times s."""
    raised = student + _EPSILON
    return -teacher * teacher * student / (raised * (teacher + _EPSILON * raised))


@triton.jit
def forward_kernel(
    features, matrix, bias, centers, depths, weights,
    kl_map, student_depth, log_norm, teacher_norm, constant_map,
    num_pixels, sample_tiles, stride_b, stride_c, stride_p, sigma, sigma_share,
    K: tl.constexpr, C: tl.constexpr, T: tl.constexpr, RELEASED: tl.constexpr, WITH_KL: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One tile of pixels a program: expected depth, KL, and the maps that the backward pass needs.

    Those are the student's log normaliser, the teachers', and the part of d KL / d logit_k that is p_k times one
    number a pixel (`constant_map`).
    """
    tile = tl.program_id(0)
    sample = (tile // sample_tiles).to(tl.int64)
    pixels = (tile % sample_tiles) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = pixels < num_pixels
    features += sample * stride_b
    out = sample * num_pixels + pixels

    highest = tl.full([BLOCK_P], -float("inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_P], dtype=tl.float32)
    weighted = tl.zeros([BLOCK_P], dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        bins = start + tl.arange(0, BLOCK_K)
        logits = _logits(
            features, matrix, bias, pixels, inside, bins, stride_c, stride_p, K, C, OPERAND, PRECISION, BLOCK_C
        )
        center = tl.load(centers + bins, mask=bins < K, other=0.0)
        before = highest
        highest = tl.maximum(before, tl.max(logits, axis=1))
        shrink = tl.exp(before - highest)
        raised = tl.exp(logits - highest[:, None])
        total = total * shrink + tl.sum(raised, axis=1)
        weighted = weighted * shrink + tl.sum(raised * center[None, :], axis=1)
    norm = highest + tl.log(total)
    tl.store(student_depth + out, weighted / total, mask=inside)
    tl.store(log_norm + out, norm, mask=inside)

    if WITH_KL:
        kl = tl.zeros([BLOCK_P], dtype=tl.float32)
        constant = tl.zeros([BLOCK_P], dtype=tl.float32)
        for t in range(T):
            row = (sample * T + t) * num_pixels
            depth, width, weight = _teacher(depths, weights, centers, row, pixels, inside, sigma, sigma_share)
            highest = tl.full([BLOCK_P], -float("inf"), dtype=tl.float32)
            total = tl.zeros([BLOCK_P], dtype=tl.float32)
            for start in range(0, K, BLOCK_K):
                scores = _scores(depth, width, centers, start + tl.arange(0, BLOCK_K), K, RELEASED)
                before = highest
                highest = tl.maximum(before, tl.max(scores, axis=1))
                total = total * tl.exp(before - highest) + tl.sum(tl.exp(scores - highest[:, None]), axis=1)
            teacher_log_norm = highest + tl.log(total)
            tl.store(teacher_norm + row + pixels, teacher_log_norm, mask=inside)

            for start in range(0, K, BLOCK_K):
                bins = start + tl.arange(0, BLOCK_K)
                log_teacher = _scores(depth, width, centers, bins, K, RELEASED) - teacher_log_norm[:, None]
                teacher = tl.where((weight != 0)[:, None], tl.exp(log_teacher), 0.0)
                # most bins have no part of this teacher's DPM at any pixel of the tile
                if tl.max(teacher) > 0:
                    logits = _logits(
                        features, matrix, bias, pixels, inside, bins, stride_c, stride_p,
                        K, C, OPERAND, PRECISION, BLOCK_C,
                    )  # fmt: skip
                    if RELEASED:
                        student = tl.exp(logits - norm[:, None])
                        terms = teacher * tl.log(teacher / (student + _EPSILON) + _EPSILON)
                        terms = tl.where(student == 0, 0.0, terms)
                        constant -= weight * tl.sum(_released_slope(teacher, student), axis=1)
                    else:
                        gap = log_teacher - (logits - norm[:, None])
                        terms = tl.where(teacher > 0, teacher * gap, 0.0)
                    kl += weight * tl.sum(terms, axis=1)
            if not RELEASED:
                constant += weight
        tl.store(kl_map + out, kl, mask=inside)
        tl.store(constant_map + out, constant, mask=inside)


@triton.jit
def _logit_gradient(
    features, matrix, bias, centers, depths, weights, log_norm, teacher_norm, everywhere, grad_depth, grad_kl,
    sample, pixels, inside, bins, num_pixels, stride_c, stride_p, sigma, sigma_share,
    K: tl.constexpr, C: tl.constexpr, T: tl.constexpr, RELEASED: tl.constexpr, WITH_KL: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """[pixels, bins] float32: d loss / d logits; 0 in bins beyond K and at pixels not `inside`."""
    logits = _logits(
        features, matrix, bias, pixels, inside, bins, stride_c, stride_p, K, C, OPERAND, PRECISION, BLOCK_C
    )
    out = sample * num_pixels + pixels
    norm = tl.load(log_norm + out, mask=inside, other=float("inf"))
    student = tl.exp(logits - norm[:, None])
    center = tl.load(centers + bins, mask=bins < K, other=0.0)
    constant = tl.load(everywhere + out, mask=inside, other=0.0)
    of_depth = tl.load(grad_depth + out, mask=inside, other=0.0)
    gradient = student * (constant[:, None] + of_depth[:, None] * center[None, :])
    if WITH_KL:
        of_kl = tl.load(grad_kl + out, mask=inside, other=0.0)
        for t in range(T):
            row = (sample * T + t) * num_pixels
            depth, width, weight = _teacher(depths, weights, centers, row, pixels, inside, sigma, sigma_share)
            norm = tl.load(teacher_norm + row + pixels, mask=inside, other=float("inf"))
            teacher = tl.exp(_scores(depth, width, centers, bins, K, RELEASED) - norm[:, None])
            if RELEASED:
                gradient += (weight * of_kl)[:, None] * _released_slope(teacher, student)
            else:
                gradient -= (weight * of_kl)[:, None] * teacher
    return gradient


@triton.jit
def features_gradient_kernel(
    features, matrix, bias, centers, depths, weights, log_norm, teacher_norm, everywhere, grad_depth, grad_kl,
    grad_features,
    num_pixels, sample_tiles, stride_b, stride_c, stride_p, grad_stride_b, grad_stride_c, grad_stride_p,
    sigma, sigma_share,
    K: tl.constexpr, C: tl.constexpr, T: tl.constexpr, RELEASED: tl.constexpr, WITH_KL: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, GRAD_OPERAND: tl.constexpr, GRAD_PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_OUT: tl.constexpr,
):  # fmt: skip
    """One tile of pixels and BLOCK_OUT channels a program: grad_features = grad_logits @ matrix."""
    tile = tl.program_id(0)
    sample = (tile // sample_tiles).to(tl.int64)
    pixels = (tile % sample_tiles) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = pixels < num_pixels
    channels = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    some = channels < C
    features += sample * stride_b
    result = tl.zeros([BLOCK_P, BLOCK_OUT], dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        bins = start + tl.arange(0, BLOCK_K)
        gradient = _logit_gradient(
            features, matrix, bias, centers, depths, weights, log_norm, teacher_norm, everywhere, grad_depth, grad_kl,
            sample, pixels, inside, bins, num_pixels, stride_c, stride_p, sigma, sigma_share,
            K, C, T, RELEASED, WITH_KL, OPERAND, PRECISION, BLOCK_C,
        )  # fmt: skip
        at = matrix + bins[:, None] * C + channels[None, :]
        w = tl.load(at, mask=(bins < K)[:, None] & some[None, :], other=0.0)
        result = tl.dot(gradient.to(GRAD_OPERAND), w.to(GRAD_OPERAND), result, input_precision=GRAD_PRECISION)
    at = grad_features + sample * grad_stride_b + pixels[:, None] * grad_stride_p + channels[None, :] * grad_stride_c
    tl.store(at, result.to(grad_features.dtype.element_ty), mask=inside[:, None] & some[None, :])


@triton.jit
def head_gradient_kernel(
    features, matrix, bias, centers, depths, weights, log_norm, teacher_norm, everywhere, grad_depth, grad_kl,
    weight_parts, bias_parts,
    num_pixels, sample_tiles, stride_b, stride_c, stride_p, num_tiles, chunk_tiles, sigma, sigma_share,
    K: tl.constexpr, C: tl.constexpr, T: tl.constexpr, RELEASED: tl.constexpr, WITH_KL: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, GRAD_OPERAND: tl.constexpr, GRAD_PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_OUT: tl.constexpr,
):  # fmt: skip
    """BLOCK_K bins, BLOCK_OUT channels and a chunk of tiles a program: its part of the weight and bias gradients.

    `weight_parts` is [chunks,K,C], `bias_parts` [chunks,K]; every place is written once, nothing is added atomically.
    """
    bins = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    channels = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    some = channels < C
    chunk = tl.program_id(2)
    of_matrix = tl.zeros([BLOCK_K, BLOCK_OUT], dtype=tl.float32)
    of_bias = tl.zeros([BLOCK_K], dtype=tl.float32)
    for tile in range(chunk * chunk_tiles, tl.minimum((chunk + 1) * chunk_tiles, num_tiles)):
        sample = (tile // sample_tiles).to(tl.int64)
        pixels = (tile % sample_tiles) * BLOCK_P + tl.arange(0, BLOCK_P)
        inside = pixels < num_pixels
        start = features + sample * stride_b
        gradient = _logit_gradient(
            start, matrix, bias, centers, depths, weights, log_norm, teacher_norm, everywhere, grad_depth, grad_kl,
            sample, pixels, inside, bins, num_pixels, stride_c, stride_p, sigma, sigma_share,
            K, C, T, RELEASED, WITH_KL, OPERAND, PRECISION, BLOCK_C,
        )  # fmt: skip
        of_bias += tl.sum(gradient, axis=0)
        at = start + pixels[:, None] * stride_p + channels[None, :] * stride_c
        x = tl.load(at, mask=inside[:, None] & some[None, :], other=0.0).to(GRAD_OPERAND)
        of_matrix = tl.dot(tl.trans(gradient.to(GRAD_OPERAND)), x, of_matrix, input_precision=GRAD_PRECISION)
    row = (chunk * K + bins).to(tl.int64)
    at = weight_parts + row[:, None] * C + channels[None, :]
    tl.store(at, of_matrix, mask=(bins < K)[:, None] & some[None, :])
    if tl.program_id(1) == 0:
        tl.store(bias_parts + row, of_bias, mask=bins < K)
