"""A teacher without weights: a frame's own LiDAR depth, made complete by classical interpolation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from tiekd_cache.errors import CheckpointError, DataError, ShapeError
from tiekd_cache.teachers.base import Teacher, TeacherDepth
from tiekd_cache.teachers.densify import Densification, densify
from tiekd_cache.teachers.digest import method_digest

if TYPE_CHECKING:
    from tiekd_cache.data.frame import Frame, FrameSource

_METHOD_VERSION = 1  # to be raised whenever the same parameters begin to give other depths


class LidarTeacher(Teacher):
    """Depth of a frame from its LiDAR; how, is described in `densify`. Computes on the CPU.

    It answers frames, not images: the measurements come as the frames' `gt_depth`. Already within [1e-3, 80] m,
    its answer needs no clamping, and no mirrored image either.
    """

    name = "lidar"
    architecture = "lidar_delaunay"
    weights_source = "none"
    flip_average = False
    autocasts = False
    needs_lidar = True
    preprocessing: Mapping[str, Any] = MappingProxyType({"input": "LiDAR depth, m"})

    def __init__(self, settings: Densification | None = None) -> None:
        self.settings = Densification() if settings is None else settings

    @property
    def digest(self) -> str:
        """sha256 of the method's name, version and parameters."""
        return method_digest(
            {"method": self.architecture, "version": _METHOD_VERSION, "parameters": asdict(self.settings)}
        )

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def predict(self, images: torch.Tensor, focal_px: torch.Tensor | None = None) -> TeacherDepth:
        """Raises DataError: an image alone holds no LiDAR depth."""
        raise DataError(
            "Teacher lidar answers frames with LiDAR depth, not images. Call predict_frames with frames whose gt_depth "
            "is their LiDAR depth, or predict_sparse with the depth itself."
        )

    def predict_frames(self, frames: Sequence[Frame]) -> TeacherDepth:
        """Complete depth of frames whose `gt_depth` is their LiDAR depth: [B,1,H,W] float32 m.

        Raises:
            DataError: a frame has no LiDAR depth, or too little of it.
        """
        maps = []
        for frame in frames:
            if frame.gt_depth is None:
                raise DataError(f"Frame {frame.frame_id} has no LiDAR depth, which teacher lidar needs.")
            maps.append(densify(frame.gt_depth, self.settings, frame.frame_id))
        return TeacherDepth(torch.from_numpy(np.stack(maps)).unsqueeze(1))

    def predict_sparse(self, sparse: torch.Tensor | Sequence[npt.NDArray[np.float32]]) -> TeacherDepth:
        """Complete depth of sparse maps: [B,1,H,W] float32 m.

        Args:
            sparse: [B,1,H,W] float32 m, 0 = no measurement; or a sequence of [H,W] arrays of equal size.
        Raises:
            ShapeError: sparse has another shape.
            DataError: a map has too few measured pixels.
        """
        if isinstance(sparse, torch.Tensor):
            if sparse.ndim != 4 or sparse.shape[1] != 1:
                raise ShapeError(f"Sparse depth must be [B,1,H,W], not {list(sparse.shape)}.")
            sparse = [one.numpy() for one in sparse[:, 0].to("cpu", torch.float32)]
        if len({one.shape for one in sparse}) != 1 or sparse[0].ndim != 2:
            raise ShapeError(f"Sparse depths must be [H,W] of equal size, not {[list(one.shape) for one in sparse]}.")
        maps = [densify(one, self.settings, f"map {index} of the batch") for index, one in enumerate(sparse)]
        return TeacherDepth(torch.from_numpy(np.stack(maps)).unsqueeze(1))

    def cannot_answer(self, source: FrameSource, frame_id: str) -> str | None:
        """A frame without any LiDAR file."""
        return None if source.has_lidar(frame_id) else "no depth PNG and no velodyne scan"


def load_lidar(weights: object) -> LidarTeacher:
    """The LiDAR teacher.

    Raises:
        CheckpointError: weights were given.
    """
    if weights is not None:
        raise CheckpointError(f"Teacher lidar has no weights, but got {weights}. Leave --weights out.")
    return LidarTeacher()
