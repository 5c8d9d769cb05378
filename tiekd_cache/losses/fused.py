"""Head, DPM, KL and expected depth in one function that never holds a [B,K,H,W] tensor.

What is computed is said here, how in `fused_tiles` (tile by tile, any device) and `fused_triton` (kernels, CUDA).
`dpm_kl` and `dpm_to_depth` are the oracle: values and gradients equal theirs but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch

from tiekd_cache.dpm import Bins, check_depth, check_form
from tiekd_cache.errors import ConfigError, ShapeError
from tiekd_cache.losses.fused_tiles import FusedTerms
from tiekd_cache.losses.fused_triton import dpm_terms_triton, use_triton
from tiekd_cache.losses.masked import masked_mean

__all__ = ["Target", "dpm_terms", "fused_dpm_head", "pixel_weights"]


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
    sigma_share: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean KL to the teachers' DPMs, expected student depth) of a student's features, differentiable in both.

    Args:
        features: [B,C,H,W] float, not empty.
        weight: [K,C,1,1] of the 1x1 convolution to the logits.
        bias: [K].
        teacher_depth: [B,T,H,W] float, metres, of T >= 1 teachers; 0 = missing.
        bins: the K bins.
        sigma: metres, > 0.
        form: `released` or `gaussian`; see `dpm_kl`.
        valid_mask: [B,T,H,W] bool, True where the pixel counts for the KL; None = all.
        teacher_weights: one of each teacher, >= 0; None = equal. At each pixel they are renormalised over the
            teachers that answer there.
        sigma_share: the width at depth d is max(sigma, sigma_share * d) metres.
    Returns:
        Scalar: the mean over the pixels that at least one teacher answers (0 where none is); and [B,1,H,W] metres, at
        every pixel. float32 (float64 for float64 features), under autocast too. For bfloat16 and float16 features and
        weights the arithmetic is float32 on the rounded numbers: values within 1e-4 of the plain formulas in float32;
        gradients come back in the inputs' dtypes, bfloat16 ones within 1 % of their largest.
    Raises:
        ShapeError: shapes do not fit together.
        ConfigError, RangeError: as `dpm_kl`; teacher_weights that are not T weights.
    Source: the formulas of `dpm_kl` and `dpm_to_depth`, with the gradient written out. Several teachers are not in
        the release.
    """
    check_form(form, sigma, bins, sigma_share)
    if features.dim() != 4 or not features.numel() or not features.is_floating_point():
        raise ShapeError(
            f"Features are {features.dtype} {list(features.shape)}; they must be float [B,C,H,W], none of them 0."
        )
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
    target = Target(bins, sigma, form, sigma_share)
    kl_map, student_depth = dpm_terms(features, weight, bias, teacher_depth, weights, target)
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
    if not (features.is_contiguous() or features.is_contiguous(memory_format=torch.channels_last)):
        features = features.contiguous()  # the arithmetic sees [C, pixels] without a copy
    # What does not count may be anything, NaN too; a depth inside the bins keeps it out of the arithmetic.
    teacher_depth = torch.where(weights > 0, teacher_depth, target.bins.max_depth)
    if use_triton(features):
        centers = target.bins.centers.to(features.device)
        given = (features, weight, bias, teacher_depth, weights, centers, target.sigma, target.sigma_share)
        return dpm_terms_triton(*given, target.form, with_kl)
    with torch.autocast(features.device.type, enabled=False):  # bf16 would round depth to 1/4 m and worse
        return cast(
            "tuple[torch.Tensor, torch.Tensor]",
            FusedTerms.apply(  # type: ignore[no-untyped-call]
                features, weight, bias, teacher_depth, weights, target, with_kl
            ),
        )
