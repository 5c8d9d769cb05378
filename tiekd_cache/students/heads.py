"""The head of students that regress depth directly: the paper's baselines and Res-KD students."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class DepthHead(nn.Module):
    """Features -> depth: a 3x3 convolution to one channel, then max_depth * sigmoid.

    Args:
        in_channels: of the features.
        max_depth: metres, never reached.
    Source: the plain students of the TIE-KD release.
    """

    def __init__(self, in_channels: int, max_depth: float) -> None:
        super().__init__()
        self.max_depth = max_depth
        self.conv = nn.Conv2d(in_channels, 1, 3, padding=1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[B,C,h,w] -> [B,1,h,w] metres in 0..max_depth, float32 at least, under autocast too."""
        dtype = torch.promote_types(features.dtype, torch.float32)
        weight, bias = self.conv.weight.to(dtype), self.conv.bias
        assert bias is not None
        with torch.autocast(features.device.type, enabled=False):  # bf16 would round the score, by up to 0.2 m
            score = F.conv2d(features.to(dtype), weight, bias.to(dtype), padding=1)
            return self.max_depth * torch.sigmoid(score)
