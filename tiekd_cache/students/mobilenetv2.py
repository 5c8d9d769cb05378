"""What the published MobileNetV2 student changes in the network of that name: strides, dilations, and key names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

OPTIONS: Mapping[str, Any] = MappingProxyType({"output_stride": 8, "out_indices": (1, 2, 3, 4)})
"""For timm: stride 1 from stage 4 on; features of stages 2, 3, 5 and 7, with 24, 32, 96 and 320 channels at strides
4, 8, 8 and 8."""

DILATIONS: Mapping[int, int] = MappingProxyType({3: 2, 4: 2, 5: 4, 6: 4})
"""timm's block -> dilation of the depthwise convolution of its first layer; that of every other layer is 1."""

_PLACES = {
    "conv_dw": 1, "conv_pw": 0, "conv_pwl": 2, "bn1": 0, "bn2": 1, "bn3": 2,
}  # fmt: skip
_PLACES_FIRST = {"conv_dw": 0, "bn1": 0, "conv_pw": 1, "bn2": 1}
_LAYER = re.compile(r"^encoder\.blocks\.(\d+)\.(\d+)\.(\w+)\.(\w+)$")
_STEM = {"encoder.conv_stem.": "encoder.conv1.conv.", "encoder.bn1.": "encoder.conv1.bn."}


def dilate_as_published(encoder: nn.Module) -> None:
    """Set dilation = padding of every depthwise convolution as published, in place.

    timm's own output_stride dilates the later layers of a stage as well: depth is then off by metres.
    """
    for name, module in encoder.named_modules():
        if name.endswith("conv_dw") and isinstance(module, nn.Conv2d):
            _, block, layer, _ = name.split(".")
            dilation = DILATIONS.get(int(block), 1) if layer == "0" else 1
            module.dilation = module.padding = (dilation, dilation)


def published_encoder_key(key: str) -> str:
    """timm's key in the published layout: `encoder.blocks.1.0.bn3.bias` -> `encoder.layer2.0.conv.2.bn.bias`."""
    for ours, theirs in _STEM.items():
        if key.startswith(ours):
            return key.replace(ours, theirs)
    found = _LAYER.match(key)
    if found is None:
        return key
    block, layer, part, value = found.groups()
    places = _PLACES_FIRST if block == "0" else _PLACES
    kind = "bn" if part.startswith("bn") else "conv"
    return f"encoder.layer{int(block) + 1}.{layer}.conv.{places[part]}.{kind}.{value}"
