"""The labelled part of NYU Depth v2, 1449 frames in one MATLAB file (version 7.3, which is HDF5)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tiekd_cache.data.frame import DepthMap, Frame
from tiekd_cache.data.hdf5_dataset import own_dataset, read_entry
from tiekd_cache.data.nyu_protocol import FULL_SIZE, MAX_DEPTH_M, NYU_CROP, NYU_SIZE, nyu_crop, nyu_intrinsics
from tiekd_cache.errors import DataError, first_line
from tiekd_cache.foreign import read_file

MOST_FRAMES = 1 << 20
"""The published file has 1449."""

_PREFIX = "nyu_labeled/rgb/"
_FIELDS = {"images": (3, *FULL_SIZE[::-1]), "depths": FULL_SIZE[::-1]}  # MATLAB's order is HDF5's reversed


class NyuMatFrames:
    """Frames of the labelled file. A frame's id is `nyu_labeled/rgb/<number>`, counted from 1 as MATLAB does.

    The file is opened at the first read in each process, so that a source may be forked and pickled into workers.

    Attributes:
        root: the file.
        split: which frames these are.
        split_note: the same in a sentence for the user.
        skipped: nothing: a file holds all of its frames.
    """

    name = "nyu"
    image_size = NYU_SIZE
    crop = NYU_CROP
    max_depth = MAX_DEPTH_M

    def __init__(self, root: Path, numbers: Iterable[int], split: str) -> None:
        self.root, self.split = root, split
        self._numbers = {f"{_PREFIX}{number:010d}": number for number in numbers}
        self.frame_ids: tuple[str, ...] = tuple(self._numbers)
        self.split_note = f"{split}, {len(self._numbers)} frames"
        self.skipped: list[str] = []
        self._file: Any = None
        self._pid = 0

    @classmethod
    def open(cls, path: Path, split: str | None = None) -> NyuMatFrames:
        """The frames of the file, or those that a split file names.

        Args:
            split: a text file with one number a line, from 1 (the indices of the official splits.mat); `all` or None.
        Raises:
            DataError: no such file, not MATLAB 7.3, other contents; or the split names no frame of it.
        """
        source = cls(path, [], "all frames")
        count = source._open()["images"].shape[0]
        if split in (None, "all"):
            return cls(path, range(1, count + 1), "all frames")
        return cls(path, _read_numbers(Path(str(split)), count), Path(str(split)).name)

    def subset(self, frame_ids: Sequence[str]) -> NyuMatFrames:
        """The same file with these of its frames; raises DataError for any other."""
        return NyuMatFrames(self.root, [self._number(frame_id) for frame_id in frame_ids], self.split)

    def load(self, frame_id: str, *, with_gt: bool = False) -> Frame:
        """One cropped frame; `gt_depth` where `with_gt`. Raises DataError where it cannot be read."""
        pixels = self._read("images", frame_id).transpose(2, 1, 0)
        image = nyu_crop(np.ascontiguousarray(pixels, np.uint8), f"{self.root}, {frame_id}")
        return Frame(frame_id, image, nyu_intrinsics(), self.lidar_depth(frame_id) if with_gt else None)

    def lidar_depth(self, frame_id: str) -> DepthMap | None:
        """[427,565] float32 metres of the Kinect, holes filled by the data set's authors; 0 = none.

        Raises:
            DataError: it cannot be read.
        """
        depth: DepthMap = self._read("depths", frame_id).T.astype(np.float32)
        depth[~(np.isfinite(depth) & (depth > 0))] = 0
        cropped: DepthMap = nyu_crop(depth, f"{self.root}, {frame_id}")
        return cropped

    def has_lidar(self, frame_id: str) -> bool:
        """Every frame has depth."""
        return frame_id in self._numbers

    def has_gt(self, frame_id: str) -> bool:
        """Every frame has depth."""
        return frame_id in self._numbers

    def _number(self, frame_id: str) -> int:
        if frame_id not in self._numbers:
            raise DataError(f"Frame {frame_id} is not among the {len(self._numbers)} frames of {self.root}.")
        return self._numbers[frame_id]

    def _read(self, field: str, frame_id: str) -> Any:
        number = self._number(frame_id)
        try:
            return read_entry(self._open()[field], number - 1)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.root}: {field} of {frame_id} cannot be read ({error}). Download it again."
            ) from None

    def _open(self) -> Any:
        if self._file is not None and self._pid == os.getpid():
            return self._file
        if not self.root.is_file():
            raise DataError(f"{self.root} does not exist. Pass --nyu FILE, the labelled file of NYU Depth v2.")
        try:
            file = h5py.File(self.root, "r")
        except OSError as error:
            raise DataError(
                f"{self.root} is truncated or no MATLAB 7.3 file ({first_line(error)}). Download it again."
            ) from None
        for field, shape in _FIELDS.items():
            try:
                found = own_dataset(file, field, compressed=True)
            except ValueError as error:
                raise DataError(f"{self.root}: {error}, not [N, {', '.join(map(str, shape))}]: another file?") from None
            if found.shape[1:] != shape or len(found) > MOST_FRAMES or found.dtype.kind not in "uf":
                kind = "" if found.dtype.kind in "uf" else f" of {found.dtype}"
                raise DataError(
                    f"{self.root}: '{field}' is {list(found.shape)}{kind}, not [N, {', '.join(map(str, shape))}] of"
                    " numbers: another file?"
                )
        self._file, self._pid = file, os.getpid()
        return file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_pid": 0}


def _read_numbers(path: Path, count: int) -> list[int]:
    try:
        words = read_file(path).decode().split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The split file {path} cannot be read ({error}). Check the path.") from None
    for word in words:
        if not word.isdecimal() or len(word) > 9 or not 1 <= int(word) <= count:
            raise DataError(f"{path}: '{word}' is no frame number from 1 to {count}; a split has one a line.")
    numbers = list(dict.fromkeys(int(word) for word in words))
    if not numbers:
        raise DataError(f"The split file {path} names no frame; a split has one frame number a line, from 1.")
    return numbers
