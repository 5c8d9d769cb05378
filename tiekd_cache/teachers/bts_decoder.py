"""The decoder of BTS: dense atrous pooling, then local planar guidance at 1/8, 1/4 and 1/2 of the resolution.

Source: Lee et al., "From Big to Small: Multi-Scale Local Planar Guidance for Monocular Depth Estimation", section 3;
what the paper leaves open (order of normalisation and activation, what is concatenated with what) follows the public
PyTorch network, `cleinc/bts`. Module names are those of its checkpoints, so that the state dictionary of this decoder
*is* the published layout.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

_EPS = 1.1e-5  # of the normalisations outside the atrous branches
_MOMENTUM = 0.01
_DILATIONS = (3, 6, 12, 18, 24)


class BtsMaps(NamedTuple):
    """What the decoder computes, each [B,1,H,W] at the image's size, as a fraction of the maximum depth.

    Attributes:
        depth: the answer, in (0, 1).
        plane8: depth of the local planes of 8x8 pixels; unbounded, as are the next two.
        plane4: of 4x4 pixels.
        plane2: of 2x2 pixels.
        detail: the finest guidance, in (0, 1).
    """

    depth: torch.Tensor
    plane8: torch.Tensor
    plane4: torch.Tensor
    plane2: torch.Tensor
    detail: torch.Tensor


def _conv_elu(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """A convolution without bias that keeps the size, then ELU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False), nn.ELU()
    )


def _norm(channels: int, eps: float = _EPS) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=eps, momentum=_MOMENTUM)


class UpConv(nn.Module):
    """Nearest upsampling to twice the size, a 3x3 convolution, ELU; its normalisation stands outside, after it."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B,C,h,w] -> [B,C',2h,2w]."""
        return F.elu(self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")))


class _AtrousLayers(nn.Module):
    """Normalisation (left out where the input is normalised already), then a dilated bottleneck."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int, *, norm_first: bool) -> None:
        super().__init__()
        if norm_first:
            self.first_bn: nn.Module = _norm(in_channels)
        else:
            self.first_bn = nn.Identity()
        self.aconv_sequence = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(in_channels, out_channels * 2, 1, bias=False),
            _norm(out_channels * 2, eps=1e-5),
            nn.ReLU(),
            nn.Conv2d(out_channels * 2, out_channels, 3, padding=dilation, dilation=dilation, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B,C,h,w] -> [B,C',h,w]."""
        out: torch.Tensor = self.aconv_sequence(self.first_bn(x))
        return out


class AtrousConv(nn.Module):
    """One branch of the dense atrous pooling."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int, *, norm_first: bool = True) -> None:
        super().__init__()
        self.atrous_conv = _AtrousLayers(in_channels, out_channels, dilation, norm_first=norm_first)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B,C,h,w] -> [B,C',h,w]."""
        out: torch.Tensor = self.atrous_conv(x)
        return out


class Reduction(nn.Module):
    """A chain of 1x1 convolutions that halves the channels down to 8, then to the last layer's few.

    Args:
        in_channels: channels of the input.
        first_channels: channels after the first convolution.
        planes: True ends in the 3 raw plane parameters, False in 1 channel in (0, 1).
    """

    def __init__(self, in_channels: int, first_channels: int, *, planes: bool) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        while first_channels >= 8:
            layers[f"inter_{in_channels}_{first_channels}"] = _conv_elu(in_channels, first_channels, 1)
            in_channels, first_channels = first_channels, first_channels // 2
        if planes:
            layers["plane_params"] = nn.Conv2d(in_channels, 3, 1, bias=False)
        else:
            layers["final"] = nn.Sequential(nn.Conv2d(in_channels, 1, 1, bias=False), nn.Sigmoid())
        self.reduc = nn.Sequential(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B,C,h,w] -> [B,3,h,w] raw plane parameters or [B,1,h,w]."""
        out: torch.Tensor = self.reduc(x)
        return out


def local_planar_guidance(raw: torch.Tensor, block: int) -> torch.Tensor:
    """Depth of a plane for each block of pixels, at `block` times the resolution.

    A plane with unit normal (n1, n2, n3) at distance n4 has the depth n4 / (n1 u + n2 v + n3) at the position (u, v)
    inside its block, (i - (block - 1) / 2) / block along each axis.

    Args:
        raw: [B,3,h,w]; through a sigmoid they give the normal's polar angle in (0, pi/3), its azimuth in (0, 2 pi)
            and the distance in (0, 1) of the maximum depth.
        block: edge of a block, pixels.
    Returns:
        [B,1,h*block,w*block], fraction of the maximum depth; unbounded, since a plane may be seen edge-on.
    """
    raw = raw.to(torch.promote_types(raw.dtype, torch.float32))  # elementwise: autocast leaves float32 as it is
    polar, azimuth, distance = torch.sigmoid(raw).unsqueeze(-1).unsqueeze(-3).unbind(1)  # each [B,h,1,w,1]
    polar, azimuth = polar * (math.pi / 3), azimuth * (2 * math.pi)
    offset = (torch.arange(block, device=raw.device, dtype=raw.dtype) - (block - 1) / 2) / block
    n1, n2, n3 = torch.sin(polar) * torch.cos(azimuth), torch.sin(polar) * torch.sin(azimuth), torch.cos(polar)
    depth = distance / (n1 * offset + n2 * offset[:, None, None] + n3)  # [B,h,block,w,block]
    return depth.flatten(3).flatten(1, 2).unsqueeze(1)


class BtsDecoder(nn.Module):
    """Five feature maps of the encoder -> depth at the image's size.

    Args:
        feature_channels: channels of the encoder's features at 1/2, 1/4, 1/8, 1/16 and 1/32.
        depth_bias: whether the last layer has a bias (the network of `cleinc/bts` has none).
    """

    def __init__(self, feature_channels: Sequence[int], *, depth_bias: bool = False) -> None:
        super().__init__()
        c2, c4, c8, c16, c32 = feature_channels
        self.upconv5, self.bn5 = UpConv(c32, 512), _norm(512)
        self.conv5 = _conv_elu(512 + c16, 512, 3)
        self.upconv4, self.bn4 = UpConv(512, 256), _norm(256)
        self.conv4, self.bn4_2 = _conv_elu(256 + c8, 256, 3), _norm(256)
        self.daspp_3 = AtrousConv(256, 128, 3, norm_first=False)  # bn4_2 has just normalised its input
        for index, dilation in enumerate(_DILATIONS[1:], start=1):
            self.add_module(f"daspp_{dilation}", AtrousConv(256 + c8 + 128 * index, 128, dilation))
        self.daspp_conv = _conv_elu(256 + 128 * len(_DILATIONS), 128, 3)
        self.reduc8x8 = Reduction(128, 128, planes=True)
        self.upconv3, self.bn3 = UpConv(128, 128), _norm(128)
        self.conv3 = _conv_elu(128 + c4 + 1, 128, 3)
        self.reduc4x4 = Reduction(128, 64, planes=True)
        self.upconv2, self.bn2 = UpConv(128, 64), _norm(64)
        self.conv2 = _conv_elu(64 + c2 + 1, 64, 3)
        self.reduc2x2 = Reduction(64, 32, planes=True)
        self.upconv1 = UpConv(64, 32)
        self.reduc1x1 = Reduction(32, 16, planes=False)
        self.conv1 = _conv_elu(32 + 4, 32, 3)
        self.get_depth = nn.Sequential(nn.Conv2d(32, 1, 3, padding=1, bias=depth_bias), nn.Sigmoid())

    def _dense_atrous_pooling(self, features: torch.Tensor, grown: torch.Tensor) -> torch.Tensor:
        """Each branch sees what all branches before it found.

        Args:
            features: [B,256,h,w]: input of the first branch, and part of the result.
            grown: [B,C,h,w], what those features were made of: the other branches' input grows from it instead.
        """
        branches = [self.daspp_3(features)]
        for dilation in _DILATIONS[1:]:
            grown = torch.cat([grown, branches[-1]], dim=1)
            branches.append(self.get_submodule(f"daspp_{dilation}")(grown))
        out: torch.Tensor = self.daspp_conv(torch.cat([features, *branches], dim=1))
        return out

    def forward(self, features: Sequence[torch.Tensor]) -> BtsMaps:
        """Features at 1/2, 1/4, 1/8, 1/16, 1/32 -> the maps at full size."""
        skip2, skip4, skip8, skip16, deepest = features
        x = self.bn5(self.upconv5(F.relu(deepest)))
        x = self.conv5(torch.cat([x, skip16], dim=1))
        grown = torch.cat([self.bn4(self.upconv4(x)), skip8], dim=1)
        x = self._dense_atrous_pooling(self.bn4_2(self.conv4(grown)), grown)

        plane8 = local_planar_guidance(self.reduc8x8(x), 8)
        x = self.bn3(self.upconv3(x))
        x = self.conv3(torch.cat([x, skip4, plane8[..., ::4, ::4]], dim=1))
        plane4 = local_planar_guidance(self.reduc4x4(x), 4)
        x = self.bn2(self.upconv2(x))
        x = self.conv2(torch.cat([x, skip2, plane4[..., ::2, ::2]], dim=1))
        plane2 = local_planar_guidance(self.reduc2x2(x), 2)
        x = self.upconv1(x)
        detail = self.reduc1x1(x)
        x = self.conv1(torch.cat([x, detail, plane2, plane4, plane8], dim=1))
        with torch.autocast(x.device.type, enabled=False):  # 16 bits would give 80 m steps of 0.3 m
            depth = self.get_depth(x.float())
        return BtsMaps(depth, plane8, plane4, plane2, detail)
