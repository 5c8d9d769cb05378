"""Any pictures on disk as frames: no ground truth, no calibration."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tiekd_cache.data.frame import DepthMap, Frame
from tiekd_cache.data.images import image_size, read_image
from tiekd_cache.data.transforms import shift_intrinsics
from tiekd_cache.errors import DataError

MAX_DEPTH_M = 80.0
"""Farthest depth where nothing is known of the pictures; `--max-depth` says otherwise."""

_SUFFIXES = (".png", ".jpg", ".jpeg")


class PictureFrames:
    """Pictures of one size. A frame's id is its path below the folder that the pattern begins with, without suffix.

    Attributes:
        root: that folder.
        split: the pattern.
        split_note: the same in a sentence for the user.
        skipped: nothing.
    """

    name = "pictures"
    max_depth = MAX_DEPTH_M

    def __init__(
        self, root: Path, files: dict[str, Path], split: str, size: tuple[int, int], crop: bool, focal_px: float | None
    ) -> None:
        self.root, self.split = root, split
        self.image_size = size
        self.frame_ids: tuple[str, ...] = tuple(files)
        self.focal_px = float(size[1]) if focal_px is None else focal_px
        # part of the fingerprint: teachers whose depth scales with the focal length answer by it
        self.crop = f"{f'centre {size[0]}x{size[1]}' if crop else 'none'}, focal length {self.focal_px:g} px"
        source = "the width, since none was given" if focal_px is None else "as given"
        self.split_note = f"{split}, {len(files)} pictures; focal length {self.focal_px:g} px ({source})"
        self.skipped: list[str] = []
        self._files, self._given_focal, self._is_crop = files, focal_px, crop

    @classmethod
    def open(cls, pattern: str, size: tuple[int, int] | None = None, focal_px: float | None = None) -> PictureFrames:
        """The PNG and JPEG pictures that a pattern names, in the order of their names.

        Args:
            pattern: a folder (its pictures at any depth), or a pattern with *, ? and **.
            size: (height, width) of a crop from each picture's middle; None where all have one size.
            focal_px: focal length, pixels, for teachers that ask for it; None takes the width.
        Raises:
            DataError: it names no picture, or something else; two have one name; or their sizes differ.
        """
        root, below = _split_pattern(pattern)
        paths = sorted(path for path in root.glob(below) if path.is_file())
        if Path(pattern).is_dir():
            paths = [path for path in paths if path.suffix.lower() in _SUFFIXES]
        if not paths:
            raise DataError(f"No pictures match {pattern}. Quote the pattern: --images 'folder/**/*.png'.")
        files: dict[str, Path] = {}
        for path in paths:
            frame_id = path.relative_to(root).with_suffix("").as_posix()
            if frame_id in files:
                raise DataError(f"{path} and {files[frame_id]} would both be frame {frame_id}: name one suffix.")
            if "\n" in frame_id or ".." in path.relative_to(root).parts:
                raise DataError(f"{str(path)!r} has a line break or '..' in its path: name it otherwise.")
            files[frame_id] = path
        chosen = _one_size(files, size, pattern)
        return cls(root, files, pattern, chosen, size is not None, focal_px)

    def subset(self, frame_ids: Iterable[str]) -> PictureFrames:
        """The same pictures, these of them; raises DataError for any other."""
        files = {frame_id: self._file(frame_id) for frame_id in frame_ids}
        return PictureFrames(self.root, files, self.split, self.image_size, self._is_crop, self._given_focal)

    def load(self, frame_id: str, *, with_gt: bool = False) -> Frame:
        """One picture, cropped; never with ground truth. Raises DataError where it cannot be read."""
        path = self._file(frame_id)
        image = read_image(path)
        height, width = self.image_size
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        if top < 0 or left < 0 or (not self._is_crop and image.shape[:2] != self.image_size):
            raise DataError(f"{path} is {_text(image.shape)} px now, not {height}x{width}: it was changed meanwhile.")
        whole = np.array(
            [
                [self.focal_px, 0.0, image.shape[1] / 2.0],
                [0.0, self.focal_px, image.shape[0] / 2.0],
                [0.0, 0.0, 1.0],
            ]
        )
        cropped = np.ascontiguousarray(image[top : top + height, left : left + width])
        return Frame(frame_id, cropped, shift_intrinsics(whole, top, left))

    def lidar_depth(self, frame_id: str) -> DepthMap | None:
        """None: nothing was measured."""
        return None

    def has_lidar(self, frame_id: str) -> bool:
        """False."""
        return False

    def has_gt(self, frame_id: str) -> bool:
        """False."""
        return False

    def _file(self, frame_id: str) -> Path:
        if frame_id not in self._files:
            raise DataError(f"Frame {frame_id} is not among the {len(self._files)} pictures of {self.split}.")
        return self._files[frame_id]


def _split_pattern(pattern: str) -> tuple[Path, str]:
    """(the folder that a pattern begins with, the rest)."""
    path = Path(pattern).expanduser()
    if path.is_dir():
        return path, "**/*"
    parts = path.parts
    fixed = next((i for i, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts) - 1)
    return Path(*parts[:fixed]), "/".join(parts[fixed:]) or "*"


def _one_size(files: dict[str, Path], size: tuple[int, int] | None, pattern: str) -> tuple[int, int]:
    """The size of all frames, (height, width) pixels; raises DataError where there is none."""
    sizes = {frame_id: image_size(path) for frame_id, path in files.items()}
    if size is not None:
        for frame_id, (height, width) in sizes.items():
            if height < size[0] or width < size[1]:
                raise DataError(
                    f"{files[frame_id]} is {height}x{width} px, smaller than the crop of {size[0]}x{size[1]}: give a "
                    "smaller --size, or leave the picture out."
                )
        return size
    counted = Counter(sizes.values()).most_common()
    if len(counted) > 1:
        listed = ", ".join(f"{count} of {_text(one)}" for one, count in counted[:4])
        more = f" and {len(counted) - 4} more sizes" if len(counted) > 4 else ""
        smallest = min(h for h, _ in sizes.values()), min(w for _, w in sizes.values())
        raise DataError(
            f"The pictures of {pattern} have {len(counted)} sizes ({listed}{more}); a store holds one. Cut them "
            f"to their middle with --size {_text(smallest)}, or make a store for each size."
        )
    return counted[0][0]


def _text(size: tuple[int, ...]) -> str:
    return f"{size[0]}x{size[1]}"
