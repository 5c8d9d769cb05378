"""Losses: L_DPM, losses between depth maps, and the objective that sums them."""

from __future__ import annotations

from tiekd_cache.losses.depth import mse, si, ssim
from tiekd_cache.losses.dpm_kl import dpm_kl
from tiekd_cache.losses.fused import fused_dpm_head
from tiekd_cache.losses.loss_config import LossConfig
from tiekd_cache.losses.objective import Objective, ObjectiveResult

__all__ = ["LossConfig", "Objective", "ObjectiveResult", "dpm_kl", "fused_dpm_head", "mse", "si", "ssim"]
