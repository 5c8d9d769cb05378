"""Split files in the BTS / Eigen format: one frame a line, `<rgb> <depth or None> <focal>`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tiekd_cache.data.kitti_layout import IMAGE_EXTENSIONS, FrameKey
from tiekd_cache.errors import DataError
from tiekd_cache.foreign import read_file

Purpose = Literal["train", "test"]

USUAL_SPLITS: dict[Purpose, tuple[str, ...]] = {
    "train": ("eigen_train.txt", "kitti_eigen_train.txt", "eigen_train_files_with_gt.txt"),
    "test": ("eigen_test.txt", "kitti_eigen_test.txt", "eigen_test_files_with_gt.txt"),
}
"""Names of the published split files that are used where the user names none."""

_EXTENSIONS = "|".join(IMAGE_EXTENSIONS)
_RGB = re.compile(
    rf"(?:.*/)?(?P<date>\d{{4}}_\d\d_\d\d)/(?P<drive>(?P=date)_drive_\w+)/(?P<camera>image_0[23])/data/"
    rf"(?P<index>\d+)\.(?P<extension>{_EXTENSIONS})"
)
_DEPTH = re.compile(
    r"(?:.*/)?(?P<drive>\d{4}_\d\d_\d\d_drive_\w+)/proj_depth/groundtruth/(?P<camera>image_0[23])/(?P<index>\d+)\.png"
)
_RULE = (
    "a line is `<rgb> <depth or None> <focal>`, e.g. "
    "2011_09_26/2011_09_26_drive_0001_sync/image_02/data/0000000005.png "
    "2011_09_26_drive_0001_sync/proj_depth/groundtruth/image_02/0000000005.png 721.5377"
)


@dataclass(frozen=True, slots=True)
class SplitLine:
    """One frame of a split.

    Attributes:
        key: which frame.
        extension: of the image as the line spells it.
        depth: `named` by the line; `none`: the line says None; `unsaid`: the line ends before.
        focal_px: horizontal focal length, pixels; None where the line does not say.
    """

    key: FrameKey
    extension: str = "png"
    depth: Literal["named", "none", "unsaid"] = "unsaid"
    focal_px: float | None = None


@dataclass(frozen=True)
class Split:
    """A split file's frames in order, each once, and how many lines repeated one."""

    path: Path
    lines: tuple[SplitLine, ...]
    repeated: int


def read_split(path: Path) -> Split:
    """The frames of a split file.

    What stands before the date in an image's path, and before the drive in a depth map's, is ignored: public
    split files differ in it (a leading slash, `input/`, `train/`), and the layout found says where the files are.
    Blank lines and lines that start with # are skipped; of a frame named twice, the first line counts.

    Raises:
        DataError: the file cannot be read, names no frame, or has a malformed line (named by its number).
    """
    try:
        text = read_file(path).decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"The split file {path} cannot be read: {error.strerror or error}. Check the path.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not a text file in UTF-8; a split file is, and {_RULE}.") from None
    lines: dict[FrameKey, SplitLine] = {}
    repeated = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parsed = _parse_line(line, f"{path}:{number}")
        repeated += parsed.key in lines
        lines.setdefault(parsed.key, parsed)
    if not lines:
        raise DataError(f"The split file {path} names no frame; {_RULE}.")
    return Split(path, tuple(lines.values()), repeated)


def find_split(split: str | Path, places: Sequence[Path]) -> Path:
    """The split file that the user means: a path as it stands, or else a name beside the data.

    Raises:
        DataError: neither exists; lists the split files that lie beside the data.
    """
    for path in (Path(split), *(place / split for place in places)):
        if path.is_file():
            return path
    beside = ", ".join(str(path) for path in splits_beside(places)) or "none"
    raise DataError(
        f"The split file {split} does not exist, nor is it beside the data ({places[0]}). Split files found there: "
        f"{beside}. Name one of them, or a path, or `all` for every frame found."
    )


def usual_split(places: Sequence[Path], purpose: Purpose) -> Path | None:
    """The first of the usual split files that lies beside the data; None where there is none."""
    candidates = (place / name for place in places for name in USUAL_SPLITS[purpose])
    return next((path for path in candidates if path.is_file()), None)


def splits_beside(places: Sequence[Path]) -> list[Path]:
    """The text files beside the data that may be split files: the usual names, and what names a split."""
    found = [path for place in places if place.is_dir() for path in sorted(place.glob("*.txt")) if path.is_file()]
    return [path for path in dict.fromkeys(found) if not path.name.startswith("calib_")]


def _parse_line(line: str, where: str) -> SplitLine:
    """One line that is neither blank nor a comment; raises DataError, naming `where` and the rule."""
    rgb, *rest = line.replace("\\", "/").split()
    match = _RGB.fullmatch(rgb)
    if match is None:
        raise DataError(f"{where}: '{rgb}' is not the path of a KITTI image; {_RULE}.")
    if len(rest) > 2:
        raise DataError(f"{where}: {len(rest) + 1} columns; {_RULE}.")
    key = FrameKey(match["drive"], match["camera"], match["index"])
    depth = _parse_depth(rest[0], key, where) if rest else "unsaid"
    focal_px = _parse_focal(rest[1], where) if len(rest) > 1 else None
    return SplitLine(key, match["extension"], depth, focal_px)


def _parse_depth(text: str, key: FrameKey, where: str) -> Literal["named", "none"]:
    if text.lower() == "none":
        return "none"
    match = _DEPTH.fullmatch(text)
    if match is None:
        raise DataError(f"{where}: '{text}' is neither None nor the path of a KITTI depth map; {_RULE}.")
    other = FrameKey(match["drive"], match["camera"], match["index"])
    if other != key:
        raise DataError(
            f"{where}: the image is frame {key.frame_id} but the depth map is frame {other.frame_id}; "
            "both must be of the same frame. Mend the line."
        )
    return "named"


def _parse_focal(text: str, where: str) -> float:
    try:
        focal_px = float(text)
    except ValueError:
        focal_px = math.nan
    if not (math.isfinite(focal_px) and focal_px > 0):
        raise DataError(f"{where}: '{text}' is not a focal length in pixels, e.g. 721.5377; {_RULE}.")
    return focal_px
