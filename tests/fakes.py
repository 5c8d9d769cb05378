"""A small data set in memory and a teacher that is a formula: what the stages are tested with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from tiekd_cache.data.frame import DepthMap, Frame
from tiekd_cache.teachers.base import Resize, Teacher, TeacherDepth


class MemoryFrames:
    """`count` frames: a ramp of depth from top to bottom with a nearer box whose colour tells its depth."""

    name = "memory"
    split = "made up"
    split_note = "made up"
    crop = "none"
    max_depth = 80.0
    root = Path("memory")

    def __init__(self, count: int = 6, image_size: tuple[int, int] = (64, 96), without_gt: Sequence[int] = ()) -> None:
        self.image_size = image_size
        self.frame_ids = [f"drive_{i // 4:04d}/image_02/{i:010d}" for i in range(count)]
        self.skipped: list[str] = []
        self._without_gt = {self.frame_ids[i] for i in without_gt}
        self._all = list(self.frame_ids)

    def subset(self, frame_ids: Sequence[str]) -> MemoryFrames:
        other = MemoryFrames(len(self._all), self.image_size)
        other._without_gt = self._without_gt
        other.frame_ids = list(frame_ids)
        return other

    def depth(self, frame_id: str) -> DepthMap:
        """The true depth, metres."""
        height, width = self.image_size
        i = self._all.index(frame_id)
        depth = np.repeat(np.linspace(60, 5, height, dtype=np.float32)[:, None], width, axis=1)
        left = 8 + 9 * i % (width // 2)
        depth[height // 3 : height // 2, left : left + width // 4] = 4.0 + 2.5 * i
        return depth

    def load(self, frame_id: str, *, with_gt: bool = False) -> Frame:
        depth = self.depth(frame_id)
        rng = np.random.default_rng(self._all.index(frame_id))
        grey = np.clip(255 - 4 * depth, 0, 255)[..., None] + rng.normal(0, 4, (*depth.shape, 3))
        intrinsics = np.array([[721.5377, 0, depth.shape[1] / 2], [0, 721.5377, depth.shape[0] / 2], [0, 0, 1]])
        gt_depth = self.lidar_depth(frame_id) if with_gt else None
        return Frame(frame_id, np.clip(grey, 0, 255).astype(np.uint8), intrinsics, gt_depth)

    def lidar_depth(self, frame_id: str) -> DepthMap | None:
        if frame_id in self._without_gt:
            return None
        depth = self.depth(frame_id)
        depth[::3] = 0
        return depth

    def has_lidar(self, frame_id: str) -> bool:
        return frame_id not in self._without_gt

    def has_gt(self, frame_id: str) -> bool:
        return frame_id not in self._without_gt


class FormulaTeacher(Teacher):
    """Depth from the image's brightness, at full or at half resolution; `spoil` puts a value into one frame."""

    name = "formula"
    architecture = "formula"
    weights_source = "none"
    preprocessing: dict[str, object] = {}  # noqa: RUF012

    def __init__(self, scale: int = 1, spoil: tuple[str, float] | None = None, gain: float = 1.0) -> None:
        self.scale, self.spoil, self.gain = scale, spoil, gain
        self.asked: list[str] = []

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"formula {self.scale} {self.gain}".encode()).hexdigest()

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def predict(self, images: torch.Tensor, focal_px: torch.Tensor | None = None) -> TeacherDepth:
        depth = self.gain * (20 - 7 * images.mean(1, keepdim=True)).clamp(1, 79)
        if self.scale == 1:
            return TeacherDepth(depth)
        small = torch.nn.functional.avg_pool2d(depth, self.scale)
        return TeacherDepth(small, Resize((images.shape[-2], images.shape[-1]), align_corners=True))

    def predict_frames(self, frames: Sequence[Frame]) -> TeacherDepth:
        self.asked += [frame.frame_id for frame in frames]
        said = super().predict_frames(frames)
        for i, frame in enumerate(frames):
            if self.spoil is not None and frame.frame_id == self.spoil[0]:
                said.depth[i, 0, 3, 5] = self.spoil[1]
        return said
