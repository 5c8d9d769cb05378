"""L_DPM: the KL divergence of the student's DPM from the teacher's, pixel by pixel, in plain torch (the oracle)."""

from __future__ import annotations

import torch

from tiekd_cache.dpm import Bins, check_depth, check_form, depth_to_dpm
from tiekd_cache.errors import ShapeError

EPSILON = 1e-7
"""Added twice in the released formula: to the student's probability and inside the logarithm, which it bounds."""


def dpm_kl(
    logits: torch.Tensor,
    teacher_depth: torch.Tensor,
    bins: Bins,
    sigma: float = 0.8,
    form: str = "released",
    valid_mask: torch.Tensor | None = None,
    sigma_share: float = 0.0,
) -> torch.Tensor:
    """KL(teacher DPM || student DPM) of each pixel, summed over the bins.

    With t the teacher's DPM (`depth_to_dpm`) and s = softmax(logits):
    `released`: sum of t * log(t / (s + 1e-7) + 1e-7), terms with s = 0 dropped; it can be slightly negative.
    `gaussian`: sum of t * (log t - log s), with log s = log_softmax(logits) and 0 * log 0 = 0; never negative
    but for rounding.

    Args:
        logits: [B,K,H,W] float; computed on in float32 (float64 for float64).
        teacher_depth: [B,1,H,W] float, metres; 0 = missing. Gets no gradient.
        bins: the K bins.
        sigma: metres, > 0.
        form: `released` or `gaussian`, of the teacher's DPM and of the divergence.
        valid_mask: [B,1,H,W] bool, True where the pixel counts; None = all.
        sigma_share: the width at depth d is max(sigma, sigma_share * d) metres.
    Returns:
        [B,1,H,W] float32 (float64); 0, with zero gradient, where the mask is False or the depth is missing.
    Raises:
        ConfigError: unknown form.
        ShapeError: shapes do not fit together.
        RangeError: a depth that counts lies outside the bins; sigma is not positive.
    Source: paper section 3, L_DPM; the released code's loss of that name, without its fixed sigma and its row cut
        (the training loop cuts). The `gaussian` form is not in the release.
    """
    check_form(form, sigma, bins, sigma_share)
    if logits.dim() != 4 or not logits.is_floating_point():
        raise ShapeError(f"Logits are {logits.dtype} {list(logits.shape)}; they must be float [B,{bins.num_bins},H,W].")
    batch, num_bins, height, width = logits.shape
    if num_bins != bins.num_bins or teacher_depth.shape != (batch, 1, height, width):
        raise ShapeError(
            f"Logits {list(logits.shape)} and teacher depth {list(teacher_depth.shape)} do not fit: they must be "
            f"[B,{bins.num_bins},H,W] for these bins, and [B,1,H,W]."
        )
    present = check_depth(teacher_depth, bins, valid_mask)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    used_depth = torch.where(present, teacher_depth, 0).to(dtype)  # elsewhere t, and with it every term, is 0
    teacher_dpm = depth_to_dpm(used_depth, bins, sigma, form, sigma_share)
    divergence = _released_kl if form == "released" else _plain_kl
    kl_map = divergence(teacher_dpm, logits.to(dtype))
    return torch.where(present, kl_map, torch.zeros_like(kl_map))


def _released_kl(teacher_dpm: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    student_dpm = torch.softmax(logits, dim=1)
    ratio = teacher_dpm / (student_dpm + EPSILON)
    terms = teacher_dpm * torch.log(ratio + EPSILON)
    return torch.where(student_dpm == 0, 0, terms).sum(dim=1, keepdim=True)


def _plain_kl(teacher_dpm: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    log_student = torch.log_softmax(logits, dim=1)
    negative_entropy = torch.xlogy(teacher_dpm, teacher_dpm).sum(dim=1, keepdim=True)
    return negative_entropy - (teacher_dpm * log_student).sum(dim=1, keepdim=True)
