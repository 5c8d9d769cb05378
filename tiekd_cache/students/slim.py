"""A light decoder: separable convolutions on few channels, ending at half of the image's size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tiekd_cache.students.decoder import check_features, resize, scale_widths

WIDTHS = ((2, 32), (4, 96), (8, 128), (16, 192), (32, 256))
"""(stride, channels of the decoder's map up to that stride) at decoder_width 1; coarser maps have the last."""


def slim_width(stride: int) -> int:
    """Channels of the decoder's map at a stride."""
    return next((width for limit, width in WIDTHS if stride <= limit), WIDTHS[-1][1])


def _separable(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    ]


class SlimDecoder(nn.Module):
    """From an encoder's features to one map of few channels at half of the image's size.

    A 1x1 convolution on the coarsest feature; then, for each finer one, bilinear resizing to its size, joining
    (resized first, feature second) and two depthwise-separable convolutions; then doublings with the same two
    convolutions until half of the image's size (none where the encoder has a feature that is as fine). Batch norm and
    ReLU follow every convolution. Channels go by the stride of the map, not by the encoder: see `WIDTHS`.

    The 1x1 head to 257 bins costs 0.11 GMAC a channel at 352x1216, whatever comes before: hence 32 channels at the end.

    Args:
        encoder_channels: channels of the encoder's features, fine to coarse.
        strides: of these features.
        width: multiplies all channels, which are then rounded to multiples of 8.
    Raises:
        ConfigError: width is not in (0, 4].
    """

    def __init__(self, encoder_channels: Sequence[int], strides: Sequence[int], width: float = 1.0) -> None:
        super().__init__()
        coarsest, *finer = reversed(encoder_channels)
        doublings = [strides[0] >> i for i in range(1, strides[0].bit_length()) if strides[0] >> i >= 2]
        widths = scale_widths([slim_width(stride) for stride in (*reversed(strides), *doublings)], width)
        self.bottom = nn.Sequential(nn.Conv2d(coarsest, widths[0], 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        skips = [*finer, *(0 for _ in doublings)]
        blocks = [
            nn.Sequential(*_separable(above + skip, out), *_separable(out, out))
            for above, skip, out in zip(widths[:-1], skips, widths[1:], strict=True)
        ]
        self.merge = nn.ModuleList(blocks[: len(finer)])
        self.upsample = nn.ModuleList(blocks[len(finer) :])
        self.out_channels = widths[-1]

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
        for block in self.upsample:
            x = block(resize(x, 2 * x.shape[-2], 2 * x.shape[-1]))
        return x
