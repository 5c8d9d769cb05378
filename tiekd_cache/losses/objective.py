"""What a training step minimises: a weighted sum of named terms, against one teacher, several, or ground truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tiekd_cache.dpm import Bins, check_depth, check_form
from tiekd_cache.errors import ConfigError, ShapeError
from tiekd_cache.losses.depth import mse, si, ssim
from tiekd_cache.losses.fused import Target, dpm_terms, pixel_weights
from tiekd_cache.losses.loss_config import GT, LossConfig
from tiekd_cache.losses.masked import masked_mean

DepthLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

DEPTH_LOSSES: Mapping[str, DepthLoss] = {
    "ssim": lambda prediction, target, valid_mask: 1 - ssim(prediction, target, valid_mask),
    "mse": mse,
    "si": si,
}
"""Terms between two depth maps; with `gt_` before the name, against ground truth instead of the teacher."""


@dataclass(frozen=True)
class ObjectiveResult:
    """One evaluation of an objective.

    Attributes:
        total: scalar with gradient: what to minimise.
        terms: name -> detached scalar, each term by itself, neither weighted nor scaled.
        student_depth: [B,1,h,w] metres, detached: for pictures and running metrics.
    """

    total: torch.Tensor
    terms: dict[str, torch.Tensor]
    student_depth: torch.Tensor


class Objective:
    """scale * (sum of weight * term), callable on a student's features and head.

    A teacher's pixel counts where it is inside `valid_mask` and not 0, ground truth where it is measured and inside
    the bins. With several teachers, `dpm` is the mean over the pixels that any of them answers, there with the weights
    of those that do; the other terms are weighted means of the term against each teacher, over its own pixels.

    Attributes:
        weights: term -> its weight, before the scale.
        scale: multiplies the sum.
        target: bins, sigma and form of the teacher's DPM.
        output: the student's, `dpm` (head = 1x1 convolution to the bins' logits) or `depth` (head gives metres).
        teacher_weights: weight of each teacher, as given; () = all the same.
        needs_gt: whether ground truth must be handed in.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        target: Target,
        *,
        scale: float = 1.0,
        output: str = "dpm",
        teacher_weights: Sequence[float] = (),
    ) -> None:
        """Take the parts.

        Raises:
            ConfigError: `dpm` for a student without a DPM; teacher weights negative, not finite, or all 0.
            ConfigError, RangeError: a form or width of the target that makes no DPM.
        """
        if output not in ("dpm", "depth"):
            raise ConfigError(f"Student output '{output}' is not known. Use 'dpm' or 'depth'.")
        if output == "depth" and "dpm" in weights:
            raise ConfigError(
                "The loss term 'dpm' needs a student with a DPM, this one's output is 'depth'. Use student.output = "
                "'dpm', or a loss without it."
            )
        if teacher_weights and not (all(0 <= w < math.inf for w in teacher_weights) and any(teacher_weights)):
            raise ConfigError(
                f"Teacher weights {list(teacher_weights)}: must be finite, 0 or more, one of them above 0."
            )
        check_form(target.form, target.sigma, target.bins, target.sigma_share)
        self.weights, self.target, self.scale, self.output = dict(weights), target, scale, output
        self.teacher_weights = tuple(teacher_weights)
        self.needs_gt = any(term.startswith(GT) for term in weights)

    @classmethod
    def from_config(
        cls, config: LossConfig, bins: Bins, *, output: str = "dpm", teacher_weights: Sequence[float] = ()
    ) -> Objective:
        """The objective that the settings name, over these bins, for a student of this output."""
        return cls(
            config.weights,
            Target(bins, config.sigma, config.form, config.sigma_share),
            scale=config.total_scale,
            output=output,
            teacher_weights=teacher_weights,
        )

    def __call__(
        self,
        features: torch.Tensor,
        head: nn.Module,
        teacher_depth: torch.Tensor,
        valid_mask: torch.Tensor | None,
        gt_depth: torch.Tensor | None = None,
        rows_cut: int = 0,
    ) -> ObjectiveResult:
        """The loss of a batch.

        Args:
            features: [B,C,h,w], what the student returns.
            head: what the student makes its output with; see `output`.
            teacher_depth: [B,T,h,w] metres, of T teachers; 0 = missing.
            valid_mask: [B,T,h,w] bool, where each teacher's depth counts; None = all pixels.
            gt_depth: [B,1,h,w] metres; 0 = missing. The mask says nothing about it.
            rows_cut: so many rows at the top, where there is no LiDAR, are left out of the losses.
        Returns:
            The loss; `student_depth` is without the rows that were cut.
        Raises:
            ShapeError: sizes differ, as for a student whose output is not of the image's size.
            RangeError: a depth that counts lies outside the bins.
            ConfigError: the objective needs ground truth and got none, or has weights of another number of teachers.
        """
        batch, _, height, width = features.shape
        num_teachers = max(1, teacher_depth.shape[1]) if teacher_depth.dim() == 4 else 1
        for name, tensor, channels in (
            ("teacher_depth", teacher_depth, num_teachers),
            ("valid_mask", valid_mask, num_teachers),
            ("gt_depth", gt_depth, 1),
        ):
            size = (batch, channels, height, width)
            if tensor is not None and tensor.shape != size:
                raise ShapeError(f"{name} is {list(tensor.shape)}, but the features call for {list(size)}.")
        shares = self._teacher_shares(num_teachers)
        if valid_mask is None:
            valid_mask = torch.ones_like(teacher_depth, dtype=torch.bool)
        teacher_depth, valid_mask = teacher_depth[:, :, rows_cut:], valid_mask[:, :, rows_cut:]
        heard = torch.tensor([share > 0 for share in shares], device=features.device)[:, None, None]
        present = check_depth(teacher_depth, self.target.bins, torch.where(heard, valid_mask, False))
        kl_map, student_depth = self._student_output(features, head, teacher_depth, present, shares, rows_cut)
        terms: dict[str, torch.Tensor] = {}
        for name in self.weights:
            if name == "dpm":
                terms[name] = masked_mean(kl_map, present.any(dim=1, keepdim=True))
            elif name.startswith(GT):
                depth, measured = self._ground_truth(gt_depth, rows_cut)
                terms[name] = _mean_over_teachers(
                    DEPTH_LOSSES[name.removeprefix(GT)], student_depth, depth, measured, (1.0,)
                )
            else:
                terms[name] = _mean_over_teachers(DEPTH_LOSSES[name], student_depth, teacher_depth, present, shares)
        trained = (weight * terms[name] for name, weight in self.weights.items() if weight)
        total = self.scale * sum(trained, student_depth.new_zeros(()))
        return ObjectiveResult(total, {name: term.detach() for name, term in terms.items()}, student_depth.detach())

    def _teacher_shares(self, num_teachers: int) -> tuple[float, ...]:
        """The weights of the teachers, summing to 1."""
        weights = self.teacher_weights or (1.0,) * num_teachers
        if len(weights) != num_teachers:
            raise ConfigError(
                f"{len(weights)} teacher weights for {num_teachers} teachers. Give one weight for each, or none."
            )
        return tuple(weight / sum(weights) for weight in weights)

    def _student_output(
        self,
        features: torch.Tensor,
        head: nn.Module,
        teacher_depth: torch.Tensor,
        present: torch.Tensor,
        shares: tuple[float, ...],
        rows_cut: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(KL map, 0 where it is not wanted; student depth), each [B,1,h,w]."""
        if self.output == "depth":
            depth: torch.Tensor = head(features)
            size = (features.shape[0], 1, *features.shape[2:])
            if depth.shape != size:
                raise ShapeError(f"The head gives {list(depth.shape)}; with output 'depth' it must be {list(size)}.")
            depth = depth[:, :, rows_cut:]  # after the head, a 3x3 convolution, which looks at the rows above
            depth = depth.to(torch.promote_types(depth.dtype, torch.float32))
            return torch.zeros_like(depth), depth
        num_bins = self.target.bins.num_bins
        if not isinstance(head, nn.Conv2d) or head.bias is None or head.out_channels != num_bins:
            raise ShapeError(f"With output 'dpm' the head must be a 1x1 convolution with bias to {num_bins} logits.")
        weights = pixel_weights(present, shares)
        features = features[:, :, rows_cut:]  # before the head, a 1x1 convolution: the same, and cheaper
        return dpm_terms(
            features, head.weight, head.bias, teacher_depth, weights, self.target, with_kl="dpm" in self.weights
        )

    def _ground_truth(self, gt_depth: torch.Tensor | None, rows_cut: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(ground truth, where it is measured and inside the bins)."""
        if gt_depth is None:
            wanted = ", ".join(term for term in self.weights if term.startswith(GT))
            raise ConfigError(f"The loss {wanted} needs ground truth and got none. Train on frames that have it.")
        gt_depth = gt_depth[:, :, rows_cut:]
        return gt_depth, (gt_depth >= self.target.bins.min_depth) & (gt_depth <= self.target.bins.max_depth)


def _mean_over_teachers(
    loss: DepthLoss,
    student_depth: torch.Tensor,
    depth: torch.Tensor,
    present: torch.Tensor,
    shares: tuple[float, ...],
) -> torch.Tensor:
    """The weighted mean of a loss against each of T depth maps, of those with a pixel that counts; 0 without any."""
    total, answered = student_depth.new_zeros(()), student_depth.new_zeros(())
    for t, share in enumerate(shares):
        if share:
            mask = present[:, t : t + 1]
            weight = share * mask.any().to(student_depth.dtype)
            total = total + weight * loss(student_depth, depth[:, t : t + 1], mask)
            answered = answered + weight
    return total / torch.where(answered > 0, answered, 1)
