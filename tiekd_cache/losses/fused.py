"""Head, DPM, KL and expected depth in one function that never holds a [B,K,H,W] tensor.

It works on tiles of pixels as [pixels, K] matrices, small enough for the processor's cache. The teacher's DPM is
built inside the tile, and only over the bins in which it is not zero; the backward pass computes the logits again
instead of keeping them. `dpm_kl` and `dpm_to_depth` are the oracle: values and gradients equal theirs but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable

from tiekd_cache.dpm import DENSITY_FLOOR, Bins, check_depth, check_form
from tiekd_cache.errors import ConfigError, ShapeError
from tiekd_cache.losses.dpm_kl import EPSILON
from tiekd_cache.losses.masked import masked_mean

CPU_TILE_PIXELS = 4096
"""4 MB a [pixels, 257] tensor; 1024 and 16384 were slower on two cores."""
GPU_TILE_PIXELS = 1 << 17
"""Large enough to fill a GPU: 135 MB a tensor."""
SUPPORT_SIGMAS = 7.0
"""Half-width of the normalised Gaussian's support: what lies outside weighs less than float32 can add (3e-11)."""


@dataclass(frozen=True)
class Target:
    """Which teacher DPM.

    Attributes:
        bins: the K bins.
        sigma: metres.
        form: `released` or `gaussian`.
        sigma_share: the width at depth d is max(sigma, sigma_share * d).
    """

    bins: Bins
    sigma: float
    form: str
    sigma_share: float = 0.0

    def half_width(self) -> int:
        """How many bins beside the depth's own may hold probability."""
        sigmas = SUPPORT_SIGMAS
        if self.form == "released":
            sigmas = math.sqrt(max(0.0, -2 * math.log(DENSITY_FLOOR * self.sigma * math.sqrt(2 * math.pi))))
        narrowest = float(self.bins.edges.diff().min())
        return min(self.bins.num_bins, math.ceil(sigmas * self.sigma / narrowest) + 1)


def fused_dpm_head(
    features: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    teacher_depth: torch.Tensor,
    bins: Bins,
    sigma: float = 0.8,
    form: str = "released",
    valid_mask: torch.Tensor | None = None,
    *,
    teacher_weights: Sequence[float] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean KL to the teachers' DPMs, expected student depth) of a student's features, differentiable in both.

    Args:
        features: [B,C,H,W] float.
        weight: [K,C,1,1] of the 1x1 convolution to the logits.
        bias: [K].
        teacher_depth: [B,T,H,W] float, metres, of T >= 1 teachers; 0 = missing.
        bins: the K bins.
        sigma: metres, > 0.
        form: `released` or `gaussian`; see `dpm_kl`.
        valid_mask: [B,T,H,W] bool, True where the pixel counts for the KL; None = all.
        teacher_weights: one of each teacher, >= 0; None = equal. At each pixel they are renormalised over the
            teachers that answer there.
    Returns:
        Scalar: the mean over the pixels that at least one teacher answers (0 where none is); and [B,1,H,W] metres, at
        every pixel. float32 (float64 for float64 features).
    Raises:
        ShapeError: shapes do not fit together.
        ConfigError, RangeError: as `dpm_kl`; teacher_weights that are not T weights.
    Source: the formulas of `dpm_kl` and `dpm_to_depth`, with the gradient written out. Several teachers are not in
        the release.
    """
    check_form(form, sigma, bins)
    batch, channels, height, width = features.shape
    if weight.shape != (bins.num_bins, channels, 1, 1) or bias.shape != (bins.num_bins,):
        raise ShapeError(
            f"The head is {list(weight.shape)} with bias {list(bias.shape)}; for these features and bins it must be "
            f"[{bins.num_bins},{channels},1,1] with bias [{bins.num_bins}]."
        )
    if teacher_depth.dim() != 4 or teacher_depth[:, :1].shape != (batch, 1, height, width):
        raise ShapeError(
            f"teacher_depth is {list(teacher_depth.shape)}; features call for [{batch},T,{height},{width}], T >= 1."
        )
    present = check_depth(teacher_depth, bins, valid_mask)
    weights = pixel_weights(present, teacher_weights)
    kl_map, student_depth = dpm_terms(features, weight, bias, teacher_depth, weights, Target(bins, sigma, form))
    return masked_mean(kl_map, (weights > 0).any(dim=1, keepdim=True)), student_depth


def pixel_weights(present: torch.Tensor, teacher_weights: Sequence[float] | None = None) -> torch.Tensor:
    """[B,T,H,W] float32: each teacher's share of each pixel.

    Args:
        present: [B,T,H,W] bool, where a teacher's depth counts.
        teacher_weights: T weights, >= 0, not all 0; None = equal.
    Returns:
        0 where not `present`; elsewhere the weights, renormalised over the teachers that answer the pixel. A pixel
        that only teachers of weight 0 answer has 0 everywhere.
    Raises:
        ConfigError: not that many weights, or one that is negative or not finite, or all 0.
    """
    num_teachers = present.shape[1]
    given = [1.0] * num_teachers if teacher_weights is None else [float(w) for w in teacher_weights]
    if len(given) != num_teachers or not all(0 <= w < math.inf for w in given) or not sum(given) > 0:
        raise ConfigError(
            f"teacher_weights = {given}: need {num_teachers} finite weights >= 0, one a teacher, not all 0."
        )
    shares = torch.tensor(given, device=present.device)[:, None, None] * present
    total = shares.sum(dim=1, keepdim=True)
    return shares / torch.where(total > 0, total, 1)


def dpm_terms(
    features: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    teacher_depth: torch.Tensor,
    weights: torch.Tensor,
    target: Target,
    with_kl: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(weighted KL at each pixel, expected student depth), each [B,1,H,W]; inputs already checked.

    Args:
        teacher_depth: [B,T,H,W] metres, of T teachers.
        weights: [B,T,H,W] float: each teacher's share of each pixel, 0 where its depth does not count, else summing
            to 1 over T; see `pixel_weights`. The KL is the weighted sum of the teachers' own; its gradient is that of
            the KL to the weighted mixture of their DPMs (form `gaussian`).
        with_kl: False where only the depth is wanted: the KL is 0 then.
    """
    # What does not count may be anything, NaN too; a depth inside the bins keeps it out of the arithmetic.
    teacher_depth = torch.where(weights > 0, teacher_depth, target.bins.max_depth)
    with torch.autocast(features.device.type, enabled=False):  # bf16 would round depth to 1/4 m and worse
        return cast(
            "tuple[torch.Tensor, torch.Tensor]",
            _FusedTerms.apply(  # type: ignore[no-untyped-call]
                features, weight, bias, teacher_depth, weights, target, with_kl
            ),
        )


class _FusedTerms(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        teacher_depth: torch.Tensor,
        weights: torch.Tensor,
        target: Target,
        with_kl: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(features, weight, bias, teacher_depth, weights)
        ctx.target, ctx.with_kl = target, with_kl
        dtype = torch.promote_types(features.dtype, torch.float32)
        kl_map, student_depth = (features.new_zeros(features[:, :1].shape, dtype=dtype) for _ in range(2))
        centers = target.bins.centers.to(features.device, dtype)
        for i, rows in _tiles(features):
            probability, log_probability = _student_dpm(features[i, :, rows], weight, bias)
            student_depth[i, 0, rows] = (probability @ centers).view(student_depth[i, 0, rows].shape)
            for t in range(teacher_depth.shape[1] if with_kl else 0):
                depth = teacher_depth[i, t, rows].reshape(-1).to(dtype)
                kl = _kl(probability, log_probability, *_support(depth, centers, target), target)
                kl_map[i, 0, rows] += (kl * weights[i, t, rows].reshape(-1)).view(kl_map[i, 0, rows].shape)
        return kl_map, student_depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_kl: torch.Tensor, grad_depth: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        features, weight, bias, teacher_depth, weights = ctx.saved_tensors
        grad_features = torch.empty_like(features)
        dtype = grad_depth.dtype
        matrix = weight[:, :, 0, 0].to(dtype)
        grad_matrix, grad_bias = torch.zeros_like(matrix), torch.zeros_like(bias, dtype=dtype)
        centers = ctx.target.bins.centers.to(features.device, dtype)
        for i, rows in _tiles(features):
            tile = features[i, :, rows]
            probability, _ = _student_dpm(tile, weight, bias)
            tile_grad_depth = grad_depth[i, 0, rows].reshape(-1)
            student_depth = probability @ centers
            # d depth / d logit_k = p_k (c_k - depth)
            constant = -tile_grad_depth * student_depth
            in_supports = []
            for t in range(teacher_depth.shape[1] if ctx.with_kl else 0):
                tile_grad_kl = (grad_kl[i, 0, rows] * weights[i, t, rows]).reshape(-1)
                depth = teacher_depth[i, t, rows].reshape(-1).to(dtype)
                index, teacher = _support(depth, centers, ctx.target)
                everywhere, in_support = _kl_gradient(probability, index, teacher, ctx.target)
                constant += tile_grad_kl * everywhere
                in_supports.append((index, in_support.mul_(tile_grad_kl[:, None])))
            slope = torch.addcmul(constant[:, None], tile_grad_depth[:, None], centers[None])
            grad_logits = slope.mul_(probability)
            for index, in_support in in_supports:
                grad_logits.scatter_add_(1, index, in_support)
            grad_features[i, :, rows] = (grad_logits @ matrix).t().reshape(tile.shape)
            grad_matrix += grad_logits.t() @ tile.reshape(tile.shape[0], -1).t().to(dtype)
            grad_bias += grad_logits.sum(0)
        grad_weight = grad_matrix[:, :, None, None].to(weight.dtype)
        return grad_features, grad_weight, grad_bias.to(bias.dtype), None, None, None, None


def _tiles(features: torch.Tensor) -> Iterator[tuple[int, slice]]:
    """(sample of the batch, rows) of each tile."""
    batch, _, height, width = features.shape
    rows = max(1, (CPU_TILE_PIXELS if features.device.type == "cpu" else GPU_TILE_PIXELS) // width)
    for i in range(batch):
        for top in range(0, height, rows):
            yield i, slice(top, min(top + rows, height))


def _student_dpm(tile: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(probabilities, their logarithms), each [pixels, K], of features [C, rows, W]."""
    dtype = torch.promote_types(tile.dtype, torch.float32)
    pixels = tile.reshape(tile.shape[0], -1).t().to(dtype)
    logits = torch.addmm(bias.to(dtype), pixels, weight[:, :, 0, 0].t().to(dtype))
    log_probability = torch.log_softmax(logits, dim=1)
    return log_probability.exp(), log_probability


def _support(depth: torch.Tensor, centers: torch.Tensor, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
    """(indices [pixels, n] of the bins around each depth, the teacher's probability in them)."""
    half = target.half_width()
    count = min(2 * half + 1, len(centers))
    own = torch.searchsorted(centers, depth.contiguous())
    first = (own - half).clamp_(0, len(centers) - count)
    index = first[:, None] + torch.arange(count, device=depth.device)
    scores = (centers[index] - depth[:, None]).square_().mul_(-0.5 / target.sigma**2)
    if target.form == "released":
        # softmax over densities; what lies under the floor gets the score -1000, which is probability 0
        density = scores.clamp_(min=-80.0).exp_().mul_(1 / (target.sigma * math.sqrt(2 * math.pi)))
        scores = density.masked_fill_(density < DENSITY_FLOOR, -torch.inf)
    return index, torch.softmax(scores, dim=1)


def _kl(
    probability: torch.Tensor, log_probability: torch.Tensor, index: torch.Tensor, teacher: torch.Tensor, target: Target
) -> torch.Tensor:
    """[pixels]: the divergence, from the bins of the teacher's support."""
    if target.form == "gaussian":
        return torch.xlogy(teacher, teacher).sum(1) - (teacher * log_probability.gather(1, index)).sum(1)
    student = probability.gather(1, index)
    terms = teacher * torch.log(teacher / (student + EPSILON) + EPSILON)
    return torch.where(student == 0, 0, terms).sum(1)


def _kl_gradient(
    probability: torch.Tensor, index: torch.Tensor, teacher: torch.Tensor, target: Target
) -> tuple[torch.Tensor, torch.Tensor]:
    """d KL / d logits, as (e [pixels], s [pixels, n]): p_k * e at every bin, plus s at the bins of the support."""
    if target.form == "gaussian":
        return torch.ones_like(probability[:, 0]), -teacher
    student = probability.gather(1, index)
    # d/ds of t log(t / (s + eps) + eps)
    slope = -teacher.square() / ((student + EPSILON) * (teacher + EPSILON * (student + EPSILON)))
    weighted = slope * student
    return -weighted.sum(1), weighted
