"""The fused head tile by tile, forward and backward: what is done to all tiles, whoever does the arithmetic of one.

A tile is a run of neighbouring pixels of one sample, read and written in place: features are [C, pixels] as they lie,
so that the 1x1 convolution and its gradients are matrix products without a copy. One buffer of [K, pixels] a thread
serves all its tiles (two, where plain torch does the arithmetic). The backward pass computes the logits again instead
of keeping them, and keeps of the softmax one number a pixel.

What lies between the matrix products is `fused_compiled` for float32 on a CPU, and `fused_torch` elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from tiekd_cache.losses.fused_compiled import CompiledTiles, compiled_loops
from tiekd_cache.losses.fused_torch import TorchTiles
from tiekd_cache.losses.tile_threads import Tile, over_tiles

if TYPE_CHECKING:
    from tiekd_cache.losses.fused import Target

CPU_TILE_PIXELS = 1024
"""1 MB a [257, pixels] buffer. Twice as many pixels were as fast and took more memory."""
GPU_TILE_PIXELS = 1 << 17
"""Large enough to fill a GPU: 135 MB a buffer."""


class FusedTerms(torch.autograd.Function):
    """(KL map, expected depth) of features, weight, bias, teacher depth, pixel weights; see `dpm_terms`."""

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
        """Both maps [B,1,H,W], float32 (float64 for float64 features)."""
        head = Head(features, weight, bias, target)
        kl_map, student_depth, log_norm = (
            torch.zeros(features[:, :1].shape, dtype=head.dtype, device=features.device) for _ in range(3)
        )
        given = [x[:, : None if with_kl else 0].flatten(2) for x in (teacher_depth, weights)]
        maps = [x.view(len(x), -1) for x in (kl_map, student_depth, log_norm)]

        def work(tiles: Sequence[Tile]) -> None:
            arithmetic = _arithmetic(head)
            for i, pixels in tiles:
                teachers = (x[i, :, pixels] for x in given)
                arithmetic.terms(head.tile(i, pixels), *teachers, *(x[i, pixels] for x in maps))

        over_tiles(work, head.tiles(), features.device)
        ctx.save_for_backward(features, weight, bias, teacher_depth, weights, student_depth, log_norm)
        ctx.target, ctx.with_kl = target, with_kl
        return kl_map, student_depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_kl: torch.Tensor, grad_depth: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of features, weight and bias, in their dtypes; the others get none."""
        features, weight, bias, teacher_depth, weights, student_depth, log_norm = ctx.saved_tensors
        head = Head(features, weight, bias, ctx.target)
        grad_features = _empty_like(features)
        flat_gradient = grad_features.view(head.features.shape)  # of the features' layout; never a copy
        given = [x[:, : None if ctx.with_kl else 0].flatten(2) for x in (teacher_depth, weights)]
        maps = [x.reshape(len(x), -1) for x in (grad_kl, grad_depth, student_depth, log_norm)]

        def work(tiles: Sequence[Tile]) -> tuple[torch.Tensor, torch.Tensor]:
            arithmetic = _arithmetic(head)
            grad_matrix, grad_bias = torch.zeros_like(head.matrix), torch.zeros_like(head.bias)
            for i, pixels in tiles:
                tile, teachers = head.tile(i, pixels), (x[i, :, pixels] for x in given)
                slope = arithmetic.slopes(tile, *teachers, *(x[i, pixels] for x in maps))
                if head.dtype == features.dtype:
                    torch.mm(head.matrix.t(), slope, out=flat_gradient[i, :, pixels])
                else:
                    flat_gradient[i, :, pixels] = head.matrix.t() @ slope
                grad_matrix.addmm_(slope, tile.t())
                grad_bias += slope.sum(1)
            return grad_matrix, grad_bias

        with torch.autocast(features.device.type, enabled=False):  # whoever calls backward may be inside one
            parts = over_tiles(work, head.tiles(), features.device)
        grad_matrix, grad_bias = (torch.stack(part).sum(0) for part in zip(*parts, strict=True))
        grad_weight = grad_matrix[:, :, None, None].to(weight.dtype)
        return grad_features, grad_weight, grad_bias.to(bias.dtype), None, None, None, None


class Head:
    """The 1x1 convolution on tiles of pixels.

    Attributes:
        dtype: of the arithmetic: the features', at least float32.
        features: [B,C,H*W], in their own dtype.
        matrix: [K,C].
        bias: [K].
        centers: [K] metres.
        target: which teacher DPM.
        tile_pixels: the most pixels in a tile.
    """

    def __init__(self, features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, target: Target) -> None:
        self.dtype = torch.promote_types(features.dtype, torch.float32)
        self.features = features.flatten(2)
        self.matrix = weight[:, :, 0, 0].to(self.dtype)
        self.bias = bias.to(self.dtype)
        self.centers = target.bins.centers.to(features.device, self.dtype)
        self.target = target
        most = CPU_TILE_PIXELS if features.device.type == "cpu" else GPU_TILE_PIXELS
        num_pixels = self.features.shape[2]
        self.tile_pixels = math.ceil(num_pixels / math.ceil(num_pixels / most))

    def tiles(self) -> list[Tile]:
        """All of them, in order."""
        batch, _, num_pixels = self.features.shape
        starts = range(0, num_pixels, self.tile_pixels)
        return [(i, slice(start, min(start + self.tile_pixels, num_pixels))) for i in range(batch) for start in starts]

    def tile(self, i: int, pixels: slice) -> torch.Tensor:
        """[C, pixels] features."""
        return self.features[i, :, pixels].to(self.dtype)


def _arithmetic(head: Head) -> CompiledTiles | TorchTiles:
    """What lies between the matrix products; one a thread."""
    compiled = head.dtype == torch.float32 and head.features.device.type == "cpu" and compiled_loops() is not None
    return CompiledTiles(head) if compiled else TorchTiles(head)


def _empty_like(features: torch.Tensor) -> torch.Tensor:
    """As `torch.empty_like`; on a CPU in huge pages, which numpy asks for: to touch them first takes a quarter."""
    plain = features.device.type == "cpu" and features.dtype == torch.float32 and features.is_contiguous()
    return torch.from_numpy(np.empty(features.shape, np.float32)) if plain else torch.empty_like(features)
