"""What a copy of KITTI holds: dates, drives, calibration, split files and how many of their files are there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tiekd_cache.data.calibration import CAM_TO_CAM, VELO_TO_CAM
from tiekd_cache.data.kitti_check import check_files
from tiekd_cache.data.kitti_layout import (
    DEPTH_ARCHIVE,
    DEPTH_URL,
    RAW_DATA_URL,
    KittiLayout,
    detect_layout,
    first_found,
)
from tiekd_cache.data.kitti_split import USUAL_SPLITS, Purpose, read_split
from tiekd_cache.errors import DataError

SPLITS_URL = "https://github.com/cleinc/bts (folder train_test_inputs)"


@dataclass(frozen=True)
class DateReport:
    """One recording day: how many drives have a folder, and whether its calibration is there."""

    date: str
    drives: int
    calibration: bool


@dataclass(frozen=True)
class SplitReport:
    """One of the usual split files beside the data, and how many of its files are there.

    `error` says what is wrong with the file itself; all counts are 0 then.
    """

    path: str
    purpose: Purpose
    lines: int = 0
    none_lines: int = 0
    images_found: int = 0
    images_missing: int = 0
    depth_found: int = 0
    depth_missing: int = 0
    error: str | None = None


@dataclass(frozen=True)
class DataReport:
    """The data: where they were looked for, and what is there. `layout` is None where there are none."""

    root: str
    layout: str | None = None
    dates: tuple[DateReport, ...] = ()
    splits: tuple[SplitReport, ...] = ()

    @property
    def num_drives(self) -> int:
        """Drives of all dates together."""
        return sum(date.drives for date in self.dates)

    def lines(self) -> list[str]:
        """The report as text for a terminal."""
        if self.layout is None:
            return [f"Data: none in {self.root}"]
        lines = [f"Data: {self.root} ({self.layout}); drives {self.num_drives}"]
        for date in self.dates:
            calibration = "with calibration" if date.calibration else "no calibration"
            lines.append(f"  {date.date}: drives {date.drives}, {calibration}")
        for split in self.splits:
            if split.error is not None:
                lines.append(f"  {split.purpose} split {split.path}: unreadable")
                continue
            lines.append(
                f"  {split.purpose} split {split.path}: {split.lines} frames; images {split.images_found} found, "
                f"{split.images_missing} missing; depth maps {split.depth_found} found, {split.depth_missing} missing, "
                f"{split.none_lines} None"
            )
        return lines


def look_at_data(root: Path, problems: list[str]) -> DataReport:
    """What is found below a folder of KITTI data; opens split files, but no picture.

    Args:
        root: the folder.
        problems: what is missing or wrong, and what to do about it, is added here.
    """
    try:
        layout = detect_layout(root)
    except DataError as error:
        problems.append(str(error))
        return DataReport(str(root))
    dates = tuple(_look_at_date(layout, date) for date in layout.dates())
    bare = [date.date for date in dates if not date.calibration]
    if bare:
        archives = ", ".join(f"{date}_calib.zip" for date in bare)
        problems.append(
            f"No calibration for {', '.join(bare)}: published intrinsics are used, LiDAR scans cannot be. "
            f"Unpack {archives} ({RAW_DATA_URL}) into {', '.join(str(folder) for folder in layout.image_roots)}."
        )
    if not layout.depth_roots:
        problems.append(f"No depth maps in {root}: unpack {DEPTH_ARCHIVE} there ({DEPTH_URL}).")
    splits = tuple(_look_at_splits(layout, problems))
    return DataReport(str(root), layout.describe(), dates, splits)


def _look_at_date(layout: KittiLayout, date: str) -> DateReport:
    files = [first_found(layout.calibration_paths(date, name)) for name in (CAM_TO_CAM, VELO_TO_CAM)]
    return DateReport(date, len(layout.drives(date)), all(file is not None for file in files))


def _look_at_splits(layout: KittiLayout, problems: list[str]) -> Iterator[SplitReport]:
    for purpose, names in USUAL_SPLITS.items():
        paths = [path for folder in layout.split_places() for name in names if (path := folder / name).is_file()]
        if not paths:
            problems.append(
                f"No usual {purpose} split file beside the data ({', '.join(names)}): every frame found would be used. "
                f"Put one into {layout.root}; published ones: {SPLITS_URL}."
            )
        for path in paths:
            report = _look_at_split(layout, path, purpose)
            yield report
            if report.error is not None:
                problems.append(report.error)
            if report.images_missing:
                problems.append(
                    f'{path}: {report.images_missing} images missing. Unpack "raw data, synced+rectified" of the '
                    f"drives that are not there ({RAW_DATA_URL}), or go on with --skip-missing."
                )
            if report.depth_missing:
                problems.append(
                    f"{path}: {report.depth_missing} depth maps missing. Unpack {DEPTH_ARCHIVE} ({DEPTH_URL})."
                )


def _look_at_split(layout: KittiLayout, path: Path, purpose: Purpose) -> SplitReport:
    try:
        lines = read_split(path).lines
        missing = check_files(layout, lines, "test").missing  # as for a test: every depth map that is named counts
    except DataError as error:
        return SplitReport(str(path), purpose, error=str(error))
    images = sum(file.kind == "image" for file in missing)
    named = sum(line.depth == "named" for line in lines)
    return SplitReport(
        str(path),
        purpose,
        lines=len(lines),
        none_lines=sum(line.depth == "none" for line in lines),
        images_found=len(lines) - images,
        images_missing=images,
        depth_found=named - (len(missing) - images),
        depth_missing=len(missing) - images,
    )
