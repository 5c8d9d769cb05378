"""What data sets hand to teachers and training: a `Frame`, and the `FrameSource` that gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
DepthMap = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Frame:
    """One image of a data set, cropped as the data set's protocol says.

    Attributes:
        frame_id: `<drive>/<camera>/<index>`, e.g. `2011_09_26_drive_0001_sync/image_02/0000000005`.
        image: [H,W,3] uint8, RGB.
        intrinsics: [3,3] float64, pixels, of the cropped image.
        gt_depth: [H,W] float32, metres, 0 = no measurement; None where not asked for or not there.
    """

    frame_id: str
    image: Image
    intrinsics: npt.NDArray[np.float64]
    gt_depth: DepthMap | None = None

    @property
    def focal_px(self) -> float:
        """Horizontal focal length in pixels."""
        return float(self.intrinsics[0, 0])

    def mirrored(self) -> Frame:
        """The frame with left and right exchanged, its measured depth too; the intrinsics stay as they are."""
        gt_depth = None if self.gt_depth is None else np.ascontiguousarray(self.gt_depth[:, ::-1])
        return replace(self, image=np.ascontiguousarray(self.image[:, ::-1]), gt_depth=gt_depth)


class FrameSource(Protocol):
    """An ordered list of frames: what a data set with a split chosen looks like to everyone else."""

    @property
    def name(self) -> str:
        """Name of the data set, e.g. `kitti`."""

    @property
    def split(self) -> str:
        """Which frames these are, in words for the user, e.g. `splits/eigen_train.txt`."""

    @property
    def frame_ids(self) -> Sequence[str]:
        """Every frame's id, in order, unique."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels of every cropped image."""

    @property
    def max_depth(self) -> float:
        """Farthest depth of the data set's protocol, metres: 80 for KITTI."""

    @property
    def crop(self) -> str:
        """The protocol's crop in words that go into a store's attributes, e.g. `kb 352x1216`."""

    def load(self, frame_id: str, *, with_gt: bool = False) -> Frame:
        """Read one frame from disk; raises DataError, naming the file, where it cannot be read."""

    def lidar_depth(self, frame_id: str) -> DepthMap | None:
        """[H,W] float32 m sparse LiDAR depth of the cropped frame (0 = none), or None where there is no file."""

    def has_lidar(self, frame_id: str) -> bool:
        """Whether `lidar_depth` would find a file; touches no pixel."""

    def has_gt(self, frame_id: str) -> bool:
        """Whether the split names ground truth for this frame."""


class DataSet(FrameSource, Protocol):
    """Frames on disk, of which some can be chosen: what stage two trains on."""

    @property
    def root(self) -> Path:
        """Folder or file that the frames were found in."""

    @property
    def split_note(self) -> str:
        """Which frames these are, in a sentence for the user."""

    def subset(self, frame_ids: Sequence[str]) -> DataSet:
        """The same data with these frames, in this order; raises DataError for an unknown one."""
