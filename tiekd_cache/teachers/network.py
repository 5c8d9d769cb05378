"""What teachers that are one PyTorch network have in common: weights, device, digest, and the rules of input size."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from tiekd_cache.data.normalize import IMAGENET_MEAN, IMAGENET_STD
from tiekd_cache.device import exact_float32
from tiekd_cache.errors import ShapeError
from tiekd_cache.teachers.base import RANGES_M, Resize, Teacher, TeacherDepth
from tiekd_cache.teachers.checkpoints import fit_state, weights_name
from tiekd_cache.teachers.digest import network_digest
from tiekd_cache.teachers.layouts import Layout
from tiekd_cache.teachers.weights_file import read_state

if TYPE_CHECKING:
    pass

Network = TypeVar("Network", bound=nn.Module)


class NetworkTeacher(Teacher):
    """A network that takes ImageNet-normalised RGB. A subclass says what its output means (`answer`).

    Args:
        network: its state dictionary names every tensor that the depth depends on.
        architecture: which network exactly.
        weights_source: where the weights came from, in words.
        trained: False for random weights.
        device: where the network goes.
        trained_on: `kitti` or `nyu`: the data set whose depth range the weights were trained for.
    """

    stride = 32
    """Height and width of the input must be multiples of this, pixels."""

    def __init__(
        self,
        network: nn.Module,
        *,
        architecture: str,
        weights_source: str,
        trained: bool,
        device: torch.device,
        trained_on: str = "kitti",
    ) -> None:
        self.architecture = architecture
        self.weights_source = weights_source
        self.trained = trained
        self.trained_on = trained_on
        self.clamps_to = RANGES_M[trained_on]
        self.max_depth = self.clamps_to[1]
        self.network = network.to(device).eval().requires_grad_(False)
        self._device = device

    @property
    def preprocessing(self) -> Mapping[str, Any]:  # type: ignore[override]
        """What it does to the image and how its output becomes metres, as JSON values."""
        return {
            "colour": "RGB",
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "max_depth": self.max_depth,
        }

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

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The network."""
        return (self.network,)

    @abc.abstractmethod
    def answer(self, images: torch.Tensor, focal_px: torch.Tensor | None) -> TeacherDepth:
        """What `predict` returns; called in inference mode with checked images on the teacher's device.

        Args:
            images: [B,3,H,W] float32.
            focal_px: as given to `predict`.
        """

    def predict(self, images: torch.Tensor, focal_px: torch.Tensor | None = None) -> TeacherDepth:
        """Depth at the network's own resolution, [B,1,h,w] float32 m on the teacher's device.

        Args:
            images: [B,3,H,W] float, ImageNet-normalised RGB; H and W as `input_size` allows.
            focal_px: [B] pixels, for networks whose depth scales with it.
        Raises:
            ShapeError: images or focal_px have another shape or type, or a size that the network does not take.
        """
        self.check_images(images)
        with torch.inference_mode(), exact_float32():
            said = self.answer(images.to(self._device, torch.float32), focal_px)
        # a plain tensor again: one from inference mode cannot enter a loss
        return TeacherDepth(said.depth.to(torch.float32, copy=True), said.resize)

    def predict_images(self, images: torch.Tensor, focal_px: torch.Tensor | None) -> TeacherDepth:
        """`predict` for images [B,3,H,W] of any size: those of another are resized on the way in and on the way out."""
        size = (int(images.shape[-2]), int(images.shape[-1]))
        suits = self.input_size(*size)
        if suits == size:
            return self.predict(images, focal_px)
        fitted = F.interpolate(images.to(self._device), size=suits, mode="bilinear", align_corners=False)
        said = self.predict(fitted, focal_px)
        return TeacherDepth(
            said.depth, Resize(size, align_corners=said.resize is not None and said.resize.align_corners)
        )

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """The nearest size, pixels, that the network takes: what stage one resizes an image to before it looks."""
        return _nearest_multiple(height, self.stride), _nearest_multiple(width, self.stride)

    def check_images(self, images: torch.Tensor) -> None:
        """Raise ShapeError unless images are float [B,3,H,W] of a size that the network takes."""
        shape = list(images.shape)
        if images.ndim != 4 or shape[1] != 3 or not images.is_floating_point():
            raise ShapeError(f"Images must be [B,3,H,W] float32, normalised, not {shape} {images.dtype}.")
        if 0 in shape or (shape[2], shape[3]) != self.input_size(shape[2], shape[3]):
            raise ShapeError(
                f"Image size {shape[2]}x{shape[3]} px does not suit {self.name}: {self.size_rule}. "
                "Crop or resize the images; the KB crop gives 352x1216."
            )

    @property
    def size_rule(self) -> str:
        """Which input sizes the network takes, in words."""
        return f"height and width must be multiples of {self.stride}"


def _nearest_multiple(pixels: int, stride: int) -> int:
    return max(1, round(pixels / stride)) * stride


def load_network(
    layout: Layout, build: Callable[[], Network], weights: Path | int, state: Mapping[str, torch.Tensor] | None = None
) -> tuple[Network, str, bool]:
    """(network, where its weights came from, whether it was trained).

    Args:
        layout: names of the published file.
        build: makes the network with random weights; the global generators stay as they were.
        weights: a checkpoint in that layout, or the seed of random weights.
        state: the checkpoint's tensors where the caller has read them already.
    Raises:
        CheckpointError: the file is no checkpoint, or that of another network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(weights if isinstance(weights, int) else 0)
        network = build()
    if isinstance(weights, int):
        return network, f"random:{weights}", False
    fit_state(network, read_state(weights) if state is None else state, layout, weights)
    return network, weights_name(weights), True
