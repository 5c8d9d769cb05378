"""Losses between two depth maps: SSIM as released, the scale-invariant loss (SI) and the squared error (MSE)."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from tiekd_cache.losses.masked import check_maps, masked_mean

WINDOW = 11
WINDOW_SIGMA = 1.5
"""SSIM's Gaussian window: pixels on a side, and its standard deviation in pixels."""

C1 = 0.01**2
C2 = 0.03**2
"""SSIM's constants for images in 0..1; the release uses them on metres."""

SI_EPSILON = 1e-3
"""Metres, added to both depths inside SI's logarithm."""

SI_MEAN_WEIGHT = 0.15
"""Weight of the squared mean log error in SI: 1 would punish a wrong scale like any other error, 0 not at all."""


def ssim(a: torch.Tensor, b: torch.Tensor, valid_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean structural similarity of two depth maps, as released.

    Window 11 x 11, Gaussian of 1.5 pixels, zero padding; on metres, with the constants of unit-range images;
    variances and covariance in absolute value. With a mask, both maps are set to 0 where it is False, like the
    padding, and the mean is taken over the pixels where it is True.

    Computed in float64 whatever the maps are: a variance is the difference of two numbers of up to 6400 m2, which
    float32 rounds to 5e-4, the size of the constant C2. On flat surfaces float32 gradients are mostly rounding.

    Args:
        a: [B,1,H,W] float, metres.
        b: the same shape.
        valid_mask: [B,1,H,W] bool; None = all pixels.
    Returns:
        Scalar, float32 (float64 for float64); 1 for equal maps; 0 with zero gradient for an empty mask.
    Raises:
        ShapeError: shapes differ, or the mask is not bool.
    Source: the released code's SSIM. It computes in float32 (the mean differs by about 1e-5 at most) and with the
        two-dimensional window, which is the same convolution as one along the rows and one along the columns. The
        mask is ours.
    """
    check_maps(a, b, valid_mask)
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    a, b = a.double(), b.double()
    if valid_mask is not None:
        a, b = (torch.where(valid_mask, depth, 0) for depth in (a, b))
    mean_a, mean_aa, mean_ab = _blur(torch.cat([a, a * a, a * b])).chunk(3)
    mean_b, mean_bb = _blur(torch.cat([b, b * b])).chunk(2)  # apart: the teacher's depth needs no backward pass
    variance_a = (mean_aa - mean_a.square()).abs()
    variance_b = (mean_bb - mean_b.square()).abs()
    covariance = (mean_ab - mean_a * mean_b).abs()
    likeness = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    bound = (mean_a.square() + mean_b.square() + C1) * (variance_a + variance_b + C2)
    return masked_mean(likeness / bound, valid_mask).to(dtype)


def si(prediction: torch.Tensor, target: torch.Tensor, valid_mask: torch.Tensor | None = None) -> torch.Tensor:
    """The scale-invariant loss sqrt(var(g) + 0.15 mean(g)^2), g = log(prediction + 1e-3) - log(target + 1e-3).

    The variance is the unbiased one, over all pixels of the batch together.

    Args:
        prediction: [B,1,H,W] float, metres, >= 0.
        target: the same shape, metres, >= 0.
        valid_mask: [B,1,H,W] bool; None = all pixels, missing ones (0) included.
    Returns:
        Scalar, float32 (float64 for float64). A single pixel has no variance: its mean alone counts. 0 with zero
        gradient for an empty mask and where the maps are equal (the root has no slope there).
    Raises:
        ShapeError: shapes differ, or the mask is not bool.
    Source: the released code's SI loss.
    """
    check_maps(prediction, target, valid_mask)
    dtype = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
    prediction, target = prediction.to(dtype), target.to(dtype)
    if valid_mask is not None:
        prediction, target = (torch.where(valid_mask, depth, 1) for depth in (prediction, target))
    error = torch.log(prediction + SI_EPSILON) - torch.log(target + SI_EPSILON)
    count = valid_mask.sum() if valid_mask is not None else torch.tensor(error.numel(), device=error.device)
    mean = masked_mean(error, valid_mask)
    spread = masked_mean((error - mean).square(), valid_mask)
    unbiased = count / (count - 1).clamp(min=1)
    squared = spread * unbiased + SI_MEAN_WEIGHT * mean.square()
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1).sqrt(), 0)


def mse(prediction: torch.Tensor, target: torch.Tensor, valid_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared error in square metres.

    Args:
        prediction: [B,1,H,W] float, metres.
        target: the same shape.
        valid_mask: [B,1,H,W] bool; None = all pixels.
    Returns:
        Scalar, float32 (float64 for float64); 0 with zero gradient for an empty mask.
    Raises:
        ShapeError: shapes differ, or the mask is not bool.
    """
    check_maps(prediction, target, valid_mask)
    dtype = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
    prediction, target = prediction.to(dtype), target.to(dtype)
    if valid_mask is not None:
        prediction, target = (torch.where(valid_mask, depth, 0) for depth in (prediction, target))
    return masked_mean((prediction - target).square(), valid_mask)


def _blur(maps: torch.Tensor) -> torch.Tensor:
    """[N,1,H,W] -> [N,1,H,W]: SSIM's window, zero padding."""
    return cast("torch.Tensor", _Blur.apply(maps))  # type: ignore[no-untyped-call]


class _Blur(torch.autograd.Function):
    """Sums of shifted maps, along the rows and then along the columns: a tenth of the time of a float64 convolution."""

    @staticmethod
    def forward(ctx: Any, maps: torch.Tensor) -> torch.Tensor:
        return _sum_of_shifted(_sum_of_shifted(maps, dim=3), dim=2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return _sum_of_shifted(_sum_of_shifted(grad, dim=3), dim=2)  # a symmetric window is its own transpose


def _sum_of_shifted(maps: torch.Tensor, dim: int) -> torch.Tensor:
    """SSIM's window along one dimension of [N,1,H,W]."""
    half, size = WINDOW // 2, maps.shape[dim]
    weights = [math.exp(-0.5 * (offset / WINDOW_SIGMA) ** 2) for offset in range(half + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    padded = F.pad(maps, (half, half, 0, 0) if dim == 3 else (0, 0, half, half))
    blurred = padded.narrow(dim, half, size) * (weights[0] / total)
    for offset in range(1, half + 1):
        pair = padded.narrow(dim, half - offset, size) + padded.narrow(dim, half + offset, size)
        blurred.add_(pair, alpha=weights[offset] / total)
    return blurred
