"""The decoder of AdaBins and its adaptive bins: features to depth at half the image's size.

Source: Bhat et al., "AdaBins: Depth Estimation using Adaptive Bins", section 3; what the paper leaves open follows the
public PyTorch network, `shariqfarooq123/AdaBins`, whose checkpoints name the modules here. The depth toolbox's variant
(`zhyever/Monocular-Depth-Estimation-Toolbox`) differs in three places; `toolbox` says which one is meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

PATCH_PX = 16
"""Edge of a patch of the decoder's map: of 32 x 32 pixels of the image, as that map has half its size."""
NUM_QUERIES = 128
MAX_PATCHES = 500
"""Patches that have a learned position."""
NUM_BINS = 256
_EMBEDDING = 128


class AdaBinsMaps(NamedTuple):
    """What the decoder computes.

    Attributes:
        depth: [B,1,h,w] metres, float32, between the ends of the depth range.
        bin_edges: [B,257] metres, float32, rising.
    """

    depth: torch.Tensor
    bin_edges: torch.Tensor


class UpSample(nn.Module):
    """Bilinear to the size of the skip connection, then two 3x3 convolutions, each normalised and activated."""

    def __init__(self, in_channels: int, out_channels: int, *, toolbox: bool) -> None:
        super().__init__()

        def block(channels: int) -> list[nn.Module]:
            activation = nn.ReLU() if toolbox else nn.LeakyReLU(0.01)
            return [
                nn.Conv2d(channels, out_channels, 3, padding=1, bias=not toolbox),
                nn.BatchNorm2d(out_channels),
                activation,
            ]

        self._net = nn.Sequential(*block(in_channels), *block(out_channels))

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """[B,C,h,w] and [B,C',H,W] -> [B,C'',H,W]."""
        x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=True)
        out: torch.Tensor = self._net(torch.cat([x, skip], dim=1))
        return out


class AdaBinsDecoder(nn.Module):
    """Five feature maps -> 128 channels at half the image's size.

    Args:
        feature_channels: channels of the features at 1/2, 1/4, 1/8, 1/16 and 1/32.
        toolbox: the depth toolbox's variant.
    """

    def __init__(self, feature_channels: Sequence[int], *, toolbox: bool) -> None:
        super().__init__()
        c2, c4, c8, c16, c32 = feature_channels
        # A 1x1 convolution that pads makes the authors' map grow by a border, which the first upsampling takes in.
        self.conv2 = nn.Conv2d(c32, 2048, 1, padding=0 if toolbox else 1)
        self.up1 = UpSample(2048 + c16, 1024, toolbox=toolbox)
        self.up2 = UpSample(1024 + c8, 512, toolbox=toolbox)
        self.up3 = UpSample(512 + c4, 256, toolbox=toolbox)
        self.up4 = UpSample(256 + c2, 128, toolbox=toolbox)
        self.conv3 = nn.Conv2d(128, _EMBEDDING, 3, padding=1)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Features at 1/2, 1/4, 1/8, 1/16, 1/32 of [B,3,H,W] -> [B,128,H/2,W/2]."""
        skip2, skip4, skip8, skip16, deepest = features
        x = self.up1(self.conv2(deepest), skip16)
        x = self.up4(self.up3(self.up2(x, skip8), skip4), skip2)
        out: torch.Tensor = self.conv3(x)
        return out


class PatchTransformer(nn.Module):
    """Patches of the decoder's map, with learned positions, through four transformer layers."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(_EMBEDDING, nhead=4, dim_feedforward=1024)
        self.transformer_encoder = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False)
        self.embedding_convPxP = nn.Conv2d(_EMBEDDING, _EMBEDDING, PATCH_PX, stride=PATCH_PX)
        self.positional_encodings = nn.Parameter(torch.rand(MAX_PATCHES, _EMBEDDING))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B,128,h,w] -> [S,B,128], one token for each of the S patches, row by row."""
        tokens = self.embedding_convPxP(x).flatten(2).permute(2, 0, 1)
        out: torch.Tensor = self.transformer_encoder(tokens + self.positional_encodings[: len(tokens), None])
        return out


class AdaptiveBins(nn.Module):
    """The decoder's map -> bin widths of the whole image, and an attention map for each query.

    The transformer's first token becomes the widths, the next 128 the queries: it takes 129 to 500 patches.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patch_transformer = PatchTransformer()
        self.conv3x3 = nn.Conv2d(_EMBEDDING, _EMBEDDING, 3, padding=1)
        self.regressor = nn.Sequential(
            nn.Linear(_EMBEDDING, 256),
            nn.LeakyReLU(0.01),
            nn.Linear(256, 256),
            nn.LeakyReLU(0.01),
            nn.Linear(256, NUM_BINS),
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B,128,h,w] -> ([B,256] widths that add up to 1, [B,128,h,w] attention maps), both float32."""
        tokens = self.patch_transformer(x)
        pixels = self.conv3x3(x)
        # What becomes metres is computed in float32 under autocast too: 16 bits would give 80 m steps of 0.3 m.
        with torch.autocast(x.device.type, enabled=False):
            tokens, pixels = tokens.float(), pixels.float()
            queries = tokens[1 : NUM_QUERIES + 1].permute(1, 0, 2)
            attention = torch.einsum("bqc,bchw->bqhw", queries, pixels)
            widths = F.relu(self.regressor(tokens[0])) + 0.1
            return widths / widths.sum(dim=1, keepdim=True), attention


def bins_depth(widths: torch.Tensor, logits: torch.Tensor, depth_range: tuple[float, float]) -> AdaBinsMaps:
    """Depth as the mean of the bins' centres, weighted by each pixel's probabilities.

    Args:
        widths: [B,N] float32, that add up to 1.
        logits: [B,N,h,w] float32.
        depth_range: (min, max) metres: where the first bin begins and the last one ends.
    """
    nearest, farthest = depth_range
    edges = nearest + F.pad(((farthest - nearest) * widths).cumsum(dim=1), (1, 0))
    centres = (edges[:, 1:] + edges[:, :-1]) / 2
    depth = torch.einsum("bnhw,bn->bhw", logits.softmax(dim=1), centres)
    return AdaBinsMaps(depth.unsqueeze(1), edges)
