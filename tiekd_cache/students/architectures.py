"""Which students there are by name, and what the published ones consist of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tiekd_cache.students import mobilenetv2

DECODERS = ("densedepth", "slim")
OUTPUTS = ("dpm", "depth")


@dataclass(frozen=True)
class Architecture:
    """What makes a student the one that was published under a name.

    Attributes:
        encoder: timm's name of the backbone, with the tag of its ImageNet weights: for the ResNets those that the
            release starts from, for MobileNetV2 timm's own (the release takes OpenMMLab's).
        widths: the decoder's channels, coarse to fine, at decoder_width 1.
        num_upsamplings: doublings at its end.
        options: for `timm.create_model`.
        dilated: with the published dilations of MobileNetV2.
    """

    encoder: str
    widths: tuple[int, ...]
    num_upsamplings: int
    options: Mapping[str, Any] = field(default_factory=dict)
    dilated: bool = False


STUDENTS: Mapping[str, Architecture] = MappingProxyType(
    {
        "mobilenetv2": Architecture(
            "mobilenetv2_100.ra_in1k", (2048, 512, 256, 128), 2, mobilenetv2.OPTIONS, dilated=True
        ),
        "resnet18": Architecture("resnet18.tv_in1k", (512, 256, 256, 128, 128), 1),
        "resnet50": Architecture("resnet50.tv_in1k", (2048, 1024, 512, 256, 128), 1),
    }
)
