"""Whether the files that a split names are there: looks at every one, opens none, and says what to download.

An image is essential: no part of the chain works without it. A depth map is essential where it is used, which is
evaluation (leaving frames out there would change the metrics without a word). For stage one and training a named
but missing depth map is like the `None` lines of the published splits: the frame stays, has no ground truth (and
no LiDAR, unless its scan is there), and the note to the user counts it. An empty file counts as missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tiekd_cache.data.kitti_layout import (
    DEPTH_ARCHIVE,
    DEPTH_URL,
    RAW_DATA_URL,
    FoundFile,
    FrameKey,
    KittiLayout,
    first_found,
)
from tiekd_cache.data.kitti_split import Purpose, SplitLine

_LISTED = 10
_NAMED_DRIVES = 3


@dataclass(frozen=True, slots=True)
class FrameFiles:
    """Where one frame's files are.

    Attributes:
        key: which frame.
        image: path of the picture.
        depth: path of the depth PNG; None where the split says so or there is none.
        focal_px: horizontal focal length that the split names, pixels.
    """

    key: FrameKey
    image: str
    depth: str | None
    focal_px: float | None


@dataclass(frozen=True, slots=True)
class MissingFile:
    """A file that a split names and that is not there, or is empty."""

    key: FrameKey
    kind: str
    path: str
    empty: bool

    def __str__(self) -> str:
        return f"{self.kind} {self.path} is {'truncated (0 bytes)' if self.empty else 'missing'}"


@dataclass
class Check:
    """What a look at all files of a split gave.

    Attributes:
        frames: those whose essential files are there.
        missing: essential files that are not; their frames are not in `frames`.
        without_depth: named depth maps that are not there, of frames that stay.
        none_lines: how many frames have no depth map because the split says None.
        unsaid_without_depth: how many have none, and the split names none.
    """

    frames: list[FrameFiles] = field(default_factory=list)
    missing: list[MissingFile] = field(default_factory=list)
    without_depth: list[MissingFile] = field(default_factory=list)
    none_lines: int = 0
    unsaid_without_depth: int = 0

    def notes(self) -> list[str]:
        """What the user should know about frames without ground truth, as parts of a sentence."""
        notes: list[str] = []
        if self.none_lines:
            notes.append(f"{self.none_lines} without ground truth (None in the split)")
        if self.unsaid_without_depth:
            notes.append(f"{self.unsaid_without_depth} without ground truth (no depth map found)")
        if self.without_depth:
            notes.append(
                f"{len(self.without_depth)} without ground truth because the depth map is missing, first "
                f"{self.without_depth[0].path}: unpack {DEPTH_ARCHIVE} ({DEPTH_URL})"
            )
        return notes


def check_files(layout: KittiLayout, lines: Iterable[SplitLine], purpose: Purpose) -> Check:
    """Looks for every file that the lines name (one question to the system a file, in the usual case).

    Raises:
        DataError: a place cannot be looked at (permissions, a failing disk).
    """
    check = Check()
    for line in lines:
        image = first_found(layout.image_paths(line.key, line.extension))
        depth = None if line.depth == "none" else first_found(layout.depth_paths(line.key))
        absent = [] if image is not None and image.size else [_missing_image(layout, line, image)]
        depth_path = depth.path if depth is not None and depth.size else None
        if line.depth == "named" and depth_path is None:
            missing_depth = _missing_depth(layout, line, depth)
            if purpose == "test":
                absent.append(missing_depth)
            elif not absent:
                check.without_depth.append(missing_depth)
        if image is None or absent:
            check.missing.extend(absent)
            continue
        check.none_lines += line.depth == "none"
        check.unsaid_without_depth += line.depth == "unsaid" and depth_path is None
        check.frames.append(FrameFiles(line.key, image.path, depth_path, line.focal_px))
    return check


def missing_files_text(missing: Sequence[MissingFile], num_frames: int, split: str, layout: KittiLayout) -> str:
    """What one error says of all missing files: how many, the first ten, what to download."""
    frames = len({file.key for file in missing})
    lines = [
        f"{len(missing)} files of {frames} frames (of the {num_frames} in {split}) are missing or truncated "
        f"in {layout.root}:"
    ]
    lines += [f"  {file}" for file in missing[:_LISTED]]
    if len(missing) > _LISTED:
        lines.append(f"  and {len(missing) - _LISTED} more")
    return "\n".join(lines + _what_to_get(missing))


def skipped_lines(missing: Sequence[MissingFile]) -> list[str]:
    """One line a frame that is left out, with the reason."""
    reasons: dict[FrameKey, list[str]] = {}
    for file in missing:
        reasons.setdefault(file.key, []).append(str(file))
    return [f"{key.frame_id}: {'; '.join(reason)}" for key, reason in reasons.items()]


def _what_to_get(missing: Sequence[MissingFile]) -> list[str]:
    """Which of KITTI's downloads hold the missing files."""
    advice: list[str] = []
    drives = list(dict.fromkeys(file.key.drive for file in missing if file.kind == "image"))
    if drives:
        named = ", ".join(f"{drive}.zip" for drive in drives[:_NAMED_DRIVES])
        more = f" and those of {len(drives) - _NAMED_DRIVES} more drives" if len(drives) > _NAMED_DRIVES else ""
        advice.append(f'Images: unpack {named}{more} of "raw data, synced+rectified" ({RAW_DATA_URL}).')
    if any(file.kind == "depth map" for file in missing):
        advice.append(f"Depth maps: unpack {DEPTH_ARCHIVE}, the annotated depth maps ({DEPTH_URL}).")
    return advice


def _missing_image(layout: KittiLayout, line: SplitLine, found: FoundFile | None) -> MissingFile:
    path = layout.image_paths(line.key, line.extension)[0] if found is None else found.path
    return MissingFile(line.key, "image", layout.relative(path), empty=found is not None)


def _missing_depth(layout: KittiLayout, line: SplitLine, found: FoundFile | None) -> MissingFile:
    if found is not None:
        path = layout.relative(found.path)
    elif layout.depth_roots:
        path = layout.relative(layout.depth_paths(line.key)[0])
    else:  # there is no folder of depth maps to name a path in
        path = f"{line.key.drive}/proj_depth/groundtruth/{line.key.camera}/{line.key.index}.png"
    return MissingFile(line.key, "depth map", path, empty=found is not None)
