"""The contract of a teacher: images in, metric depth at the network's own resolution out."""

from __future__ import annotations

import abc
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
import torch.nn.functional as F

from tiekd_cache.data.normalize import normalize
from tiekd_cache.errors import ShapeError

if TYPE_CHECKING:
    from torch import nn

    from tiekd_cache.data.frame import Frame, FrameSource

RANGES_M: Mapping[str, tuple[float, float]] = MappingProxyType({"kitti": (1e-3, 80.0), "nyu": (1e-3, 10.0)})
"""Depth range of each data set's protocol, metres: what networks trained on it scale and clamp their output to."""


@dataclass(frozen=True)
class Resize:
    """How a teacher brings its own map to the image's size: the last step of its forward pass.

    Attributes:
        size: (height, width) of the image, pixels.
        mode: as in `torch.nn.functional.interpolate`; only `bilinear` so far.
        align_corners: as there.
    """

    size: tuple[int, int]
    mode: str = "bilinear"
    align_corners: bool = False

    def __call__(self, depth: torch.Tensor) -> torch.Tensor:
        """[B,1,h,w] metres -> [B,1,H,W] metres."""
        return F.interpolate(depth, size=self.size, mode=self.mode, align_corners=self.align_corners)

    def to_json(self) -> dict[str, object]:
        """As a store's attributes have it."""
        return {"size": list(self.size), "mode": self.mode, "align_corners": self.align_corners}


@dataclass(frozen=True)
class TeacherDepth:
    """What a teacher said of a batch.

    Attributes:
        depth: [B,1,h,w] float32, metres, at the network's own resolution.
        resize: how the teacher resizes it to the image; None where it predicts at full resolution.
    """

    depth: torch.Tensor
    resize: Resize | None = None

    def __post_init__(self) -> None:
        """Raises ShapeError: depth is not [B,1,h,w]; before it goes anywhere, since a teacher may be the user's own."""
        if self.depth.ndim != 4 or self.depth.shape[1] != 1:
            raise ShapeError(f"A teacher's depth must be [B,1,h,w], not {list(self.depth.shape)}.")

    def at_image_size(self) -> torch.Tensor:
        """[B,1,H,W] float32, metres, as the teacher itself would have returned it."""
        return self.depth if self.resize is None else self.resize(self.depth)


class FrameBatch(Sequence["Frame"]):
    """Frames of equal size whose images are stacked already, so that whoever decodes them does it, not the teacher.

    Args:
        frames: at least one.
        pin: put the images into pinned memory, out of which they are copied to a CUDA device in the background.

    Attributes:
        images: [B,H,W,3] uint8 RGB, on the host.
    """

    def __init__(self, frames: Sequence[Frame], pin: bool = False) -> None:
        self._frames = tuple(frames)
        images = torch.from_numpy(np.stack([frame.image for frame in frames]))
        self.images = images.pin_memory() if pin else images

    def halves(self) -> tuple[FrameBatch, FrameBatch]:
        """The first half and the second one, whose images are views of these."""
        middle = len(self) // 2
        first, second = copy.copy(self), copy.copy(self)
        first._frames, second._frames = self._frames[:middle], self._frames[middle:]
        first.images, second.images = self.images[:middle], self.images[middle:]
        return first, second

    @overload
    def __getitem__(self, index: int) -> Frame: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Frame]: ...

    def __getitem__(self, index: int | slice) -> Frame | Sequence[Frame]:
        return self._frames[index]

    def __len__(self) -> int:
        return len(self._frames)


class Teacher(abc.ABC):
    """Anything that gives metric depth for a frame.

    Attributes:
        name: its family, e.g. `bts`; part of the fingerprint, so the same for every spelling that a user may type.
        architecture: which network exactly, e.g. `bts_densenet161`.
        weights_source: where the weights came from, in words: a file name, `random:0`, `none`.
        trained: False for random weights; the store says so, in capitals.
        flip_average: whether averaging with the mirrored image's answer makes sense for it.
        autocasts: False where it does not compute in PyTorch, so that no precision but float32 can be asked for.
        needs_lidar: True where it answers from a frame's LiDAR depth: `predict_frames` then expects it as `gt_depth`.
        clamps_to: (min, max) metres where its published protocol clamps its output, else None.
        preprocessing: what it does to the image, as JSON values; part of the digest.
    """

    name: str
    architecture: str
    weights_source: str
    trained: bool = True
    flip_average: bool = True
    autocasts: bool = True
    needs_lidar: bool = False
    clamps_to: tuple[float, float] | None = None
    preprocessing: Mapping[str, Any] = MappingProxyType({})

    @property
    @abc.abstractmethod
    def digest(self) -> str:
        """sha256 (hex) of the weights and of what the teacher does to the image."""

    @property
    @abc.abstractmethod
    def device(self) -> torch.device:
        """Where it computes."""

    @abc.abstractmethod
    def predict(self, images: torch.Tensor, focal_px: torch.Tensor | None = None) -> TeacherDepth:
        """Depth of images [B,3,H,W] float32, ImageNet-normalised RGB; no flip averaging, no clamping.

        Args:
            images: on any device; moved to the teacher's.
            focal_px: [B] focal lengths in pixels, used by teachers whose depth scales with it.
        """

    def predict_frames(self, frames: Sequence[Frame]) -> TeacherDepth:
        """Depth of frames of equal size: what stage one calls, with a `FrameBatch`.

        The bytes of the images go to the device, are normalised there, and then to `predict_images`.
        """
        batch = frames if isinstance(frames, FrameBatch) else FrameBatch(frames)
        images = normalize(batch.images.to(self.device, non_blocking=True))
        focal_px = torch.tensor([frame.focal_px for frame in frames], dtype=torch.float32)
        return self.predict_images(images, focal_px)

    def predict_images(self, images: torch.Tensor, focal_px: torch.Tensor | None) -> TeacherDepth:
        """`predict` for images of any size, by the teacher's own rule; plain `predict` where it takes every size."""
        return self.predict(images, focal_px)

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The modules that do the work: what may be compiled, or laid out in memory otherwise. None by default."""
        return ()

    def cannot_answer(self, source: FrameSource, frame_id: str) -> str | None:
        """Why this teacher can say nothing about a frame, or None where it can; reads no pixels."""
        return None
