"""What a training step minimises: a weighted sum of named terms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from tiekd_cache.dpm import Bins, check_depth, check_form
from tiekd_cache.errors import ConfigError, ShapeError
from tiekd_cache.losses.depth import si, ssim
from tiekd_cache.losses.fused import Target, dpm_terms
from tiekd_cache.losses.masked import masked_mean

TERMS: Mapping[str, tuple[str, ...]] = {
    "tie-kd": ("dpm", "depth"),
    "tie-kd-dpm": ("dpm",),
    "tie-kd-depth": ("depth",),
    "baseline": ("gt_si",),
}
"""Names of objectives and their terms: `dpm` = mean KL to the teacher's DPM (L_DPM), `depth` = 1 - SSIM to the
teacher's depth (L_DEPTH), `gt_si` = SI against ground truth where there is any."""


@dataclass(frozen=True)
class LossConfig:
    """Which objective; the defaults are the paper's for KITTI.

    Attributes:
        name: `tie-kd`, one of its halves alone (`tie-kd-dpm`, `tie-kd-depth`), or `baseline` (ground truth only).
        alpha: weight of L_DPM in `tie-kd`, 0..1; L_DEPTH has the rest. The other names have a single term.
        sigma: width of the teacher's DPM, metres.
        form: of the teacher's DPM and of the KL, `released` or `gaussian`.
        scale: multiplies the total, whatever the name. (The release has 10 in TIE-KD and none in the others; AdamW
            does not notice, only the clipping of gradients does.)
    """

    name: str = "tie-kd"
    alpha: float = 0.1
    sigma: float = 0.8
    form: str = "released"
    scale: float = 10.0

    def __post_init__(self) -> None:
        if self.name not in TERMS:
            raise ConfigError(f"loss.name = '{self.name}' is not known. Use one of: {', '.join(TERMS)}.")
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"loss.alpha = {self.alpha}: the weight of L_DPM must lie in 0..1.")
        if not 0 < self.scale < math.inf:
            raise ConfigError(f"loss.scale = {self.scale}: must be positive and finite.")


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
    """Callable on a student's features and head; see `LossConfig` for the settings.

    `tie-kd` is scale * (alpha * mean KL + (1 - alpha) * (1 - SSIM)); means are over the pixels that are inside
    `valid_mask` and have a teacher depth. `baseline` trains the same DPM student, through its expected depth, on
    ground truth; the paper's baseline is a student without bins.

    Attributes:
        needs_gt: whether ground truth must be handed in.
        weights: term -> its weight, before the scale.
    """

    def __init__(
        self,
        name: str = "tie-kd",
        *,
        bins: Bins,
        alpha: float = 0.1,
        sigma: float = 0.8,
        form: str = "released",
        scale: float = 10.0,
    ) -> None:
        config = LossConfig(name, alpha, sigma, form, scale)
        check_form(config.form, config.sigma, bins)
        self.name, self.alpha, self.sigma, self.form, self.scale = name, alpha, sigma, form, scale
        self.bins = bins
        both = {"dpm": alpha, "depth": 1 - alpha} if name == "tie-kd" else {}
        self.weights = {term: both.get(term, 1.0) for term in TERMS[name]}
        self.needs_gt = "gt_si" in self.weights

    @classmethod
    def from_config(cls, config: LossConfig, bins: Bins) -> Objective:
        """The objective that the settings name, over these bins."""
        return cls(config.name, bins=bins, alpha=config.alpha, sigma=config.sigma, form=config.form, scale=config.scale)

    def __call__(
        self,
        features: torch.Tensor,
        head: nn.Conv2d,
        teacher_depth: torch.Tensor,
        valid_mask: torch.Tensor | None,
        gt_depth: torch.Tensor | None = None,
    ) -> ObjectiveResult:
        """The loss of a batch, rows without LiDAR already cut from every argument.

        Args:
            features: [B,C,h,w], what the student returns.
            head: its 1x1 convolution to the K logits.
            teacher_depth: [B,1,h,w] metres; 0 = missing.
            valid_mask: [B,1,h,w] bool, where the teacher's depth counts; None = all pixels.
            gt_depth: [B,1,h,w] metres; 0 = missing. The mask says nothing about it.
        Raises:
            ShapeError: sizes differ, as for a student whose output is not of the image's size.
            RangeError: a depth that counts lies outside the bins.
            ConfigError: the objective needs ground truth and got none.
        """
        size = (features.shape[0], 1, *features.shape[2:])
        for name, tensor in (("teacher_depth", teacher_depth), ("valid_mask", valid_mask), ("gt_depth", gt_depth)):
            if tensor is not None and tensor.shape != size:
                raise ShapeError(f"{name} is {list(tensor.shape)}, but the features call for {list(size)}.")
        present = check_depth(teacher_depth, self.bins, valid_mask)
        target = Target(self.bins, self.sigma, self.form)
        assert head.bias is not None
        kl_map, student_depth = dpm_terms(
            features, head.weight, head.bias, teacher_depth, present.float(), target, with_kl="dpm" in self.weights
        )
        terms: dict[str, torch.Tensor] = {}
        if "dpm" in self.weights:
            terms["dpm"] = masked_mean(kl_map, present)
        if "depth" in self.weights:
            terms["depth"] = 1 - ssim(student_depth, teacher_depth, present)
        if "gt_si" in self.weights:
            terms["gt_si"] = self._against_gt(student_depth, gt_depth)
        total = self.scale * sum((weight * terms[name] for name, weight in self.weights.items()), kl_map.new_zeros(()))
        return ObjectiveResult(total, {name: term.detach() for name, term in terms.items()}, student_depth.detach())

    def _against_gt(self, student_depth: torch.Tensor, gt_depth: torch.Tensor | None) -> torch.Tensor:
        if gt_depth is None:
            raise ConfigError(f"Loss '{self.name}' needs ground truth and got none. Train on frames that have it.")
        inside = (gt_depth >= self.bins.min_depth) & (gt_depth <= self.bins.max_depth)
        return si(student_depth, gt_depth, inside)
