"""Which objective: the named ones, the terms that they are sums of, and the settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from tiekd_cache.errors import ConfigError

GT = "gt_"
"""Before a term's name: against ground truth instead of the teacher."""

TERMS = ("dpm", "ssim", "mse", "si", "gt_ssim", "gt_mse", "gt_si")
"""Every term: `dpm` = mean KL to the teacher's DPM (L_DPM), `ssim` = 1 - SSIM of the depths (L_DEPTH), `mse`, `si`."""

OBJECTIVES: Mapping[str, Mapping[str, float]] = {
    "tie-kd": {"dpm": 0.1, "ssim": 0.9},
    "tie-kd-dpm": {"dpm": 1.0},
    "tie-kd-depth": {"ssim": 1.0},
    "res-kd-ssim": {"ssim": 1.0},
    "res-kd-mse": {"mse": 1.0},
    "res-kd-si": {"si": 1.0},
    "res-kd-ssim-si": {"ssim": 1.5, "si": 1.0},
    "res-kd-ssim-mse": {"ssim": 1.5, "mse": 1.0},
    "baseline": {"gt_si": 1.0},
}
"""The paper's objectives and the weights of their terms; of `tie-kd`, with its alpha of 0.1."""

TIE_KD_SCALE = 10.0
"""The release multiplies the total of `tie-kd` by this, and nothing else by anything."""


@dataclass(frozen=True)
class LossConfig:
    """Which objective; the defaults are the paper's for KITTI.

    Attributes:
        name: one of `OBJECTIVES`.
        terms: term -> weight, >= 0: any sum of `TERMS` instead of a named objective. A term of weight 0 is logged and
            not trained. Empty = by name.
        alpha: weight of L_DPM in `tie-kd`, 0..1; L_DEPTH has the rest. Of no effect on anything else.
        sigma: width of the teacher's DPM, metres.
        sigma_share: the width at depth d is max(sigma, sigma_share * d) metres; 0 = sigma everywhere, as in the paper.
        form: of the teacher's DPM and of the KL, `released` or `gaussian`.
        scale: multiplies the total; None = the release's, 10 for `tie-kd` and 1 for everything else. AdamW does not
            notice, only the clipping of gradients does.
    """

    name: str = "tie-kd"
    terms: dict[str, float] = field(default_factory=dict)
    alpha: float = 0.1
    sigma: float = 0.8
    sigma_share: float = 0.0
    form: str = "released"
    scale: float | None = None

    def __post_init__(self) -> None:
        if self.name not in OBJECTIVES:
            raise ConfigError(f"loss.name = '{self.name}' is not known. Use one of: {', '.join(OBJECTIVES)}.")
        if self.terms and self.name != LossConfig.name:
            raise ConfigError(
                f"loss.name = '{self.name}' and loss.terms are both given. The terms alone make the sum: leave out one."
            )
        for term, weight in self.terms.items():
            if term not in TERMS:
                raise ConfigError(f"loss.terms has '{term}', which is no term. Use any of: {', '.join(TERMS)}.")
            if not 0 <= weight < math.inf:
                raise ConfigError(f"loss.terms.{term} = {weight}: a weight must be finite, and 0 or more.")
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"loss.alpha = {self.alpha}: the weight of L_DPM must lie in 0..1.")
        if self.terms and not any(self.terms.values()):
            raise ConfigError("loss.terms has no weight above 0: there is nothing to minimise. Give one term a weight.")
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise ConfigError(f"loss.scale = {self.scale}: must be positive and finite.")

    @property
    def weights(self) -> dict[str, float]:
        """Term -> weight, before the scale."""
        if self.terms:
            return dict(self.terms)
        return {"dpm": self.alpha, "ssim": 1 - self.alpha} if self.name == "tie-kd" else dict(OBJECTIVES[self.name])

    @property
    def total_scale(self) -> float:
        """What the weighted sum is multiplied by."""
        if self.scale is not None:
            return self.scale
        return TIE_KD_SCALE if self.name == "tie-kd" and not self.terms else 1.0

    @property
    def student_output(self) -> str:
        """The student that goes with it in the paper: `depth` for Res-KD and the baseline, else `dpm`."""
        return "depth" if self.name.startswith("res-kd") or self.name == "baseline" else "dpm"
