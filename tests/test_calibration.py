"""Intrinsics come from KITTI's files, and LiDAR points land on the pixels where the published projection has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kitti_helpers import write_calibration

from tiekd_cache.data.calibration import (
    PUBLISHED_INTRINSICS,
    file_intrinsics,
    intrinsics,
    project_scan,
    published_intrinsics,
    read_calibration,
    read_scan,
    scan_projection,
)
from tiekd_cache.data.images import read_depth_png
from tiekd_cache.errors import DataError, ShapeError

# a LiDAR (x forward, y left, z up) in the place of a camera with f = 100, cx = 50, cy = 20
SIMPLE = intrinsics(100.0, 50.0, 20.0) @ np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]])


def points(*rows: tuple[float, float, float]) -> npt.NDArray[np.float32]:
    return np.array([(*row, 0.5) for row in rows], dtype=np.float32)


def test_both_cameras_are_read_from_the_file(tmp_path: Path) -> None:
    write_calibration(tmp_path, focal_px=700.0, cx=610.0, cy=173.0)
    path = tmp_path / "calib_cam_to_cam.txt"
    np.testing.assert_array_equal(file_intrinsics(path, "image_02"), intrinsics(700.0, 610.0, 173.0))
    np.testing.assert_array_equal(file_intrinsics(path, "image_03"), intrinsics(701.0, 610.0, 173.0))
    assert "calib_time" not in read_calibration(path)


@pytest.mark.parametrize(
    ("old", "new", "found"), [("P_rect_02", "P_rect_09", "missing"), ("0 0 0 1 0", "0 0 0 1", "11 values")]
)
def test_a_broken_calibration_is_named(tmp_path: Path, old: str, new: str, found: str) -> None:
    folder = tmp_path / "2011_09_26"
    write_calibration(folder)
    path = folder / "calib_cam_to_cam.txt"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=rf"lacks P_rect_02: {found}.*2011_09_26_calib\.zip"):
        file_intrinsics(path, "image_02")


def test_absent_and_binary_calibration(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt cannot be read"):
        read_calibration(tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(DataError, match="not a text file"):
        read_calibration(tmp_path / "binary.txt")


def test_a_point_lands_where_the_projection_says(tmp_path: Path) -> None:
    # 10 m ahead, 1 m to the left, 0.5 m up: u = 50 - 100/10 = 40, v = 20 - 50/10 = 15; the pixel is round - 1
    depth = project_scan(points((10.0, 1.0, 0.5)), SIMPLE, 40, 100)
    assert depth.dtype == np.float32
    assert depth.shape == (40, 100)
    assert np.argwhere(depth).tolist() == [[14, 39]]
    assert depth[14, 39] == 10.0
    write_calibration(tmp_path, 100.0, 50.0, 20.0)
    files = (tmp_path / "calib_cam_to_cam.txt", tmp_path / "calib_velo_to_cam.txt")
    np.testing.assert_allclose(scan_projection(*files, "image_02"), SIMPLE)


def test_the_nearest_point_wins_in_any_order() -> None:
    column = [(5.0, 0.5, 0.25), (10.0, 1.0, 0.5), (20.0, 2.0, 1.0)]
    for rows in (column, column[::-1]):
        depth = project_scan(points(*rows), SIMPLE, 40, 100)
        assert depth[depth > 0].tolist() == [5.0]


def test_points_behind_or_outside_are_dropped() -> None:
    outside = [
        (-10.0, 0.0, 0.0),
        (0.0, 1.0, 0.0),
        (1.0, 50.0, 0.0),
        (1.0, -50.0, 0.0),
        (1.0, 0.0, 50.0),
        (1.0, 0.0, -50.0),
    ]
    assert not project_scan(points(*outside), SIMPLE, 40, 100).any()
    assert not project_scan(np.empty((0, 4), np.float32), SIMPLE, 40, 100).any()


def test_points_behind_the_lidar_are_dropped_although_the_camera_sees_them() -> None:
    camera_behind = SIMPLE.copy()
    camera_behind[:, 3] = intrinsics(100.0, 50.0, 20.0) @ (0.0, 0.0, 5.0)  # 5 m behind the LiDAR
    assert project_scan(points((1.0, 0.0, 0.0)), camera_behind, 40, 100).max() == 6.0
    assert not project_scan(points((-1.0, 0.0, 0.0)), camera_behind, 40, 100).any()


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400))
def test_projection_equals_the_plain_loop(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    cloud = rng.uniform((-5, -10, -3, 0), (40, 10, 2, 1), (count, 4)).astype(np.float32)
    expected = np.zeros((40, 100), np.float32)
    for x, y, z, _ in cloud.astype(np.float64):
        u, v, w = SIMPLE @ (x, y, z, 1.0)
        if x < 0 or w <= 0:
            continue
        column, row = int(np.rint(u / w)) - 1, int(np.rint(v / w)) - 1
        if 0 <= column < 100 and 0 <= row < 40 and not 0 < expected[row, column] < w:
            expected[row, column] = w
    np.testing.assert_array_equal(project_scan(cloud, SIMPLE, 40, 100), expected)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\[N,>=3\]"):
        project_scan(np.zeros((4, 2), np.float32), SIMPLE, 40, 100)
    with pytest.raises(ShapeError, match=r"\[3,4\]"):
        project_scan(np.zeros((4, 4), np.float32), np.eye(3), 40, 100)


def test_a_scan_comes_back(tmp_path: Path) -> None:
    cloud = np.random.default_rng(0).normal(size=(50, 4)).astype("<f4")
    (tmp_path / "a.bin").write_bytes(cloud.tobytes())
    np.testing.assert_array_equal(read_scan(tmp_path / "a.bin"), cloud)


@pytest.mark.parametrize("size", [0, 15, 17, 1000])
def test_a_truncated_scan_is_found(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(size))
    with pytest.raises(DataError, match=rf"a\.bin is truncated: {size} bytes"):
        read_scan(tmp_path / "a.bin")


@pytest.mark.shared
def test_published_intrinsics_are_those_of_the_files(shared_dir: Path) -> None:
    folders = sorted((shared_dir / "kitti_sample" / "raw").iterdir())
    assert len(folders) == 3
    for folder in folders:
        published = published_intrinsics(folder.name)
        assert published is not None
        for camera in ("image_02", "image_03"):
            np.testing.assert_allclose(file_intrinsics(folder / "calib_cam_to_cam.txt", camera), published)
    assert len(PUBLISHED_INTRINSICS) == 5
    assert published_intrinsics("2020_01_01") is None


@pytest.mark.shared
@pytest.mark.parametrize(
    "drive",
    [
        "2011_09_26_drive_9001_sync",
        "2011_09_26_drive_9002_sync",
        "2011_09_26_drive_9003_sync",
        "2011_09_28_drive_9011_sync",
    ],
)
def test_real_scans_project_to_the_depth_maps_made_of_them(shared_dir: Path, drive: str) -> None:
    root = shared_dir / "kitti_sample"
    date = root / "raw" / drive[:10]
    expected = read_depth_png(root / "depth" / drive / "proj_depth/groundtruth/image_02/0000000000.png")
    projection = scan_projection(date / "calib_cam_to_cam.txt", date / "calib_velo_to_cam.txt", "image_02")
    scan = read_scan(date / drive / "velodyne_points/data/0000000000.bin")
    depth = project_scan(scan, projection, *expected.shape)
    np.testing.assert_array_equal(depth > 0, expected > 0)
    assert (expected > 0).mean() > 0.03
    assert np.abs(depth - expected).max() <= 1 / 512  # the map's rounding
