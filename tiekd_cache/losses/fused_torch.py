"""The arithmetic of a tile of the fused head in plain torch: any device, any dtype.

The teacher's DPM is built only over the bins in which it is not zero. Two [K, pixels] buffers serve all tiles.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from tiekd_cache.dpm import DENSITY_FLOOR, FLOORED_SCORE, dpm_width
from tiekd_cache.losses.dpm_kl import EPSILON

if TYPE_CHECKING:
    from tiekd_cache.losses.fused import Target
    from tiekd_cache.losses.fused_tiles import Head

SUPPORT_SIGMAS = 7.0
"""Half-width of the normalised Gaussian's support: what lies outside weighs less than float32 can add (3e-11)."""


class TorchTiles:
    """What lies between the matrix products of a tile."""

    def __init__(self, head: Head) -> None:
        self._head = head
        size = len(head.matrix) * head.tile_pixels
        self._buffer, self._slope_buffer = (
            torch.empty(size, dtype=head.dtype, device=head.matrix.device) for _ in range(2)
        )
        self._sums = torch.stack([torch.ones_like(head.centers), head.centers])

    def terms(
        self,
        features: torch.Tensor,
        teacher_depth: torch.Tensor,
        weights: torch.Tensor,
        kl: torch.Tensor,
        student_depth: torch.Tensor,
        log_norm: torch.Tensor,
    ) -> None:
        """Fill in what a tile's forward pass yields.

        Args:
            features: [C,n].
            teacher_depth: [T,n] metres; T may be 0.
            weights: [T,n], each teacher's share.
            kl: [n], zeros; to be filled with the weighted KL, as are
            student_depth: [n] metres, and
            log_norm: [n], the log of the sum of the logits' exponentials.
        """
        head = self._head
        logits = self._logits(features, head.bias[:, None])
        highest = logits.amax(0)
        logits.sub_(highest)
        supports = [_Support(depth, head.centers, head.target) for depth in teacher_depth]
        scores = [support.of(logits) for support in supports]
        total, weighted = (self._sums @ logits.exp_()).unbind()
        torch.div(weighted, total, out=student_depth)
        log_total = total.log_()
        torch.add(highest, log_total, out=log_norm)
        for share, support, score in zip(weights, supports, scores, strict=True):
            kl += share * _kl(score.sub_(log_total), support.dpm, head.target)

    def slopes(
        self,
        features: torch.Tensor,
        teacher_depth: torch.Tensor,
        weights: torch.Tensor,
        grad_kl: torch.Tensor,
        grad_depth: torch.Tensor,
        student_depth: torch.Tensor,
        log_norm: torch.Tensor,
    ) -> torch.Tensor:
        """[K,n] gradient of the logits, valid until the next call; the loss's gradients in KL and depth are [n]."""
        head, beside = self._head, []
        # d depth / d logit_k = p_k (c_k - depth)
        everywhere = -grad_depth * student_depth
        log_probability = self._logits(features, head.bias[:, None] - log_norm)
        for depth, share in zip(teacher_depth, weights, strict=True):
            support, upstream = _Support(depth, head.centers, head.target), grad_kl * share
            constant, in_support = _kl_gradient(support.of(log_probability), support.dpm, head.target)
            everywhere = torch.addcmul(everywhere, upstream, constant)
            beside.append((support, in_support.mul_(upstream)))
        slope = self._slope_buffer[: log_probability.numel()].view_as(log_probability)
        torch.addcmul(everywhere, head.centers[:, None], grad_depth, out=slope)
        slope.mul_(log_probability.exp_())
        for support, in_support in beside:
            support.add_to(slope, in_support)
        return slope

    def _logits(self, features: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """[K, pixels] logits without bias, plus `shift` (of a shape that broadcasts), in the buffer."""
        matrix = self._head.matrix
        out = self._buffer[: len(matrix) * features.shape[1]].view(len(matrix), -1)
        return torch.addmm(shift, matrix, features, out=out)


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
            # softmax over densities; what lies under the floor gets probability 0
            density = scores.clamp_(min=-80.0).exp_().mul_(1 / (width * math.sqrt(2 * math.pi)))
            scores = density.masked_fill_(density < DENSITY_FLOOR, FLOORED_SCORE)
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
