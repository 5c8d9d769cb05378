"""KITTI's calibration: intrinsics of the rectified colour cameras, and LiDAR scans projected into them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tiekd_cache.data.frame import DepthMap
from tiekd_cache.errors import DataError, ShapeError
from tiekd_cache.foreign import read_file

Matrix = npt.NDArray[np.float64]

PUBLISHED_INTRINSICS = {
    "2011_09_26": (721.5377, 609.5593, 172.854),
    "2011_09_28": (707.0493, 604.0814, 180.5066),
    "2011_09_29": (718.3351, 600.3891, 181.5122),
    "2011_09_30": (707.0912, 601.8873, 183.1104),
    "2011_10_03": (718.856, 607.1928, 185.2157),
}
"""(focal, cx, cy) in pixels of KITTI's five dates: P_rect, the same for both colour cameras."""

CAM_TO_CAM = "calib_cam_to_cam.txt"
VELO_TO_CAM = "calib_velo_to_cam.txt"


def read_calibration(path: str | Path) -> dict[str, npt.NDArray[np.float64]]:
    """The `name: numbers` lines of a calibration file as flat float64 arrays; other lines are left out.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        text = read_file(Path(path)).decode()
    except OSError as error:
        raise DataError(f"The calibration {path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise DataError(f"The calibration {path} is not a text file. {_get_again(path)}") from None
    values: dict[str, npt.NDArray[np.float64]] = {}
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        numbers = _numbers(rest)
        if colon and numbers is not None:
            values[name.strip()] = numbers
    return values


def file_intrinsics(path: str | Path, camera: str) -> Matrix:
    """[3,3] float64, pixels, of a rectified camera (`image_02` or `image_03`), full image.

    Raises:
        DataError: the file cannot be read or lacks the camera's P_rect.
    """
    return _entry(path, read_calibration(path), f"P_rect_{camera[-2:]}", (3, 4))[:, :3].copy()


def published_intrinsics(date: str) -> Matrix | None:
    """[3,3] float64, pixels, full image, of one of KITTI's five dates; None for another date."""
    if date not in PUBLISHED_INTRINSICS:
        return None
    return intrinsics(*PUBLISHED_INTRINSICS[date])


def intrinsics(focal_px: float, cx: float, cy: float) -> Matrix:
    """[3,3] float64 of a camera with square pixels; all in pixels."""
    return np.array([[focal_px, 0.0, cx], [0.0, focal_px, cy], [0.0, 0.0, 1.0]])


def scan_projection(cam_to_cam: str | Path, velo_to_cam: str | Path, camera: str) -> Matrix:
    """[3,4] float64: P_rect_0x * R_rect_00 * T_velo_to_cam, LiDAR metres to (u*z, v*z, z) of the rectified image.

    Raises:
        DataError: a file cannot be read or lacks an entry.
    """
    cameras, velodyne = read_calibration(cam_to_cam), read_calibration(velo_to_cam)
    projection = _entry(cam_to_cam, cameras, f"P_rect_{camera[-2:]}", (3, 4))
    rectification, pose = np.eye(4), np.eye(4)
    rectification[:3, :3] = _entry(cam_to_cam, cameras, "R_rect_00", (3, 3))
    pose[:3, :3] = _entry(velo_to_cam, velodyne, "R", (3, 3))
    pose[:3, 3] = _entry(velo_to_cam, velodyne, "T", (3,))
    combined: Matrix = projection @ rectification @ pose
    return combined


def read_scan(path: str | Path) -> npt.NDArray[np.float32]:
    """[N,4] float32: x forward, y left, z up in metres, and reflectance, of one LiDAR sweep.

    Raises:
        DataError: the file is missing, empty or cut short.
    """
    try:
        data = read_file(Path(path))
    except OSError as error:
        raise DataError(f"The LiDAR scan {path} cannot be read: {error.strerror or error}.") from None
    if not data or len(data) % 16:
        raise DataError(
            f"{path} is truncated: {len(data)} bytes; a LiDAR scan is a positive multiple of 16 bytes "
            "(x, y, z, reflectance as float32). Unpack or copy it again."
        )
    return np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False).reshape(-1, 4)


def project_scan(points: npt.NDArray[np.float32], projection: Matrix, height: int, width: int) -> DepthMap:
    """[height,width] float32 depth in metres of the nearest LiDAR point in each pixel; 0 = none.

    Points behind the LiDAR's or the camera's plane are dropped. Not filtered for occlusion: the LiDAR sits
    above the camera, so a few points of the background show through at object borders.

    Args:
        points: [N,>=3] metres, as `read_scan` gives them.
        projection: [3,4], as `scan_projection` gives it.
        height, width: of the full image, pixels.
    Raises:
        ShapeError: the arrays do not have these shapes.
    Source: pixel = round(u) - 1, depth = z of the rectified camera, the nearest point wins: the convention of
        the evaluation code for the Eigen split (D. Eigen et al., NIPS 2014, as in public use since).
    """
    if points.ndim != 2 or points.shape[1] < 3 or projection.shape != (3, 4):
        raise ShapeError(f"Points are [N,>=3] and the projection [3,4]; got {points.shape} and {projection.shape}.")
    ahead = points[points[:, 0] >= 0, :3].astype(np.float64)
    u_z, v_z, z = projection[:, :3] @ ahead.T + projection[:, 3:]
    in_front = z > 0
    u_z, v_z, z = u_z[in_front], v_z[in_front], z[in_front]
    columns, rows = np.rint(u_z / z) - 1, np.rint(v_z / z) - 1
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    pixels = rows[inside].astype(np.int64) * width + columns[inside].astype(np.int64)
    nearest = np.full(height * width, np.inf)
    np.minimum.at(nearest, pixels, z[inside])
    depth: DepthMap = np.where(np.isfinite(nearest), nearest, 0.0).astype(np.float32).reshape(height, width)
    return depth


def _entry(
    path: str | Path, values: dict[str, npt.NDArray[np.float64]], name: str, shape: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    """One named entry in its shape; raises DataError where it is missing or has another number of values."""
    value = values.get(name)
    if value is None or value.size != np.prod(shape) or not np.isfinite(value).all():
        found = "missing" if value is None else f"{value.size} values"
        raise DataError(
            f"The calibration {path} lacks {name}: {found}, must be {int(np.prod(shape))} finite numbers. "
            f"{_get_again(path)}"
        )
    return value.reshape(shape)


def _numbers(text: str) -> npt.NDArray[np.float64] | None:
    words: Sequence[str] = text.split()
    try:
        return np.array([float(word) for word in words]) if words else None
    except ValueError:  # calib_time is a date
        return None


def _get_again(path: str | Path) -> str:
    date = Path(path).parent.name
    return f"Unpack {date}_calib.zip of KITTI's raw data again."
