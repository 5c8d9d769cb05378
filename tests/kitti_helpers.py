"""Tiny made-up copies of KITTI in each of its layouts, with random textures, for tests of everything that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

Layout = Literal["raw + depth", "official", "official below", "toolbox"]
LAYOUTS: tuple[Layout, ...] = ("raw + depth", "official", "official below", "toolbox")

FRAMES = (
    "2011_09_26_drive_0001_sync/image_02/0000000005",
    "2011_09_26_drive_0001_sync/image_02/0000000006",
    "2011_09_28_drive_0002_sync/image_02/0000000000",
)
FOCAL_PX = {"2011_09_26": 721.5377, "2011_09_28": 707.0493}

_IMAGES = {"raw + depth": "raw", "official": ".", "official below": "raw_data", "toolbox": "input"}
_DEPTH = {
    "raw + depth": ("depth", "depth"),
    "official": ("train", "val"),
    "official below": ("data_depth_annotated/train", "data_depth_annotated/val"),
    "toolbox": ("gt_depth", "gt_depth"),
}


def image_path(root: Path, layout: Layout, frame_id: str, extension: str = "png") -> Path:
    """Where a frame's image lies in a layout."""
    drive, camera, index = frame_id.split("/")
    return root / _IMAGES[layout] / drive[:10] / drive / camera / "data" / f"{index}.{extension}"


def depth_path(root: Path, layout: Layout, frame_id: str) -> Path:
    """Where a frame's depth map lies in a layout; drives of even number in the validation half."""
    drive, camera, index = frame_id.split("/")
    half = int(drive.split("_")[4]) % 2 == 0
    return root / _DEPTH[layout][half] / drive / "proj_depth" / "groundtruth" / camera / f"{index}.png"


def scan_path(root: Path, layout: Layout, frame_id: str) -> Path:
    """Where a frame's LiDAR scan lies in a layout."""
    image = image_path(root, layout, frame_id)
    return image.parents[2] / "velodyne_points" / "data" / f"{image.stem}.bin"


def texture(frame_id: str, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """[H,W,3] uint8 RGB: the same for the same frame, different for others."""
    rng = np.random.default_rng(list(frame_id.encode()))
    tile = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    return np.tile(tile, (size[0] // 40 + 1, size[1] // 40 + 1, 1))[: size[0], : size[1]]


def sparse_depth(frame_id: str, size: tuple[int, int]) -> npt.NDArray[np.uint16]:
    """[H,W] uint16 counts of 1/256 m; nine of ten pixels are 0."""
    rng = np.random.default_rng([*frame_id.encode(), 1])
    counts = rng.integers(256, 80 * 256, size, dtype=np.uint16)
    return np.where(rng.random(size) < 0.1, counts, 0).astype(np.uint16)


def write_picture(path: Path, pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> None:
    """Writes [H,W] or RGB [H,W,3] as the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    assert cv2.imwrite(str(path), stored, [cv2.IMWRITE_PNG_COMPRESSION, 1])


def write_kitti(
    root: Path,
    layout: Layout = "raw + depth",
    frames: Sequence[str] = FRAMES,
    size: tuple[int, int] = (375, 1242),
    *,
    extension: str = "png",
    depth: bool = True,
) -> Path:
    """Writes images and depth maps of frames in a layout, without calibration; returns the root."""
    for frame_id in frames:
        write_picture(image_path(root, layout, frame_id, extension), texture(frame_id, size))
        if depth:
            write_picture(depth_path(root, layout, frame_id), sparse_depth(frame_id, size))
    return root


def split_line(frame_id: str, depth: bool = True) -> str:
    """A line of a split file in the BTS / Eigen format."""
    drive, camera, index = frame_id.split("/")
    depth_name = f"{drive}/proj_depth/groundtruth/{camera}/{index}.png" if depth else "None"
    return f"{drive[:10]}/{drive}/{camera}/data/{index}.png {depth_name} {FOCAL_PX.get(drive[:10], 700.0)}"


def write_split(path: Path, frames: Sequence[str] = FRAMES, none: Sequence[str] = ()) -> Path:
    """Writes a split file of frames; those in `none` without a depth map."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(split_line(frame_id, frame_id not in none) for frame_id in frames) + "\n")
    return path


def write_calibration(folder: Path, focal_px: float = 700.0, cx: float = 600.0, cy: float = 170.0) -> None:
    """Writes both calibration files of a date for a LiDAR that sits in the camera and looks where it looks."""
    folder.mkdir(parents=True, exist_ok=True)
    left = f"{focal_px} 0 {cx} 0 0 {focal_px} {cy} 0 0 0 1 0"
    right = f"{focal_px + 1} 0 {cx} 0 0 {focal_px + 1} {cy} 0 0 0 1 0"
    (folder / "calib_cam_to_cam.txt").write_text(
        f"calib_time: 09-Jan-2012 13:57:47\nR_rect_00: 1 0 0 0 1 0 0 0 1\nP_rect_02: {left}\nP_rect_03: {right}\n"
    )
    (folder / "calib_velo_to_cam.txt").write_text("R: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 0\n")
