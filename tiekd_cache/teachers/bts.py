"""BTS as published by its authors: DenseNet-161 or ResNet-50 encoder, full-resolution metric depth for KITTI.

Source: `cleinc/bts`, PyTorch networks for KITTI (maximum depth 80 m, 512 decoder channels); encoders from timm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from tiekd_cache.data.normalize import IMAGENET_MEAN, IMAGENET_STD
from tiekd_cache.device import exact_float32
from tiekd_cache.errors import RangeError, ShapeError
from tiekd_cache.teachers.base import Teacher, TeacherDepth
from tiekd_cache.teachers.bts_decoder import BtsDecoder, BtsMaps
from tiekd_cache.teachers.checkpoints import fit_state, weights_name
from tiekd_cache.teachers.digest import network_digest
from tiekd_cache.teachers.layouts import BTS_DENSENET161, BTS_RESNET50, recognise
from tiekd_cache.teachers.weights_file import read_state
from tiekd_cache.timm_compat import timm_module

MAX_DEPTH = 80.0
KITTI_FOCAL_PX = 721.5377  # of the dates most of KITTI was recorded with: assumed where no focal length is given
REFERENCE_FOCAL_PX = 715.0873  # the focal length that the published networks' depth is expressed in
STRIDE = 32
_DENSENET_FEATURES = ("norm0", "pool0", "transition1", "transition2", "norm5")
_CHANNELS = {
    "bts_densenet161": (96, 96, 192, 384, 2208),
    "bts_resnet50": (64, 256, 512, 1024, 2048),
}


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
        self.decoder = BtsDecoder(_CHANNELS[architecture])

    def features(self, images: torch.Tensor) -> Sequence[torch.Tensor]:
        """[B,3,H,W] -> five feature maps, 1/2 to 1/32."""
        features: Sequence[torch.Tensor] = self.encoder(images)
        return features

    def forward(self, images: torch.Tensor) -> BtsMaps:
        """[B,3,H,W], H and W multiples of 32 -> maps as fractions of the maximum depth, before the focal factor."""
        maps: BtsMaps = self.decoder(self.features(images))
        return maps


class BtsTeacher(Teacher):
    """BTS for KITTI. Its depth scales with the focal length and may exceed 80 m; the published evaluation clamps it.

    Without `focal_px`, `predict` assumes 721.5377 px. Height and width must be multiples of 32.
    """

    name = "bts"  # whatever the user called it: the same network has one fingerprint; `architecture` says which one
    clamps_to = (1e-3, MAX_DEPTH)
    preprocessing: Mapping[str, Any] = MappingProxyType(
        {
            "colour": "RGB",
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "max_depth": MAX_DEPTH,
            "reference_focal_px": REFERENCE_FOCAL_PX,
        }
    )

    def __init__(
        self,
        network: BtsNetwork,
        *,
        architecture: str,
        weights_source: str,
        trained: bool,
        device: torch.device,
    ) -> None:
        self.architecture = architecture
        self.weights_source = weights_source
        self.trained = trained
        self.network = network.to(device).eval().requires_grad_(False)
        self._device = device

    @cached_property
    def digest(self) -> str:
        """sha256 of the weights, however they were wrapped, the architecture and the preprocessing."""
        return network_digest(
            self.network, {"architecture": self.architecture, "preprocessing": dict(self.preprocessing)}
        )

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self._device

    def predict(self, images: torch.Tensor, focal_px: torch.Tensor | None = None) -> TeacherDepth:
        """Depth at full resolution: [B,1,H,W] float32 m on the teacher's device, not clamped.

        Args:
            images: [B,3,H,W] float32, ImageNet-normalised RGB; H and W multiples of 32.
            focal_px: [B] pixels; None means 721.5377 for all.
        Raises:
            ShapeError: images or focal_px have another shape or type.
            RangeError: a focal length is not positive.
        """
        _check_images(images)
        factor = self._focal_factor(images.shape[0], focal_px)
        with torch.inference_mode(), exact_float32():
            depth = self.network(images.to(self._device, torch.float32)).depth * MAX_DEPTH
            depth = depth * factor.to(self._device)
        return TeacherDepth(depth.clone())  # a plain tensor again: one from inference mode cannot enter a loss

    def _focal_factor(self, batch: int, focal_px: torch.Tensor | None) -> torch.Tensor:
        """[B,1,1,1]: focal length over the reference."""
        if focal_px is None:
            focal_px = torch.full((batch,), KITTI_FOCAL_PX)
        if focal_px.shape != (batch,):
            raise ShapeError(f"focal_px must be [{batch}], one for each image, not {list(focal_px.shape)}.")
        if not bool((torch.isfinite(focal_px) & (focal_px > 0)).all()):
            raise RangeError(f"Focal lengths must be finite and > 0 px, not {focal_px.tolist()}.")
        return (focal_px.to(torch.float32) / REFERENCE_FOCAL_PX).view(batch, 1, 1, 1)


def _check_images(images: torch.Tensor) -> None:
    """ShapeError unless images are float [B,3,H,W] with sides that the network can halve five times."""
    shape = list(images.shape)
    if images.ndim != 4 or shape[1] != 3 or not images.is_floating_point():
        raise ShapeError(f"Images must be [B,3,H,W] float32, normalised, not {shape} {images.dtype}.")
    if shape[2] % STRIDE or shape[3] % STRIDE or 0 in shape:
        raise ShapeError(
            f"Image size {shape[2]}x{shape[3]} px does not suit bts: height and width must be multiples of {STRIDE}. "
            "Crop the images, as the KB crop to 352x1216 does."
        )


def load_bts(name: str, weights: Path | int, device: torch.device) -> BtsTeacher:
    """A BTS teacher from a checkpoint file, or with random weights from a seed.

    Args:
        name: `bts` (the checkpoint decides which network, DenseNet-161 where it does not), `bts-densenet161` or
            `bts-resnet50`.
        weights: a checkpoint in the published layout, or the seed.
        device: where the network goes.
    Raises:
        CheckpointError: the file is no checkpoint, or that of another network.
    """
    if isinstance(weights, int):
        layout = BTS_RESNET50 if name == "bts-resnet50" else BTS_DENSENET161
        network = _build(layout.name, seed=weights)
        source = f"random:{weights}"
    else:
        state = read_state(weights)
        is_resnet50 = name == "bts-resnet50" or (name == "bts" and recognise(state) is BTS_RESNET50)
        layout = BTS_RESNET50 if is_resnet50 else BTS_DENSENET161
        network = _build(layout.name, seed=0)
        fit_state(network, state, layout, weights)
        source = weights_name(weights)
    trained = not isinstance(weights, int)
    return BtsTeacher(network, architecture=layout.name, weights_source=source, trained=trained, device=device)


def _build(architecture: str, seed: int) -> BtsNetwork:
    """A network with random weights that depend on the seed alone; the global generators stay as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return BtsNetwork(architecture)
