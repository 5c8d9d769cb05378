"""BTS: DenseNet-161 or ResNet-50 encoder, full-resolution metric depth.

Sources: `cleinc/bts`, the authors' PyTorch networks (512 decoder channels; 80 m at most on KITTI, 10 m on NYU), and
`zhyever/Monocular-Depth-Estimation-Toolbox`, whose ResNet-50 network has a bias in its last layer and whose depth does
not scale with the focal length. Encoders from timm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tiekd_cache.errors import RangeError, ShapeError
from tiekd_cache.teachers.base import TeacherDepth
from tiekd_cache.teachers.bts_decoder import BtsDecoder, BtsMaps
from tiekd_cache.teachers.layouts import BTS_DENSENET161, BTS_RESNET50, BTS_TOOLBOX, recognise
from tiekd_cache.teachers.network import NetworkTeacher, load_network
from tiekd_cache.teachers.weights_file import read_state
from tiekd_cache.timm_compat import timm_module

KITTI_FOCAL_PX = 721.5377  # of the dates most of KITTI was recorded with: assumed where no focal length is given
REFERENCE_FOCAL_PX = 715.0873  # the focal length that the published networks' depth is expressed in
_DENSENET_FEATURES = ("norm0", "pool0", "transition1", "transition2", "norm5")
_CHANNELS = {
    "bts_densenet161": (96, 96, 192, 384, 2208),
    "bts_resnet50": (64, 256, 512, 1024, 2048),
    "bts_toolbox": (64, 256, 512, 1024, 2048),
}
_LAYOUTS = (BTS_DENSENET161, BTS_RESNET50, BTS_TOOLBOX)


class _DenseNetEncoder(nn.Module):
    """DenseNet-161 without classifier; features after the stem, its pooling, two transitions, and the last block."""

    def __init__(self) -> None:
        super().__init__()
        self.base_model = timm_module().create_model("densenet161", pretrained=False).features

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """[B,3,H,W] -> features at 1/2, 1/4, 1/8, 1/16, 1/32; timm's norms contain the ReLU."""
        features, x = [], images
        for name, layer in self.base_model.named_children():
            x = layer(x)
            if name in _DENSENET_FEATURES:
                features.append(x)
        return features


class _ResNetEncoder(nn.Module):
    """ResNet-50 without classifier; features after the stem's ReLU (before its pooling) and after each stage."""

    def __init__(self) -> None:
        super().__init__()
        self.base_model = timm_module().create_model("resnet50", pretrained=False, features_only=True)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """[B,3,H,W] -> features at 1/2, 1/4, 1/8, 1/16, 1/32."""
        return list(self.base_model(images))


class BtsNetwork(nn.Module):
    """Encoder and decoder; the state dictionary has the published names, the unused classifier aside."""

    def __init__(self, architecture: str) -> None:
        super().__init__()
        self.encoder = _DenseNetEncoder() if architecture == "bts_densenet161" else _ResNetEncoder()
        self.decoder = BtsDecoder(_CHANNELS[architecture], depth_bias=architecture == "bts_toolbox")

    def features(self, images: torch.Tensor) -> Sequence[torch.Tensor]:
        """[B,3,H,W] -> five feature maps, 1/2 to 1/32."""
        features: Sequence[torch.Tensor] = self.encoder(images)
        return features

    def forward(self, images: torch.Tensor) -> BtsMaps:
        """[B,3,H,W], H and W multiples of 32 -> maps as fractions of the maximum depth, before the focal factor."""
        maps: BtsMaps = self.decoder(self.features(images))
        return maps


class BtsTeacher(NetworkTeacher):
    """BTS. The authors' networks for KITTI scale depth with the focal length and may exceed 80 m, before the clamp.

    Without `focal_px`, `predict` assumes 721.5377 px. Height and width must be multiples of 32.
    """

    name = "bts"  # whatever the user called it: the same network has one fingerprint; `architecture` says which one

    @property
    def scales_with_focal(self) -> bool:
        """Whether depth is in proportion to the focal length: in the authors' networks for KITTI."""
        return self.trained_on == "kitti" and self.architecture != BTS_TOOLBOX.name

    @property
    def preprocessing(self) -> Mapping[str, Any]:  # type: ignore[override]
        """As of every network, with the focal length that the depth is expressed in where it scales with that."""
        reference = {"reference_focal_px": REFERENCE_FOCAL_PX} if self.scales_with_focal else {}
        return {**super().preprocessing, **reference}

    def answer(self, images: torch.Tensor, focal_px: torch.Tensor | None) -> TeacherDepth:
        """Depth at full resolution, not clamped.

        Raises:
            ShapeError: focal_px is not [B].
            RangeError: a focal length is not positive.
        """
        factor = self._focal_factor(images.shape[0], focal_px)
        depth = self.network(images).depth * self.max_depth
        return TeacherDepth(depth if factor is None else depth * factor.to(depth.device, non_blocking=True))

    def _focal_factor(self, batch: int, focal_px: torch.Tensor | None) -> torch.Tensor | None:
        """[B,1,1,1]: focal length over the reference; None where depth does not scale with it."""
        if not self.scales_with_focal:
            return None
        if focal_px is None:
            focal_px = torch.full((batch,), KITTI_FOCAL_PX)
        if focal_px.shape != (batch,):
            raise ShapeError(f"focal_px must be [{batch}], one for each image, not {list(focal_px.shape)}.")
        if not bool((torch.isfinite(focal_px) & (focal_px > 0)).all()):
            raise RangeError(f"Focal lengths must be finite and > 0 px, not {focal_px.tolist()}.")
        return (focal_px.to(torch.float32) / REFERENCE_FOCAL_PX).view(batch, 1, 1, 1)


def load_bts(name: str, weights: Path | int, device: torch.device, trained_on: str) -> BtsTeacher:
    """A BTS teacher from a checkpoint file, or with random weights from a seed.

    Args:
        name: `bts` (the checkpoint decides which network, DenseNet-161 where it does not), `bts-densenet161`,
            `bts-resnet50` or `bts-toolbox`.
        weights: a checkpoint in a published layout, or the seed.
        device: where the network goes.
        trained_on: `kitti` or `nyu`.
    Raises:
        CheckpointError: the file is no checkpoint, or that of another network.
    """
    state = None if isinstance(weights, int) else read_state(weights)
    found = recognise(state) if state is not None else None
    named = {layout.teacher: layout for layout in _LAYOUTS}
    layout = named.get(name, found if found in _LAYOUTS else BTS_DENSENET161)
    network, source, trained = load_network(layout, lambda: BtsNetwork(layout.name), weights, state)
    return BtsTeacher(
        network,
        architecture=layout.name,
        weights_source=source,
        trained=trained,
        device=device,
        trained_on=trained_on,
    )
