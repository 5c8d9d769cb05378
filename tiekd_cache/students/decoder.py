"""The DenseDepth decoder of the published students: resize, join with the encoder's feature, two convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from tiekd_cache.errors import ConfigError, ShapeError

WIDTH_MULTIPLE = 8
"""Scaled widths are rounded to multiples of this many channels."""

LARGEST_WIDTH, SMALLEST_WIDTH = 512, 128
"""Between these the decoder's channels halve for encoders without a published one."""


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
        check_features(features, len(self.merge) + 1)
        coarsest, *finer = reversed(features)
        x: torch.Tensor = self.bottom(coarsest)
        for merge, skip in zip(self.merge, finer, strict=True):
            x = merge(torch.cat([resize(x, skip.shape[-2], skip.shape[-1]), skip], dim=1))
        for pair in self.upsample:
            x = pair(resize(x, 2 * x.shape[-2], 2 * x.shape[-1]))
        return x


def check_features(features: Sequence[torch.Tensor], expected: int) -> None:
    """Raises ShapeError where a decoder gets another number of features than it was built for."""
    if len(features) != expected:
        raise ShapeError(f"The decoder was built for {expected} features, not {len(features)}.")


def resize(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """[B,C,h,w] -> [B,C,height,width], bilinear with align_corners=True; itself where the size is right."""
    if x.shape[-2:] == (height, width):
        return x
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=True)


def fitting_shape(channels: Sequence[int], strides: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Widths and number of doublings of a `DenseDepthDecoder` for an encoder that nobody published one for.

    The widths start from the coarsest feature's channels, at most 512, and halve with every step down to 128 (or stay,
    where they start from fewer); doublings lead from the finest feature to the image's size.

    Returns:
        (widths coarse to fine, one a feature; doublings).
    """
    widths = [min(channels[-1], LARGEST_WIDTH)]
    while len(widths) < len(channels):
        widths.append(min(widths[-1], max(SMALLEST_WIDTH, widths[-1] // 2)))
    return tuple(widths), round(math.log2(strides[0]))
