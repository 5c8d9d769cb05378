"""AdaBins as published by its authors and by the depth toolbox: EfficientNet-B5 encoder, bins that suit each image.

Sources: `shariqfarooq123/AdaBins` and `zhyever/Monocular-Depth-Estimation-Toolbox`, which differ in the decoder;
encoder from timm.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from tiekd_cache.teachers.adabins_decoder import (
    MAX_PATCHES,
    NUM_BINS,
    NUM_QUERIES,
    AdaBinsDecoder,
    AdaBinsMaps,
    AdaptiveBins,
    bins_depth,
)
from tiekd_cache.teachers.base import RANGES_M, Resize, TeacherDepth
from tiekd_cache.teachers.layouts import ADABINS, ADABINS_TOOLBOX, recognise
from tiekd_cache.teachers.network import NetworkTeacher, load_network
from tiekd_cache.teachers.weights_file import read_state
from tiekd_cache.timm_compat import timm_module

MIN_PATCHES = NUM_QUERIES + 1
_CHANNELS = (24, 40, 64, 176, 2048)
_FEATURE_BLOCKS = (0, 1, 2, 4)


class _EfficientNetEncoder(nn.Module):
    """EfficientNet-B5 with TensorFlow's padding, up to its last convolution, without norm and activation after that."""

    def __init__(self) -> None:
        super().__init__()
        self.original_model = timm_module().create_model("tf_efficientnet_b5", pretrained=False)
        for unused in ("bn2", "global_pool", "classifier"):
            delattr(self.original_model, unused)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """[B,3,H,W] -> features at 1/2, 1/4, 1/8, 1/16, 1/32."""
        model = self.original_model
        features, x = [], model.bn1(model.conv_stem(images))
        for index, block in enumerate(model.blocks):
            x = block(x)
            if index in _FEATURE_BLOCKS:
                features.append(x)
        return [*features, model.conv_head(x)]


class AdaBinsNetwork(nn.Module):
    """Encoder, decoder and bins; the state dictionary has the authors' names, what the depth ignores aside.

    Args:
        toolbox: the depth toolbox's variant.
        depth_range: (min, max) metres.
    """

    def __init__(self, *, toolbox: bool, depth_range: tuple[float, float]) -> None:
        super().__init__()
        self.depth_range = depth_range
        self.encoder = _EfficientNetEncoder()
        self.decoder = AdaBinsDecoder(_CHANNELS, toolbox=toolbox)
        self.adaptive_bins_layer = AdaptiveBins()
        self.conv_out = nn.Sequential(nn.Conv2d(NUM_QUERIES, NUM_BINS, 1))

    def forward(self, images: torch.Tensor) -> AdaBinsMaps:
        """[B,3,H,W], of a size that `AdaBinsTeacher.input_size` gives back -> depth [B,1,H/2,W/2] and bin edges."""
        widths, attention = self.adaptive_bins_layer(self.decoder(self.encoder(images)))
        with torch.autocast(attention.device.type, enabled=False):
            return bins_depth(widths, self.conv_out(attention), self.depth_range)


class AdaBinsTeacher(NetworkTeacher):
    """AdaBins. Its own map has half the image's size and is resized bilinearly, corners aligned."""

    name = "adabins"

    def answer(self, images: torch.Tensor, focal_px: torch.Tensor | None) -> TeacherDepth:
        """Depth at half resolution; the focal length plays no part."""
        size = (int(images.shape[-2]), int(images.shape[-1]))
        return TeacherDepth(self.network(images).depth, Resize(size, align_corners=True))

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """The nearest multiples of 32 px; where these give too few or too many patches, of an image of like shape."""
        rows, columns = (size // self.stride for size in super().input_size(height, width))
        if rows * columns < MIN_PATCHES:
            scale = math.sqrt(MIN_PATCHES / (height * width))
            rows, columns = math.ceil(height * scale), math.ceil(width * scale)
        if rows * columns > MAX_PATCHES:
            scale = math.sqrt(MAX_PATCHES / (rows * columns))
            rows, columns = max(1, int(rows * scale)), max(1, int(columns * scale))
            rows, columns = min(rows, MAX_PATCHES // columns or 1), min(columns, MAX_PATCHES // rows or 1)
        return rows * self.stride, columns * self.stride

    @property
    def size_rule(self) -> str:
        """Which input sizes the network takes, in words."""
        return f"{super().size_rule}, and there must be {MIN_PATCHES} to {MAX_PATCHES} blocks of 32x32 px"


def load_adabins(name: str, weights: Path | int, device: torch.device, trained_on: str) -> AdaBinsTeacher:
    """An AdaBins teacher from a checkpoint file, or with random weights from a seed.

    Args:
        name: `adabins` (the checkpoint decides which layout, the authors' where it does not) or `adabins-toolbox`.
        weights: a checkpoint in a published layout, or the seed.
        device: where the network goes.
        trained_on: `kitti` or `nyu`.
    Raises:
        CheckpointError: the file is no checkpoint, or that of another network.
    """
    state = None if isinstance(weights, int) else read_state(weights)
    toolbox = name == "adabins-toolbox" or (state is not None and recognise(state) is ADABINS_TOOLBOX)
    layout = ADABINS_TOOLBOX if toolbox else ADABINS
    network, source, trained = load_network(
        layout, lambda: AdaBinsNetwork(toolbox=toolbox, depth_range=RANGES_M[trained_on]), weights, state
    )
    return AdaBinsTeacher(
        network,
        architecture=layout.name,
        weights_source=source,
        trained=trained,
        device=device,
        trained_on=trained_on,
    )
