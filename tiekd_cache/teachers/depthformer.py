"""DepthFormer as published in the depth toolbox: Swin-L with a stem, the HAHI neck, metric depth at half resolution.

Sources: Li et al., "DepthFormer" (2022); `zhyever/Monocular-Depth-Estimation-Toolbox`, `depthformer_swinl_22k_w7`
(80 m at most on KITTI, 10 m on NYU).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from tiekd_cache.teachers.base import RANGES_M, Resize, TeacherDepth
from tiekd_cache.teachers.hahi import HahiNeck
from tiekd_cache.teachers.layouts import DEPTHFORMER
from tiekd_cache.teachers.network import NetworkTeacher, load_network
from tiekd_cache.teachers.swin import STAGE_CHANNELS, STEM_CHANNELS, SwinWithStem

_MIN_DEPTH_M = RANGES_M["kitti"][0]
_SLOPE = 0.01  # of every LeakyReLU


class _UpSample(nn.Module):
    """Brings a map to the size of the next finer one, and mixes the two."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.convA = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.convB = nn.Conv2d(channels_out, channels_out, 3, padding=1)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """[B,C,h,w] and [B,S,H,W] -> [B,channels_out,H,W]."""
        x = F.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=True)
        x = F.leaky_relu(self.convA(torch.cat((x, skip), dim=1)), _SLOPE)
        return F.leaky_relu(self.convB(x), _SLOPE)


class _DepthHead(nn.Module):
    """A 1x1 convolution at the bottom, four steps upwards, and the projection to metres."""

    def __init__(self) -> None:
        super().__init__()
        widths = (STEM_CHANNELS, *STAGE_CHANNELS)[::-1]
        steps = [_UpSample(above + width, width) for above, width in pairwise(widths)]
        self.conv_list = nn.ModuleList([nn.Conv2d(widths[0], widths[0], 1), *steps])
        self.conv_depth = nn.Conv2d(STEM_CHANNELS, 1, 3, padding=1)
        # for random weights alone, which shrink every map: a depth of some metres that varies a little
        nn.init.normal_(self.conv_depth.weight, std=5.0)
        nn.init.constant_(self.conv_depth.bias, 5.0)  # type: ignore[arg-type]

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Five maps, finest first -> [B,1,h,w] float32 metres at the finest map's size, >= 1e-3, no maximum."""
        *skips, x = features
        bottom, *steps = self.conv_list
        x = bottom(x)
        for step, skip in zip(steps, reversed(skips), strict=True):
            x = step(x, skip)
        with torch.autocast(x.device.type, enabled=False):  # half precision is too coarse for metres
            return F.relu(self.conv_depth(x.float())) + _MIN_DEPTH_M


class DepthFormerNetwork(nn.Module):
    """Encoder, neck and head; the state dictionary has the published names, as `DEPTHFORMER` shortens them."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = SwinWithStem()
        self.neck = HahiNeck()
        self.decode_head = _DepthHead()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[B,3,H,W], H and W multiples of 32 -> [B,1,H/2,W/2] float32 metres, not clamped."""
        depth: torch.Tensor = self.decode_head(self.neck(self.backbone(images)))
        return depth


class DepthFormerTeacher(NetworkTeacher):
    """DepthFormer with Swin-L. Its depth does not depend on the focal length. Sizes must be multiples of 32."""

    name = "depthformer"

    def answer(self, images: torch.Tensor, focal_px: torch.Tensor | None) -> TeacherDepth:
        """Depth at half resolution, not clamped; the published network clamps it there and then resizes it."""
        size = (int(images.shape[-2]), int(images.shape[-1]))
        return TeacherDepth(self.network(images), Resize(size, align_corners=True))


def load_depthformer(name: str, weights: Path | int, device: torch.device, trained_on: str) -> DepthFormerTeacher:
    """A DepthFormer teacher from a checkpoint file, or with random weights from a seed.

    Args:
        name: `depthformer`.
        weights: a checkpoint in the depth toolbox's layout, or the seed.
        device: where the network goes.
        trained_on: `kitti` or `nyu`.
    Raises:
        CheckpointError: the file is no checkpoint, or that of another network.
    """

    def build() -> DepthFormerNetwork:
        # 274 million random numbers take seconds; for a file, nobody needs them
        with torch.device("cpu" if isinstance(weights, int) else "meta"):
            return DepthFormerNetwork()

    network, source, trained = load_network(DEPTHFORMER, build, weights)
    return DepthFormerTeacher(
        network,
        architecture="depthformer_swinl",
        weights_source=source,
        trained=trained,
        device=device,
        trained_on=trained_on,
    )
