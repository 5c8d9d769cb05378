"""The DenseDepth decoder of the published students: resize, join with the encoder's feature, two convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from tiekd_cache.errors import ConfigError, ShapeError

WIDTH_MULTIPLE = 8
"""Scaled widths are rounded to multiples of this many channels."""


def scale_widths(widths: Sequence[int], factor: float) -> tuple[int, ...]:
    """Channel numbers times `factor`, each rounded to the nearest multiple of 8 and at least 8.

    Raises:
        ConfigError: factor is not in (0, 4].
    """
    if not 0 < factor <= 4:
        raise ConfigError(f"decoder_width = {factor}: must lie in (0, 4]; 1.0 is the published decoder.")
    return tuple(max(WIDTH_MULTIPLE, round(width * factor / WIDTH_MULTIPLE) * WIDTH_MULTIPLE) for width in widths)


class ConvPair(nn.Module):
    """Two 3x3 convolutions with bias, each followed by ReLU; no normalisation."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_a = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv_b = nn.Conv2d(out_channels, out_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B,in,h,w] -> [B,out,h,w]."""
        return F.relu(self.conv_b(F.relu(self.conv_a(x))))


class DenseDepthDecoder(nn.Module):
    """From an encoder's features to one map of features at the student's output size.

    A 1x1 convolution without activation on the coarsest feature; then, for each finer one, bilinear resizing to its
    size, joining (resized first, feature second) and a `ConvPair`; then `num_upsamplings` times bilinear doubling
    and a `ConvPair`. All resizing has align_corners=True.

    Args:
        encoder_channels: channels of the encoder's features, fine to coarse.
        widths: output channels of the 1x1 convolution and of each joining step, coarse to fine: as many as features.
        num_upsamplings: doublings at the end; they keep the last width.
    Raises:
        ConfigError: the numbers of widths and features differ.
    Source: DenseDepth (Alhashim and Wonka, 2018) as in the released TIE-KD students.
    """

    def __init__(self, encoder_channels: Sequence[int], widths: Sequence[int], num_upsamplings: int) -> None:
        super().__init__()
        if len(widths) != len(encoder_channels):
            raise ConfigError(f"{len(widths)} decoder widths for {len(encoder_channels)} encoder features: one each.")
        coarsest, *finer = reversed(encoder_channels)
        self.bottom = nn.Conv2d(coarsest, widths[0], 1)
        self.merge = nn.ModuleList(
            ConvPair(above + skip, width) for above, skip, width in zip(widths[:-1], finer, widths[1:], strict=True)
        )
        self.upsample = nn.ModuleList(ConvPair(widths[-1], widths[-1]) for _ in range(num_upsamplings))
        self.out_channels = widths[-1]
        self._initialise()

    def _initialise(self) -> None:
        # without norm layers, torch's default shrinks the signal by 2 to 3 a convolution: training barely starts
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Encoder features [B,c_i,h_i,w_i], fine to coarse -> [B,out_channels,h,w].

        Raises:
            ShapeError: another number of features than the decoder was built for.
        """
        if len(features) != len(self.merge) + 1:
            raise ShapeError(f"The decoder was built for {len(self.merge) + 1} features, not {len(features)}.")
        coarsest, *finer = reversed(features)
        x: torch.Tensor = self.bottom(coarsest)
        for merge, skip in zip(self.merge, finer, strict=True):
            x = merge(torch.cat([_resize(x, skip.shape[-2], skip.shape[-1]), skip], dim=1))
        for pair in self.upsample:
            x = pair(_resize(x, 2 * x.shape[-2], 2 * x.shape[-1]))
        return x


def _resize(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=True)
