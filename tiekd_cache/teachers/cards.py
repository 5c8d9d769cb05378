"""What each teacher is, in figures: what `tiekd-cache teachers` shows.

Parameters are those that the depth depends on, counted in the networks here. The KITTI figures (Eigen split) are the
row "teacher itself" in the results of TIE-KD (arXiv 2402.14340), whose teachers are the depth toolbox's networks; no
other network has figures here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

_TOOLBOX = "zhyever/Monocular-Depth-Estimation-Toolbox"
_BTS = "cleinc/bts"
_ADABINS = "shariqfarooq123/AdaBins"


@dataclass(frozen=True)
class Card:
    """One teacher.

    Attributes:
        network: what it is, in a few words.
        weights: the GitHub repository that publishes its weights, or in words where they come from.
        parameters: that the depth depends on; None where a model of the user's decides.
        native_size: (height, width) of its own map, pixels, for an image of 352x1216; None likewise.
        abs_rel: published mean absolute relative error on KITTI; None where none is known here.
        rmse: published root mean squared error there, metres.
    """

    network: str
    weights: str
    parameters: int | None = None
    native_size: tuple[int, int] | None = None
    abs_rel: float | None = None
    rmse: float | None = None

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {**asdict(self), "native_size": None if self.native_size is None else list(self.native_size)}


_FULL, _HALF = (352, 1216), (176, 608)

CARDS: Mapping[str, Card] = MappingProxyType(
    {
        "bts": Card("BTS, by the checkpoint", f"{_BTS} or the toolbox", native_size=_FULL),
        "bts-densenet161": Card("BTS, DenseNet-161", _BTS, 47_000_688, _FULL),
        "bts-resnet50": Card("BTS, ResNet-50", _BTS, 47_481_968, _FULL),
        "bts-toolbox": Card("BTS, ResNet-50, toolbox layout", _TOOLBOX, 47_481_969, _FULL, 0.0586, 2.4798),
        "adabins": Card("AdaBins, EfficientNet-B5", _ADABINS, 78_253_232, _HALF),
        "adabins-toolbox": Card("AdaBins, toolbox layout", _TOOLBOX, 78_249_392, _HALF, 0.0593, 2.3309),
        "depthformer": Card("DepthFormer, Swin-L", _TOOLBOX, 273_732_631, _HALF, 0.0513, 2.1038),
        "lidar": Card("planes through LiDAR points", "needs none", 0, _FULL),
    }
)
"""By the name that `load_teacher` takes."""

OWN_CARDS: Mapping[str, Card] = MappingProxyType(
    {
        "hf:ORG/NAME": Card("a metric depth model of transformers", "Hugging Face Hub, or a local folder"),
        "package.module:factory": Card("a Teacher that your own code makes", "yours"),
    }
)
"""Names with a part for the user to fill in."""
