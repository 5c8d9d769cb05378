"""Where KITTI's files lie: finds the folders of images and depth in any of three layouts, and paths in them.

    raw + depth   raw/<date>/<drive>/...                      depth/<drive>/...
    official      <date>/<drive>/...                          train/<drive>/..., val/<drive>/...
    toolbox       input/<date>/<drive>/...                    gt_depth/<drive>/...

The official one as the downloads unpack: at the root, or each one level down (`raw_data/<date>`,
`data_depth_annotated/train`). Everything but `--split all` works by asking for paths, never by listing the
folders of frames: on a network disk, listing 90,000 files takes minutes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tiekd_cache.errors import DataError

DATES = ("2011_09_26", "2011_09_28", "2011_09_29", "2011_09_30", "2011_10_03")
"""The dates on which KITTI was recorded."""
RAW_DATA_URL = "https://www.cvlibs.net/datasets/kitti/raw_data.php"
DEPTH_URL = "https://www.cvlibs.net/datasets/kitti/eval_depth.php?benchmark=depth_prediction"
DEPTH_ARCHIVE = "data_depth_annotated.zip"
CAMERAS = ("image_02", "image_03")
IMAGE_EXTENSIONS = ("png", "jpg", "jpeg")

_DATE = re.compile(r"\d{4}_\d{2}_\d{2}")
_DRIVE = re.compile(r"\d{4}_\d{2}_\d{2}_drive_\w+")
_FRAME_ID = re.compile(rf"({_DRIVE.pattern})/(image_0[23])/(\d+)")
_DOWNLOADS = f'KITTI offers them as "raw data, synced+rectified" ({RAW_DATA_URL}) and {DEPTH_ARCHIVE} ({DEPTH_URL}).'
_LOOK_AT = 1000  # entries of a folder that are looked at before it is taken for something else


@dataclass(frozen=True, slots=True, order=True)
class FrameKey:
    """One frame of one colour camera: `2011_09_26_drive_0001_sync`, `image_02`, `0000000005`."""

    drive: str
    camera: str
    index: str

    @property
    def date(self) -> str:
        """`2011_09_26`: the day, and with it the calibration."""
        return self.drive[:10]

    @property
    def frame_id(self) -> str:
        """`<drive>/<camera>/<index>`."""
        return f"{self.drive}/{self.camera}/{self.index}"

    @classmethod
    def parse(cls, frame_id: str) -> FrameKey:
        """The key that a frame_id spells; raises DataError where it is none of KITTI's."""
        match = _FRAME_ID.fullmatch(frame_id)
        if match is None:
            raise DataError(
                f"'{frame_id}' is not a KITTI frame: the form is <drive>/<camera>/<index>, "
                "e.g. 2011_09_26_drive_0001_sync/image_02/0000000005."
            )
        return cls(*match.groups())


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that is there, and its size in bytes."""

    path: str
    size: int


@dataclass(frozen=True)
class KittiLayout:
    """The folders of one copy of KITTI.

    Attributes:
        root: the folder that the user named.
        name: `raw + depth`, `official` or `toolbox`.
        image_roots: folders that hold folders of dates.
        depth_roots: folders that hold folders of drives with `proj_depth/groundtruth`.
    """

    root: Path
    name: str
    image_roots: tuple[Path, ...]
    depth_roots: tuple[Path, ...]

    def describe(self) -> str:
        """Where images and depth were found, for the user."""
        images = ", ".join(self.relative(folder) for folder in self.image_roots)
        depth = ", ".join(self.relative(folder) for folder in self.depth_roots)
        return f"{self.name}: images in {images}; depth in {depth or '(no folder found)'}"

    def relative(self, path: str | Path) -> str:
        """A path as the user best recognises it: below the root where it is there."""
        path = Path(path)
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def image_paths(self, key: FrameKey, extension: str = "png") -> list[str]:
        """Where a frame's image may be: the named extension first, then pictures that were converted."""
        extensions = (extension, *(other for other in IMAGE_EXTENSIONS if other != extension))
        folders = [f"{root}/{key.date}/{key.drive}/{key.camera}/data" for root in self.image_roots]
        return [f"{folder}/{key.index}.{extension}" for extension in extensions for folder in folders]

    def depth_paths(self, key: FrameKey) -> list[str]:
        """Where a frame's depth PNG may be; last, as some tools want it, merged into the folders of raw data."""
        tail = f"{key.drive}/proj_depth/groundtruth/{key.camera}/{key.index}.png"
        roots = [*self.depth_roots, *(root / key.date for root in self.image_roots)]
        return [f"{root}/{tail}" for root in roots]

    def scan_paths(self, key: FrameKey) -> list[str]:
        """Where a frame's LiDAR scan may be."""
        tail = f"{key.date}/{key.drive}/velodyne_points/data/{key.index}.bin"
        return [f"{root}/{tail}" for root in self.image_roots]

    def calibration_paths(self, date: str, name: str) -> list[str]:
        """Where a calibration file of a date, e.g. `calib_cam_to_cam.txt`, may be."""
        return [f"{root}/{date}/{name}" for root in self.image_roots]

    def dates(self) -> list[str]:
        """The dates that have a folder, sorted."""
        return sorted({name for root in self.image_roots for name in _folder_names(root, _DATE)})

    def drives(self, date: str) -> list[str]:
        """The drives of a date that have a folder, sorted."""
        pattern = re.compile(rf"{date}_drive_\w+")
        folders = [root / date for root in self.image_roots]
        return sorted({name for folder in folders if folder.is_dir() for name in _folder_names(folder, pattern)})

    def list_frames(self) -> list[tuple[FrameKey, str]]:
        """Every frame found with its image's extension, sorted by frame; lists every folder, so it may take long."""
        found: dict[FrameKey, str] = {}
        for date in self.dates():
            for drive in self.drives(date):
                for camera in CAMERAS:
                    for root in self.image_roots:
                        for index, extension in _images_in(root / date / drive / camera / "data"):
                            key = FrameKey(drive, camera, index)
                            known = found.get(key, extension)
                            found[key] = min(known, extension, key=IMAGE_EXTENSIONS.index)
        return sorted(found.items())

    def split_places(self) -> list[Path]:
        """Folders in which split files are looked for, the likeliest first."""
        folders = [self.root, self.root / "splits", *self.image_roots, *self.depth_roots]
        return list(dict.fromkeys(folders))


def first_found(paths: list[str]) -> FoundFile | None:
    """The first path that exists, with its size; empty files only where there is no other.

    Raises:
        DataError: the system refuses to say whether a path exists.
    """
    empty: FoundFile | None = None
    for path in paths:
        try:
            size = os.stat(path).st_size  # noqa: PTH116 - a Path for each of 100,000 files costs more than the stat
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise DataError(f"{path} cannot be looked at: {error.strerror}. Check permissions and the disk.") from None
        if size:
            return FoundFile(path, size)
        empty = empty or FoundFile(path, 0)
    return empty


def detect_layout(root: Path) -> KittiLayout:
    """The layout of the data below `root`.

    Raises:
        DataError: the folder does not exist or holds no folder of a date in any of the three layouts.
    """
    if not root.is_dir():
        raise DataError(
            f"No KITTI data: {root} is not a folder. Put (or link) the data there, or name their folder with --kitti "
            f"or $TIEKD_KITTI. {_DOWNLOADS}"
        )
    others = _other_children(root)
    candidates = [("raw + depth", root / "raw"), ("toolbox", root / "input"), ("official", root)]
    candidates += [("official", child) for child in others if child.name not in ("raw", "input")]
    found = [(name, folder) for name, folder in candidates if _has_date(folder)]
    if not found:
        there = ", ".join(sorted(entry.name for entry in islice(root.iterdir(), 8))) or "nothing"
        raise DataError(
            f"No KITTI images in {root}: no folder of a date (2011_09_26, ...) in it, in raw/, in input/ or one level "
            f"down; it holds {there}. Unpack the data there, or name another folder with --kitti. {_DOWNLOADS}"
        )
    image_roots = tuple(folder for _, folder in found)
    preferred = [root / "depth", root / "gt_depth", root]
    depth_candidates = [*preferred, *(child for child in others if child not in preferred)]
    depth_roots = [
        folder
        for candidate in depth_candidates
        for folder in (candidate / "train", candidate / "val", candidate)
        if _has_drive(folder)
    ]
    return KittiLayout(root, found[0][0], image_roots, tuple(dict.fromkeys(depth_roots)))


def _other_children(root: Path) -> list[Path]:
    """Folders below the root that are neither dates nor the two halves of the depth archive, sorted."""
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in islice(entries, _LOOK_AT) if entry.is_dir())
    return [root / name for name in names if not _DATE.fullmatch(name) and name not in ("train", "val")]


def _has_date(folder: Path) -> bool:
    if any((folder / date).is_dir() for date in DATES):
        return True
    return folder.is_dir() and next(_folder_names(folder, _DATE, _LOOK_AT), None) is not None


def _has_drive(folder: Path) -> bool:
    return folder.is_dir() and next(_folder_names(folder, _DRIVE, _LOOK_AT), None) is not None


def _folder_names(folder: Path, pattern: re.Pattern[str], look_at: int | None = None) -> Iterator[str]:
    """Names of folders in a folder that match as a whole, among its first entries; of a folder closed to us, none."""
    try:
        entries = os.scandir(folder)
    except PermissionError:  # such as lost+found beside the data
        return
    with entries:
        for entry in islice(entries, look_at):
            if pattern.fullmatch(entry.name) and entry.is_dir():
                yield entry.name


def _images_in(folder: Path) -> Iterator[tuple[str, str]]:
    """(index, extension) of the images in a folder; nothing where there is no such folder."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            index, _, extension = entry.name.partition(".")
            if index.isdecimal() and extension in IMAGE_EXTENSIONS:
                yield index, extension
