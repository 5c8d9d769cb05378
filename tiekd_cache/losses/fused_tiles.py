"""The arithmetic of the fused head in plain torch: tiles of pixels as [K, pixels] matrices, forward and backward.

A tile is a run of neighbouring pixels of one sample, read and written in place: features are [C, pixels] as they lie,
so that the 1x1 convolution and its gradients are matrix products without a copy. Two [K, pixels] buffers serve all
tiles. The teacher's DPM is built only over the bins in which it is not zero; the backward pass computes the logits
again instead of keeping them, and keeps of the softmax one number a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from tiekd_cache.dpm import DENSITY_FLOOR, dpm_width
from tiekd_cache.losses.dpm_kl import EPSILON
from tiekd_cache.losses.tile_threads import Tile, over_tiles

if TYPE_CHECKING:
    from tiekd_cache.losses.fused import Target

CPU_TILE_PIXELS = 1024
"""1 MB a [257, pixels] buffer, two a thread. Twice as many pixels were as fast and took more memory."""
GPU_TILE_PIXELS = 1 << 17
"""Large enough to fill a GPU: 135 MB a buffer."""
SUPPORT_SIGMAS = 7.0
"""Half-width of the normalised Gaussian's support: what lies outside weighs less than float32 can add (3e-11)."""


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
        head = _Head(features, weight, bias, target)
        kl_map, student_depth, log_norm = (
            torch.zeros(features[:, :1].shape, dtype=head.dtype, device=features.device) for _ in range(3)
        )
        maps = [x.flatten(2) for x in (kl_map, student_depth, log_norm, teacher_depth, weights)]
        sums = torch.stack([torch.ones_like(head.centers), head.centers])
        teachers = range(teacher_depth.shape[1] if with_kl else 0)

        def work(tiles: Sequence[Tile]) -> None:
            buffer = head.new_buffer()
            for i, pixels in tiles:
                kl, depth, norm, teacher, share = (x[i, :, pixels] for x in maps)
                logits = head.logits(head.tile(i, pixels), head.bias[:, None], buffer)
                highest = logits.amax(0)
                logits.sub_(highest)
                supports = [_Support(teacher[t], head.centers, target) for t in teachers]
                scores = [support.of(logits) for support in supports]
                total, weighted = (sums @ logits.exp_()).unbind()
                torch.div(weighted, total, out=depth[0])
                log_total = total.log_()
                torch.add(highest, log_total, out=norm[0])
                for t in teachers:
                    kl[0] += share[t] * _kl(scores[t].sub_(log_total), supports[t].dpm, target)

        over_tiles(work, head.tiles(), features.device)
        ctx.save_for_backward(features, weight, bias, teacher_depth, weights, student_depth, log_norm)
        ctx.target, ctx.with_kl = target, with_kl
        return kl_map, student_depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_kl: torch.Tensor, grad_depth: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of features, weight and bias, in their dtypes; the others get none."""
        features, weight, bias, teacher_depth, weights, student_depth, log_norm = ctx.saved_tensors
        target = ctx.target
        head = _Head(features, weight, bias, target)
        grad_features = torch.empty_like(features)
        # d depth / d logit_k = p_k (c_k - depth)
        constant = -grad_depth * student_depth
        maps = [x.flatten(2) for x in (grad_kl, grad_depth, constant, log_norm, teacher_depth, weights)]
        flat_gradient = grad_features.view(head.features.shape)  # of the features' layout; never a copy
        teachers = range(teacher_depth.shape[1] if ctx.with_kl else 0)

        def work(tiles: Sequence[Tile]) -> tuple[torch.Tensor, torch.Tensor]:
            buffer, slope_buffer = head.new_buffer(), head.new_buffer()
            grad_matrix, grad_bias = torch.zeros_like(head.matrix), torch.zeros_like(head.bias)
            for i, pixels in tiles:
                of_kl, of_depth, everywhere, norm, teacher, share = (x[i, :, pixels] for x in maps)
                tile, everywhere, beside = head.tile(i, pixels), everywhere[0], []
                log_probability = head.logits(tile, head.bias[:, None] - norm, buffer)
                for t in teachers:
                    support, upstream = _Support(teacher[t], head.centers, target), of_kl[0] * share[t]
                    constant_part, in_support = _kl_gradient(support.of(log_probability), support.dpm, target)
                    everywhere = torch.addcmul(everywhere, upstream, constant_part)
                    beside.append((support, in_support.mul_(upstream)))
                slope = slope_buffer[: log_probability.numel()].view_as(log_probability)
                torch.addcmul(everywhere, head.centers[:, None], of_depth, out=slope)
                slope.mul_(log_probability.exp_())
                for support, in_support in beside:
                    support.add_to(slope, in_support)
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


class _Head:
    """The 1x1 convolution on tiles of pixels, in the dtype of the arithmetic."""

    def __init__(self, features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, target: Target) -> None:
        self.dtype = torch.promote_types(features.dtype, torch.float32)
        self.features = features.flatten(2)
        self.matrix = weight[:, :, 0, 0].to(self.dtype)
        self.bias = bias.to(self.dtype)
        self.centers = target.bins.centers.to(features.device, self.dtype)
        most = CPU_TILE_PIXELS if features.device.type == "cpu" else GPU_TILE_PIXELS
        num_pixels = self.features.shape[2]
        self.tile_pixels = math.ceil(num_pixels / math.ceil(num_pixels / most))

    def new_buffer(self) -> torch.Tensor:
        """[K * pixels of a tile], to be filled."""
        size = len(self.matrix) * self.tile_pixels
        return torch.empty(size, dtype=self.dtype, device=self.features.device)

    def tiles(self) -> list[Tile]:
        """All of them, in order."""
        batch, _, num_pixels = self.features.shape
        starts = range(0, num_pixels, self.tile_pixels)
        return [(i, slice(start, min(start + self.tile_pixels, num_pixels))) for i in range(batch) for start in starts]

    def tile(self, i: int, pixels: slice) -> torch.Tensor:
        """[C, pixels] features."""
        return self.features[i, :, pixels].to(self.dtype)

    def logits(self, tile: torch.Tensor, shift: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
        """[K, pixels] logits without bias, plus `shift` (of a shape that broadcasts), in the buffer."""
        out = buffer[: len(self.matrix) * tile.shape[1]].view(len(self.matrix), -1)
        return torch.addmm(shift, self.matrix, tile, out=out)


class _Support:
    """The bins around each depth of a tile in which its DPM is not zero: n neighbours, the most that any pixel needs.

    Attributes:
        dpm: [n, pixels] the teacher's probability in them.
    """

    def __init__(self, depth: torch.Tensor, centers: torch.Tensor, target: Target) -> None:
        depth = depth.to(centers.dtype)
        width = dpm_width(depth, target.sigma, target.sigma_share)
        reach = _reach(depth, width, centers, target)
        # one more on each side, so that rounding decides nothing
        first = torch.searchsorted(centers, depth - reach).sub_(1).clamp_(min=0)
        last = torch.searchsorted(centers, depth + reach).clamp_(max=len(centers) - 1)
        count = int((last - first).max()) + 1
        first.clamp_(max=len(centers) - count)
        steps = torch.arange(count, device=depth.device)[:, None]
        scores = (
            centers.index_select(0, (first + steps).view(-1))
            .view(count, -1)
            .sub_(depth)
            .square_()
            .mul_(-0.5 / width**2)
        )
        if target.form == "released":
            # softmax over densities; what lies under the floor gets the score -1000, which is probability 0
            density = scores.clamp_(min=-80.0).exp_().mul_(1 / (width * math.sqrt(2 * math.pi)))
            scores = density.masked_fill_(density < DENSITY_FLOOR, -torch.inf)
        self.dpm = torch.softmax(scores, dim=0)
        num_pixels = len(depth)
        first = first * num_pixels + torch.arange(num_pixels, device=depth.device)
        self._places = (first + steps * num_pixels).view(-1)  # of [K, pixels], row after row

    def of(self, scores: torch.Tensor) -> torch.Tensor:
        """[n, pixels], these bins' own out of [K, pixels]."""
        return scores.view(-1).index_select(0, self._places).view_as(self.dpm)

    def add_to(self, scores: torch.Tensor, values: torch.Tensor) -> None:
        """Add [n, pixels] to these bins of [K, pixels]."""
        scores.view(-1).index_add_(0, self._places, values.view(-1))


def _reach(depth: torch.Tensor, width: float | torch.Tensor, centers: torch.Tensor, target: Target) -> torch.Tensor:
    """Metres: how far from each depth (or from all of them) a centre can have probability."""
    if target.form == "released":
        width = torch.as_tensor(width, dtype=centers.dtype, device=centers.device)
        # where the density falls to the floor; nowhere, if it is below the floor at the depth itself
        return width * (-2 * torch.log(DENSITY_FLOOR * math.sqrt(2 * math.pi) * width)).clamp(min=0).sqrt()
    # beside the nearest centre, however far that is, others count as exp((nearest^2 - theirs^2) / (2 width^2))
    above = torch.searchsorted(centers, depth).clamp_(1, len(centers) - 1)
    nearest = torch.minimum((centers.take(above) - depth).abs(), (centers.take(above - 1) - depth).abs())
    return (nearest.square() + (SUPPORT_SIGMAS * width) ** 2).sqrt()


def _kl(log_student: torch.Tensor, teacher: torch.Tensor, target: Target) -> torch.Tensor:
    """[pixels]: the divergence, from the bins of the teacher's support, [n, pixels]."""
    if target.form == "gaussian":
        return torch.xlogy(teacher, teacher).sum(0) - (teacher * log_student).sum(0)
    student = log_student.exp()
    terms = torch.div(teacher, student + EPSILON).add_(EPSILON).log_().mul_(teacher)
    return terms.masked_fill_(student == 0, 0).sum(0)


def _kl_gradient(log_student: torch.Tensor, teacher: torch.Tensor, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
    """d KL / d logits, as (e [pixels], s [n, pixels]): p_k * e at every bin, plus s at the bins of the support."""
    if target.form == "gaussian":
        return torch.ones_like(teacher[0]), -teacher
    student = log_student.exp()
    shifted = student + EPSILON
    # d/ds of t log(t / (s + eps) + eps), times s
    slope = (teacher + EPSILON * shifted).mul_(shifted).reciprocal_().mul_(student).mul_(teacher).mul_(teacher)
    return slope.sum(0), slope.neg_()
