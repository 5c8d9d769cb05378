"""The one place where losses meet masks: which pixels count, and their mean."""

from __future__ import annotations

import torch

from tiekd_cache.errors import ShapeError


def check_maps(a: torch.Tensor, b: torch.Tensor, valid_mask: torch.Tensor | None) -> None:
    """Raise ShapeError unless both are float [B,1,H,W] of one shape and the mask, if any, is bool of that shape."""
    if a.dim() != 4 or a.shape[1] != 1 or a.shape != b.shape:
        raise ShapeError(f"Depth maps are {list(a.shape)} and {list(b.shape)}; both must be [B,1,H,W] of one size.")
    if not (a.is_floating_point() and b.is_floating_point()):
        raise ShapeError(f"Depth maps are {a.dtype} and {b.dtype}; both must be float, in metres.")
    if valid_mask is not None and (valid_mask.shape != a.shape or valid_mask.dtype != torch.bool):
        raise ShapeError(
            f"valid_mask is {valid_mask.dtype} {list(valid_mask.shape)}; it must be torch.bool {list(a.shape)}."
        )


def masked_mean(values: torch.Tensor, valid_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean of `values` where the mask is True; 0, with zero gradients, where it is True nowhere.

    Values outside the mask may be NaN: they are not touched.
    """
    if valid_mask is None:
        return values.mean() if values.numel() else values.sum()
    kept = torch.where(valid_mask, values, torch.zeros_like(values))
    return kept.sum() / valid_mask.sum().clamp(min=1)
