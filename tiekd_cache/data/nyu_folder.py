"""NYU Depth v2 as a folder of pictures, the way BTS and the depth toolbox lay it out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tiekd_cache.data.frame import DepthMap, Frame
from tiekd_cache.data.images import read_depth_png, read_image
from tiekd_cache.data.nyu_protocol import MAX_DEPTH_M, NYU_CROP, NYU_SIZE, nyu_crop, nyu_intrinsics
from tiekd_cache.errors import DataError
from tiekd_cache.foreign import read_file

MILLIMETRES = 1000.0
"""Counts per metre of the depth PNGs."""

_USUAL_SPLITS = {
    "train": ("nyudepthv2_train_files_with_gt.txt", "nyu_train.txt"),
    "test": ("nyudepthv2_test_files_with_gt.txt", "nyu_test.txt"),
}
_SPLIT_FOLDERS = ("", "splits", "train_test_inputs")
_DATA_FOLDERS = ("", "sync", "train", "test", "official_splits/train", "official_splits/test")
_RULE = "a line is `<rgb> <depth or None> <focal>`, e.g. kitchen_0028b/rgb_00045.jpg kitchen_0028b/sync_depth_00045.png"


@dataclass(frozen=True)
class _Files:
    """A frame's picture, and its depth map where there is one."""

    image: Path
    depth: Path | None


class NyuFolderFrames:
    """Frames `<scene>/rgb_<index>.jpg` (or .png) with depth in millimetres in `<scene>/sync_depth_<index>.png`.

    A frame's id is `<scene>/rgb/<index>`.

    Attributes:
        root: the folder.
        split: which frames these are.
        split_note: the same in a sentence for the user.
        skipped: one line a frame that was left out because its files are missing.
    """

    name = "nyu"
    image_size = NYU_SIZE
    crop = NYU_CROP
    max_depth = MAX_DEPTH_M

    def __init__(self, root: Path, frames: dict[str, _Files], split: str, skipped: Sequence[str] = ()) -> None:
        self.root, self.split, self.skipped = root, split, list(skipped)
        self._frames = frames
        self.frame_ids: tuple[str, ...] = tuple(frames)
        self.split_note = f"{split}, {len(frames)} frames"

    @classmethod
    def open(
        cls, root: Path, split: str | None = None, *, purpose: str = "train", skip_missing: bool = False
    ) -> NyuFolderFrames:
        """The frames of a split.

        Args:
            split: a split file (a path, or a name beside the data); `all`; None for the usual one of the purpose,
                else every frame found.
            purpose: `train` or `test`.
            skip_missing: leave out frames whose picture or named depth map is missing.
        Raises:
            DataError: no such split, a malformed line, files missing, or no frame left.
        """
        path = None if split == "all" else _find_split(root, split, purpose)
        if path is None:
            found = {_frame_id(image): _Files(image, _depth_beside(image)) for image in _pictures(root)}
            if not found:
                raise DataError(
                    f"No frames of NYU Depth v2 in {root}: a frame is <scene>/rgb_<index>.jpg with "
                    "<scene>/sync_depth_<index>.png beside it. Check --nyu."
                )
            return cls(root, found, "all frames")
        frames: dict[str, _Files] = {}
        missing = []
        for image, depth in _read_split(path):
            there = _Files(_locate(root, image), _locate(root, depth) if depth is not None else None)
            absent = [str(file) for file in (there.image, there.depth) if file is not None and not file.is_file()]
            if absent:
                missing.append(f"{image}: {absent[0]} does not exist")
            else:
                frames.setdefault(_frame_id(Path(image)), there)
        if missing and not (skip_missing and frames):
            raise DataError(
                f"{len(missing)} of {len(missing) + len(frames)} frames of {path} are not all there, first "
                f"{missing[0]}. --skip-missing goes on without them; --nyu names the folder of the data."
            )
        return cls(root, frames, path.name, missing)

    def subset(self, frame_ids: Iterable[str]) -> NyuFolderFrames:
        """The same data with these of its frames; raises DataError for any other."""
        return NyuFolderFrames(self.root, {frame_id: self._files(frame_id) for frame_id in frame_ids}, self.split)

    def load(self, frame_id: str, *, with_gt: bool = False) -> Frame:
        """One cropped frame; `gt_depth` where `with_gt` and there is one. Raises DataError where it cannot be read."""
        files = self._files(frame_id)
        image = nyu_crop(read_image(files.image), str(files.image))
        return Frame(frame_id, image, nyu_intrinsics(), self.lidar_depth(frame_id) if with_gt else None)

    def lidar_depth(self, frame_id: str) -> DepthMap | None:
        """[427,565] float32 metres of the Kinect, 0 = none; None without a depth map. Raises DataError if damaged."""
        depth = self._files(frame_id).depth
        return None if depth is None else nyu_crop(read_depth_png(depth, MILLIMETRES), str(depth))

    def has_lidar(self, frame_id: str) -> bool:
        """Whether there is a depth map."""
        return self._files(frame_id).depth is not None

    def has_gt(self, frame_id: str) -> bool:
        """Whether there is a depth map."""
        return self.has_lidar(frame_id)

    def _files(self, frame_id: str) -> _Files:
        if frame_id not in self._frames:
            raise DataError(f"Frame {frame_id} is not among the {len(self._frames)} frames of {self.split}.")
        return self._frames[frame_id]


def _find_split(root: Path, split: str | None, purpose: str) -> Path | None:
    names = _USUAL_SPLITS[purpose] if split is None else (split,)
    places = [place / folder / name for name in names for place in (root, root.parent) for folder in _SPLIT_FOLDERS]
    if split is not None:
        places.insert(0, Path(split))
    found = next((place for place in places if place.is_file()), None)
    if found is None and split is not None:
        raise DataError(f"No split file {split}, neither here nor in {root}. Check --split, or say all.")
    return found


def _read_split(path: Path) -> Iterator[tuple[str, str | None]]:
    """(rgb, depth or None) of each line, as relative paths."""
    try:
        lines = read_file(path).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The split file {path} cannot be read ({error}). Check the path.") from None
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        paths = [word.lstrip("/") for word in words[:2]]
        if not re.search(r"rgb_\d+\.\w+$", paths[0]) or any(".." in Path(word).parts for word in paths):
            raise DataError(f"{path}:{number}: '{line.strip()[:80]}' names no frame of NYU Depth v2; {_RULE}.")
        yield paths[0], paths[1] if len(paths) > 1 and paths[1] != "None" else None


def _locate(root: Path, relative: str) -> Path:
    """Where a file of a split line lies; below the root where it lies nowhere."""
    places = [root / folder / relative for folder in _DATA_FOLDERS]
    return next((place for place in places if place.is_file()), places[0])


def _pictures(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("rgb_*") if re.fullmatch(r"rgb_\d+\.(jpg|jpeg|png)", path.name))


def _depth_beside(image: Path) -> Path | None:
    depth = image.with_name(f"sync_depth_{_index(image)}.png")
    return depth if depth.is_file() else None


def _index(image: Path) -> str:
    return image.stem.removeprefix("rgb_")


def _frame_id(image: Path) -> str:
    return f"{image.parent.name}/rgb/{_index(image)}"
