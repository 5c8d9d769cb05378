"""The arithmetic of the fused head in plain torch: tiles of pixels as [K, pixels] matrices, forward and backward.

A tile is a run of neighbouring pixels of one sample, read and written in place: features are [C, pixels] as they lie,
so that the 1x1 convolution and its gradients are matrix products without a copy. Two [K, pixels] buffers serve all
tiles. The teacher's DPM is built only over the bins in which it is not zero; the backward pass computes the logits
again instead of keeping them, and keeps of the softmax one number a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from tiekd_cache.dpm import DENSITY_FLOOR, dpm_width
from tiekd_cache.losses.dpm_kl import EPSILON

if TYPE_CHECKING:
    from tiekd_cache.losses.fused import Target

CPU_TILE_PIXELS = 4096
"""4 MB a [257, pixels] buffer: small enough for the caches, large enough to keep the matrix products busy."""
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
        for i, pixels in head.tiles():
            kl, depth, norm, teacher, share = (x[i, :, pixels] for x in maps)
            logits = head.logits(i, pixels)
            highest = logits.amax(0)
            logits.sub_(highest)
            supports = [_support(teacher[t], head.centers, target) for t in teachers]
            scores = [logits.gather(0, index) for index, _ in supports]
            total, weighted = (sums @ logits.exp_()).unbind()
            torch.div(weighted, total, out=depth[0])
            log_total = total.log_()
            torch.add(highest, log_total, out=norm[0])
            for t in teachers:
                kl[0] += share[t] * _kl(scores[t].sub_(log_total), supports[t][1], target)
        ctx.save_for_backward(features, weight, bias, teacher_depth, weights, student_depth, log_norm)
        ctx.target, ctx.with_kl = target, with_kl
        return kl_map, student_depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_kl: torch.Tensor, grad_depth: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of features, weight and bias, in their dtypes; the others get none."""
        features, weight, bias, teacher_depth, weights, student_depth, log_norm = ctx.saved_tensors
        head = _Head(features, weight, bias, ctx.target)
        slope_buffer = head.new_buffer()
        grad_features = torch.empty_like(features)
        grad_matrix, grad_bias = torch.zeros_like(head.matrix), torch.zeros_like(head.bias)
        # d depth / d logit_k = p_k (c_k - depth)
        constant = -grad_depth * student_depth
        maps = [x.flatten(2) for x in (grad_kl, grad_depth, constant, log_norm, teacher_depth, weights)]
        flat_gradient = grad_features.flatten(2)
        teachers = range(teacher_depth.shape[1] if ctx.with_kl else 0)
        for i, pixels in head.tiles():
            of_kl, of_depth, everywhere, norm, teacher, share = (x[i, :, pixels] for x in maps)
            log_probability = head.logits(i, pixels).sub_(norm)
            everywhere, beside = everywhere[0], []
            for t in teachers:
                index, dpm = _support(teacher[t], head.centers, ctx.target)
                constant_part, in_support = _kl_gradient(log_probability.gather(0, index), dpm, ctx.target)
                upstream = of_kl[0] * share[t]
                everywhere = torch.addcmul(everywhere, upstream, constant_part)
                beside.append((index, in_support.mul_(upstream)))
            slope = slope_buffer[: log_probability.numel()].view_as(log_probability)
            torch.addcmul(everywhere, head.centers[:, None], of_depth, out=slope)
            slope.mul_(log_probability.exp_())
            for index, in_support in beside:
                slope.scatter_add_(0, index, in_support)
            tile = head.tile(i, pixels)
            if head.dtype == features.dtype:
                torch.mm(head.matrix.t(), slope, out=flat_gradient[i, :, pixels])
            else:
                flat_gradient[i, :, pixels] = head.matrix.t() @ slope
            grad_matrix.addmm_(slope, tile.t())
            grad_bias += slope.sum(1)
        grad_weight = grad_matrix[:, :, None, None].to(weight.dtype)
        return grad_features, grad_weight, grad_bias.to(bias.dtype), None, None, None, None


class _Head:
    """The 1x1 convolution on tiles of pixels, in the dtype of the arithmetic, with a buffer for its logits."""

    def __init__(self, features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, target: Target) -> None:
        self.dtype = torch.promote_types(features.dtype, torch.float32)
        self.features = features.flatten(2)
        self.matrix = weight[:, :, 0, 0].to(self.dtype)
        self.bias = bias.to(self.dtype)
        self.centers = target.bins.centers.to(features.device, self.dtype)
        most = CPU_TILE_PIXELS if features.device.type == "cpu" else GPU_TILE_PIXELS
        num_pixels = self.features.shape[2]
        self.tile_pixels = math.ceil(num_pixels / math.ceil(num_pixels / most))
        self.buffer = self.new_buffer()

    def new_buffer(self) -> torch.Tensor:
        """[K * pixels of a tile], to be filled."""
        size = len(self.matrix) * self.tile_pixels
        return torch.empty(size, dtype=self.dtype, device=self.features.device)

    def tiles(self) -> Iterator[tuple[int, slice]]:
        """(sample of the batch, pixels) of each tile."""
        batch, _, num_pixels = self.features.shape
        for i in range(batch):
            for start in range(0, num_pixels, self.tile_pixels):
                yield i, slice(start, min(start + self.tile_pixels, num_pixels))

    def tile(self, i: int, pixels: slice) -> torch.Tensor:
        """[C, pixels] features."""
        return self.features[i, :, pixels].to(self.dtype)

    def logits(self, i: int, pixels: slice) -> torch.Tensor:
        """[K, pixels] logits, in the buffer: valid until the next call."""
        tile = self.tile(i, pixels)
        out = self.buffer[: len(self.matrix) * tile.shape[1]].view(len(self.matrix), -1)
        return torch.addmm(self.bias[:, None], self.matrix, tile, out=out)


def _support(depth: torch.Tensor, centers: torch.Tensor, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
    """(indices [n, pixels] of the bins around each depth, the teacher's probability in them).

    n is the most that any of these pixels needs; the bins of a pixel are neighbours.
    """
    depth = depth.to(centers.dtype)
    width = dpm_width(depth, target.sigma, target.sigma_share)
    reach = _reach(depth, width, centers, target)
    # one more on each side, so that rounding decides nothing
    first = torch.searchsorted(centers, depth - reach).sub_(1).clamp_(min=0)
    last = torch.searchsorted(centers, depth + reach).clamp_(max=len(centers) - 1)
    count = int((last - first).max()) + 1
    first.clamp_(max=len(centers) - count)
    index = first + torch.arange(count, device=depth.device)[:, None]
    scores = centers.take(index).sub_(depth).square_().mul_(-0.5 / width**2)
    if target.form == "released":
        # softmax over densities; what lies under the floor gets the score -1000, which is probability 0
        density = scores.clamp_(min=-80.0).exp_().mul_(1 / (width * math.sqrt(2 * math.pi)))
        scores = density.masked_fill_(density < DENSITY_FLOOR, -torch.inf)
    return index, torch.softmax(scores, dim=0)


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
