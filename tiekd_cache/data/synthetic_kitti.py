"""Made-up drives written to disk in KITTI's own layout, file formats and image sizes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from tiekd_cache.data.synthetic import kitti_intrinsics, render_scene
from tiekd_cache.data.synthetic_lidar import DEPTH_SCALE, lidar_scan
from tiekd_cache.errors import DataError, RangeError
from tiekd_cache.progress import ProgressFactory, progress_bar
from tiekd_cache.whole_file import write_whole

RECORD = "synthetic.json"
SCENE_VERSION = 1  # raise it whenever the same seed gives other pixels: folders of older versions are then refused
_FIRST_DRIVE = 8001
_TRAIN_FRAMES_A_DRIVE = 3
_TEST_FRAMES_A_DRIVE = 2
_STRIDE = 10  # frames from one that is kept to the next, about 15 m: the Eigen split too takes few of each drive
_PNG_OPTIONS = (cv2.IMWRITE_PNG_COMPRESSION, 3)


@dataclass(frozen=True)
class SyntheticSummary:
    """What `write_synthetic_kitti` left on disk.

    Attributes:
        root: the folder, to be given wherever KITTI's is.
        train_split, test_split: the split files.
        train_frames, test_frames: how many frames they list.
        drives: names of the drives, those for training first.
        reused: True where everything was there already and nothing was written.
    """

    root: Path
    train_split: Path
    test_split: Path
    train_frames: int
    test_frames: int
    drives: tuple[str, ...]
    reused: bool


@dataclass(frozen=True)
class _Date:
    """A recording day of KITTI: the size and the camera that its frames have."""

    name: str
    size: tuple[int, int]
    focal_px: float
    centre_px: tuple[float, float]

    @property
    def intrinsics(self) -> npt.NDArray[np.float64]:
        return kitti_intrinsics(self.focal_px, self.centre_px)


@dataclass(frozen=True)
class _Drive:
    name: str
    date: _Date
    street: int
    frames: int

    @property
    def numbers(self) -> range:
        """Numbers of the frames that are kept, as in the file names."""
        return range(0, self.frames * _STRIDE, _STRIDE)

    def image(self, number: int) -> str:
        return f"{self.date.name}/{self.name}/image_02/data/{number:010d}.png"

    def depth(self, number: int) -> str:
        return f"{self.name}/proj_depth/groundtruth/image_02/{number:010d}.png"


_SEPTEMBER_26 = _Date("2011_09_26", (375, 1242), 721.5377, (609.5593, 172.854))
_SEPTEMBER_28 = _Date("2011_09_28", (370, 1224), 707.0493, (604.0814, 180.5066))


def write_synthetic_kitti(
    root: Path,
    *,
    train_frames: int = 24,
    test_frames: int = 8,
    seed: int = 0,
    dense: bool = False,
    progress: ProgressFactory = progress_bar,
) -> SyntheticSummary:
    """Write made-up drives under `root` as `raw/`, `depth/` and `splits/`, or reuse what is there already.

    Each drive has its own street, so that the test drives show nothing of the training ones. `synthetic.json` says
    whether the folder is complete: an interrupted run is simply done again, with the same bytes.

    Args:
        root: a folder that is absent, empty, or was written by this function.
        train_frames, test_frames: number of frames, >= 1.
        seed: which streets, >= 0.
        dense: also write exact depth of every pixel below `dense/`, in the format of `depth/`.
        progress: makes the progress bar; not called where everything is there already.
    Raises:
        DataError: `root` holds something else, or was written with other settings; it is left as it is.
        RangeError: a number is too small.
    """
    if train_frames < 1 or test_frames < 1 or seed < 0:
        raise RangeError(
            f"Cannot make {train_frames} train and {test_frames} test frames from seed {seed}: "
            "both numbers start at 1, the seed at 0. Pass larger values."
        )
    wanted = {
        "format": "tiekd-synthetic/1",
        "scene_version": SCENE_VERSION,
        "train_frames": train_frames,
        "test_frames": test_frames,
        "seed": seed,
        "dense": dense,
    }
    complete = _is_complete(root, wanted)
    train, test = _plan(train_frames, test_frames, seed)
    if not complete:
        _write_json(root / RECORD, {**wanted, "complete": False})
        _write_text_files(root, train, test)
        total = train_frames + test_frames
        with progress(total, "made-up frames", "frame") as bar:
            for _ in _write_frames(root, [*train, *test], dense):
                bar.update(1)
        _write_json(root / RECORD, {**wanted, "complete": True})
    splits = root / "splits"
    names = tuple(drive.name for drive in (*train, *test))
    return SyntheticSummary(
        root, splits / "eigen_train.txt", splits / "eigen_test.txt", train_frames, test_frames, names, complete
    )


def _is_complete(root: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether `root` was written completely with these settings; raises where it must not be touched."""
    if not root.exists():
        return False
    if not root.is_dir():
        raise DataError(f"{root} is a file; made-up frames need a folder. Name another place.")
    record = root / RECORD
    if not record.exists():
        # a kill while the record itself was being written leaves only its unfinished copy
        if any(not entry.name.startswith(f".{RECORD}.") for entry in root.iterdir()):
            raise DataError(
                f"{root} is not empty and has no {RECORD}, so it was not made here; it is left as it is. "
                "Name another folder for the made-up frames."
            )
        return False
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{record} cannot be read ({error}). Delete the folder {root} to have it made again."
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"{record} holds no JSON object. Delete the folder {root} to have it made again.")
    differing = [key for key, value in wanted.items() if found.get(key) != value]
    if differing:
        other = [f"{key} {found.get(key)!r} instead of {wanted[key]!r}" for key in differing]
        raise DataError(
            f"{root} holds made-up frames with {', '.join(other)}; they are left as they are. "
            "Name another folder, or delete this one."
        )
    return found.get("complete") is True


def _plan(train_frames: int, test_frames: int, seed: int) -> tuple[list[_Drive], list[_Drive]]:
    """Drives for training and for testing: at least two each where the frames suffice, the second of another size."""
    drives: list[list[_Drive]] = []
    number = _FIRST_DRIVE
    for frames, usual in ((train_frames, _TRAIN_FRAMES_A_DRIVE), (test_frames, _TEST_FRAMES_A_DRIVE)):
        count = min(frames, max(2, -(-frames // usual)))
        drives.append([])
        for index in range(count):
            date = _SEPTEMBER_28 if number == _FIRST_DRIVE + 1 else _SEPTEMBER_26
            share = frames // count + (index < frames % count)
            street = int(np.random.default_rng([seed, number]).integers(1 << 31))
            drives[-1].append(_Drive(f"{date.name}_drive_{number:04d}_sync", date, street, share))
            number += 1
    return drives[0], drives[1]


def _write_frames(root: Path, drives: list[_Drive], dense: bool) -> Iterator[None]:
    for drive in drives:
        for number in drive.numbers:
            scene = render_scene(drive.street, number, drive.date.size, intrinsics=drive.date.intrinsics)
            scan = lidar_scan(scene.depth, scene.intrinsics, np.random.default_rng([drive.street, 10, number]))
            _write_png(root / "raw" / drive.image(number), cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR))
            _write_png(root / "depth" / drive.depth(number), _counts(scan))
            if dense:
                _write_png(root / "dense" / drive.depth(number), _counts(scene.depth))
            yield


def _counts(depth: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Metres -> KITTI's 16-bit counts of 1/256 m; the scenes end well before the 255.99 m that fit."""
    counts: npt.NDArray[np.uint16] = np.rint(depth * DEPTH_SCALE).astype(np.uint16)
    return counts


def _write_text_files(root: Path, train: list[_Drive], test: list[_Drive]) -> None:
    """Split files (`rgb depth focal`, one line a frame) and each date's calibration."""
    for purpose, drives in (("train", train), ("test", test)):
        lines = [
            f"{drive.image(number)} {drive.depth(number)} {drive.date.focal_px:.4f}\n"
            for drive in drives
            for number in drive.numbers
        ]
        write_whole(root / "splits" / f"eigen_{purpose}.txt", "".join(lines).encode())
    for date in {drive.date.name: drive.date for drive in (*train, *test)}.values():
        write_whole(root / "raw" / date.name / "calib_cam_to_cam.txt", _calibration(date).encode())


def _calibration(date: _Date) -> str:
    """The text of `calib_cam_to_cam.txt`: four ideal cameras at one place, so that all rotations are identities."""

    def line(key: str, values: npt.NDArray[np.float64]) -> str:
        return f"{key}: " + " ".join(f"{value:.6e}" for value in values.reshape(-1))

    size = np.array(date.size[::-1], dtype=float)
    projection = np.hstack([date.intrinsics, np.zeros((3, 1))])
    lines = ["calib_time: 01-Jan-2011 00:00:00", line("corner_dist", np.array([0.0995]))]
    for camera in range(4):
        for key, values in (
            ("S", size),
            ("K", date.intrinsics),
            ("D", np.zeros(5)),
            ("R", np.eye(3)),
            ("T", np.zeros(3)),
            ("S_rect", size),
            ("R_rect", np.eye(3)),
            ("P_rect", projection),
        ):
            lines.append(line(f"{key}_{camera:02d}", values))
    return "\n".join(lines) + "\n"


def _write_png(path: Path, pixels: npt.NDArray[Any]) -> None:
    fine, encoded = cv2.imencode(".png", pixels, _PNG_OPTIONS)
    if not fine:
        raise DataError(f"{path} could not be encoded as PNG by OpenCV {cv2.__version__}. Check the installation.")
    write_whole(path, encoded.tobytes())


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_whole(path, (json.dumps(values, indent=2) + "\n").encode())
