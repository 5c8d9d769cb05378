"""Made-up scenes are exact: depth agrees with geometry, the same seed gives the same bytes, the folder is KITTI's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiekd_cache.data.kitti import KittiFrames
from tiekd_cache.data.synthetic import drive_camera, kitti_intrinsics, render_scene, render_view
from tiekd_cache.data.synthetic_camera import Camera
from tiekd_cache.data.synthetic_cast import (
    BACKDROP_BODY,
    GROUND_BODY,
    SKY,
    Body,
    Hits,
    Look,
    Material,
    Solid,
    box,
    cast,
    cylinder,
    ellipsoid,
    frustum,
    prism,
)
from tiekd_cache.data.synthetic_kitti import RECORD, SyntheticSummary, write_synthetic_kitti
from tiekd_cache.data.synthetic_lidar import beam_elevations, lidar_scan
from tiekd_cache.data.synthetic_street import bodies_around, make_street
from tiekd_cache.errors import DataError, RangeError, ShapeError

LOOK = Look(Material.PLAIN, (0.5, 0.5, 0.5))
FOCAL_PX, CX, CY = 180.0, 152.0, 43.0
SMALL = (94, 310)
SKYLINE = np.full(64, 8.0, np.float32)
RING_M = 150.0


def camera_at(x: float = 0.0, pitch: float = 0.0, yaw: float = 0.0, roll: float = 0.0) -> Camera:
    """A camera of a quarter of KITTI's resolution, 1.65 m above the road."""
    intrinsics = kitti_intrinsics(FOCAL_PX, (CX, CY))
    return Camera(intrinsics, SMALL, np.array([x, -1.65, 0.0]), pitch, yaw, roll)


def see(camera: Camera, *bodies: Body) -> Hits:
    return cast(camera, camera.rays(), bodies, SKYLINE, RING_M)


def world_points(camera: Camera, depth: Any) -> Any:
    """[H,W,3] world points of a depth map, by the plain pinhole formula."""
    rows, columns = np.indices(camera.size)
    in_camera = np.stack([(columns - CX) / FOCAL_PX, (rows - CY) / FOCAL_PX, np.ones(camera.size)], axis=-1)
    return camera.position + (in_camera * depth[..., None]) @ camera.rotation.T


def test_level_road_has_the_depth_of_the_closed_form() -> None:
    hits = see(camera_at())
    rows = np.arange(50, SMALL[0])
    expected = 1.65 * FOCAL_PX / (rows - CY)
    assert (hits.body[rows] == GROUND_BODY).all()
    np.testing.assert_allclose(hits.depth[rows], np.repeat(expected[:, None], SMALL[1], 1), rtol=1e-5)


@settings(max_examples=30)
@given(pitch=st.floats(-0.1, 0.1), yaw=st.floats(-0.3, 0.3), roll=st.floats(-0.1, 0.1), x=st.floats(-3, 3))
def test_every_pixel_lies_on_the_surface_it_sees(pitch: float, yaw: float, roll: float, x: float) -> None:
    camera = camera_at(x, pitch, yaw, roll)
    block = box((-4.0, -2.0, 9.0), (-1.5, 0.0, 14.0), LOOK)
    pole = cylinder(2.0, 8.0, 0.4, 4.0, LOOK)
    ball = ellipsoid((5.0, -3.0, 20.0), (2.0, 1.0, 3.0), 0.0, LOOK)
    hits = see(camera, block, pole, ball)
    points = world_points(camera, hits.depth.astype(np.float64))
    assert np.abs(points[hits.body == GROUND_BODY][:, 1]).max() < 1e-3
    ring = points[hits.body == BACKDROP_BODY] - camera.position
    assert np.abs(np.hypot(ring[:, 0], ring[:, 2]) - RING_M).max() < 0.02
    on_block = points[hits.body == 2]
    gap = np.minimum(np.abs(on_block - [-4.0, -2.0, 9.0]), np.abs(on_block - [-1.5, 0.0, 14.0])).min(axis=1)
    assert gap.max(initial=0) < 2e-3
    on_pole = points[hits.body == 3]
    assert np.abs(np.hypot(on_pole[:, 0] - 2.0, on_pole[:, 2] - 8.0) - 0.4).max(initial=0) < 2e-3
    assert on_pole[:, 1].min(initial=0) > -4.001
    on_ball = (points[hits.body == 4] - [5.0, -3.0, 20.0]) / [2.0, 1.0, 3.0]
    assert np.abs(np.linalg.norm(on_ball, axis=1) - 1).max(initial=0) < 5e-3
    assert (hits.depth[hits.body == SKY] == 0).all()
    assert (hits.depth[hits.body != SKY] > 0).all()


@settings(max_examples=40)
@given(
    centre=st.tuples(st.floats(-8, 8), st.floats(-4, 0), st.floats(-6, 25)),
    size=st.tuples(st.floats(0.1, 4), st.floats(0.1, 4), st.floats(0.1, 20)),
    yaw=st.floats(-0.5, 0.5),
)
def test_a_box_anywhere_is_seen_as_slabs_say(
    centre: tuple[float, float, float], size: tuple[float, float, float], yaw: float
) -> None:
    """Also where the box reaches behind the camera: its rectangle of pixels must not cut anything off."""
    camera = camera_at(yaw=yaw)
    low, high = np.subtract(centre, np.divide(size, 2)), np.add(centre, np.divide(size, 2))
    if ((camera.position > low - 0.01) & (camera.position < high + 0.01)).all():
        return  # the camera is inside, where nothing is drawn
    rays = np.moveaxis(camera.rays().astype(np.float64), 0, -1)
    with np.errstate(divide="ignore"):
        cuts = np.stack([(low - camera.position) / rays, (high - camera.position) / rays])
    enter, leave = cuts.min(axis=0).max(axis=-1), cuts.max(axis=0).min(axis=-1)
    without = see(camera).depth
    without[without == 0] = np.inf
    shows = (enter < leave - 1e-3) & (enter > 0) & (enter < without - 1e-2)
    hides = (enter > leave + 1e-3) | (enter < -1e-3) | (enter > without + 1e-2)
    seen = see(camera, box(low.tolist(), high.tolist(), LOOK))
    assert (seen.body[shows] == 2).all()
    assert (seen.body[hides] != 2).all()
    np.testing.assert_allclose(seen.depth[shows], enter[shows], rtol=1e-3, atol=1e-3)


def test_nearer_bodies_hide_farther_ones_in_either_order() -> None:
    near, far = box((-1, -2, 10), (1, 0, 11), LOOK), box((-3, -4, 20), (3, 0, 21), LOOK)
    first, second = see(camera_at(), near, far), see(camera_at(), far, near)
    np.testing.assert_array_equal(first.depth, second.depth)
    assert first.depth[45, 152] == pytest.approx(10.0, rel=1e-6)
    assert first.depth[25, 152] == pytest.approx(20.0, rel=1e-6)


@pytest.mark.parametrize(
    "solid",
    [
        box((-1, -2, 3), (1, 0, 5), LOOK),
        frustum((-1, -2, 3), (1, 0, 5), (-0.5, 0.4, 3.2, 4.0), LOOK),
        prism([(-2.0, 0.0), (0.0, -3.0), (2.0, 0.0)], 2, 1.0, 4.0, LOOK),
        prism([(-2.0, 0.0), (-3.0, 1.0), (-1.0, 2.0), (0.0, 1.0)], 0, 1.0, 4.0, LOOK),
    ],
    ids=["box", "frustum", "gable", "profile"],
)
def test_a_solid_is_the_hull_of_its_vertices(solid: Solid) -> None:
    inside = solid.vertices @ solid.normals.T - solid.offsets
    assert inside.max() < 1e-9
    assert (np.sum(np.abs(inside) < 1e-9, axis=0) >= 3).all(), "each face holds at least three vertices"
    np.testing.assert_allclose(np.linalg.norm(solid.normals, axis=1), 1)


def small_scene(seed: int, index: int) -> Any:
    return render_scene(seed, index, SMALL, intrinsics=kitti_intrinsics(FOCAL_PX, (CX, CY)))


def test_the_same_arguments_give_the_same_bytes_and_others_do_not() -> None:
    first, again = small_scene(5, 3), small_scene(5, 3)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.depth, again.depth)
    for other in (small_scene(5, 4), small_scene(6, 3)):
        assert np.mean(first.image != other.image) > 0.5
        assert np.mean(first.depth != other.depth) > 0.5
    assert first.image.dtype == np.uint8
    assert first.image.shape == (*SMALL, 3)
    assert first.depth.dtype == np.float32
    assert first.depth.shape == SMALL


def test_a_scene_moves_forward_along_its_street() -> None:
    street = make_street(9)
    intrinsics = kitti_intrinsics()
    steps = np.diff([drive_camera(street, index, SMALL, intrinsics).position[2] for index in range(5)])
    assert (steps >= 1.0).all()
    assert (steps <= 2.0).all()


@pytest.mark.slow
def test_depth_cannot_be_guessed_from_the_place_in_the_image() -> None:
    depths = np.stack([small_scene(seed, 2).depth for seed in range(8)])
    left, middle = depths[:, 45, 30], depths[:, 60, 250]
    for values in (left, middle):
        known = values[values > 0]
        assert known.max() > 1.8 * known.min()


def test_exposure_and_noise_change_the_image_and_not_the_depth() -> None:
    street = make_street(2)
    camera = camera_at()
    bodies = bodies_around(street, 0.0, 0)
    first, second = (render_view(street, camera, bodies, np.random.default_rng(seed)) for seed in (0, 1))
    np.testing.assert_array_equal(first.depth, second.depth)
    assert not np.array_equal(first.image, second.image)


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (0, -1)])
def test_negative_scenes_are_refused(seed: int, index: int) -> None:
    with pytest.raises(RangeError, match="start at 0"):
        render_scene(seed, index)


def test_an_empty_size_is_refused() -> None:
    with pytest.raises(ShapeError, match="0x5"):
        render_scene(0, 0, (0, 5))


def test_lidar_rows_are_those_of_the_beams() -> None:
    intrinsics = kitti_intrinsics()
    wall = np.full((375, 1242), 12.5, np.float32)
    scan = lidar_scan(wall, intrinsics, np.random.default_rng(0))
    rows, columns = np.nonzero(scan)
    cosine = 1 / np.hypot(1, (columns - intrinsics[0, 2]) / intrinsics[0, 0])
    elevation = np.degrees(np.arctan((intrinsics[1, 2] - rows) * cosine / intrinsics[1, 1]))
    nearest = np.abs(elevation[:, None] - beam_elevations()).min(axis=1)
    assert nearest.max() < 0.14, "half a pixel (0.04 degrees) and the beam's own tilt"
    assert elevation.max() < 2.1
    assert set(np.unique(scan)) == {np.float32(0), np.float32(12.5)}


def test_the_beams_are_those_of_a_velodyne_hdl_64e() -> None:
    beams = beam_elevations()
    assert len(beams) == 64
    assert (beams[0], round(beams[31], 2), beams[32], beams[63]) == (2.0, -8.33, -8.83, -24.33)
    assert (np.diff(beams) < -0.3).all()


def test_lidar_loses_far_echoes_and_ends_at_its_range() -> None:
    intrinsics = kitti_intrinsics()
    counts = []
    for metres in (5.0, 60.0, 81.0):
        scan = lidar_scan(np.full((375, 1242), metres, np.float32), intrinsics, np.random.default_rng(1))
        counts.append(int((scan > 0).sum()))
    assert counts[0] > counts[1] > 0
    assert counts[2] == 0


class CountingBar:
    """A stand-in for the progress bar."""

    def __init__(self) -> None:
        self.totals: list[int] = []
        self.done = 0

    def __call__(self, total: int, description: str, unit: str) -> CountingBar:
        self.totals.append(total)
        return self

    def __enter__(self) -> CountingBar:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def update(self, count: int) -> None:
        self.done += count


def write(root: Path, bar: CountingBar | None = None, **changes: Any) -> SyntheticSummary:
    arguments: dict[str, Any] = {"train_frames": 2, "test_frames": 1, "seed": 3, "dense": True, **changes}
    progress: Any = CountingBar() if bar is None else bar
    return write_synthetic_kitti(root, progress=progress, **arguments)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SyntheticSummary:
    bar = CountingBar()
    summary = write(tmp_path_factory.mktemp("made") / "kitti", bar)
    assert bar.totals == [3]
    assert bar.done == 3
    return summary


def lines_of(split: Path) -> list[tuple[str, str, float]]:
    words = [line.split() for line in split.read_text().splitlines()]
    return [(rgb, depth, float(focal)) for rgb, depth, focal in words]


def test_the_folder_is_laid_out_as_kitti(made: SyntheticSummary) -> None:
    lines = lines_of(made.train_split) + lines_of(made.test_split)
    assert len(lines) == 3
    sizes = set()
    for rgb, depth, focal in lines:
        date, drive = rgb.split("/")[:2]
        image = cv2.imread(str(made.root / "raw" / rgb), cv2.IMREAD_UNCHANGED)
        counts = cv2.imread(str(made.root / "depth" / depth), cv2.IMREAD_UNCHANGED)
        dense = cv2.imread(str(made.root / "dense" / depth), cv2.IMREAD_UNCHANGED)
        assert image is not None
        assert counts is not None
        assert dense is not None
        assert (image.dtype, counts.dtype, dense.dtype) == (np.uint8, np.uint16, np.uint16)
        assert image.shape[:2] == counts.shape == dense.shape
        assert image.std() > 20
        measured = counts > 0
        assert 0.03 < measured.mean() < 0.055, "KITTI's single sweeps cover about 4 %"
        assert not measured[:120].any()
        np.testing.assert_array_equal(counts[measured], dense[measured])
        calibration = dict(
            line.split(": ", 1) for line in (made.root / "raw" / date / "calib_cam_to_cam.txt").read_text().splitlines()
        )
        projection = np.array(calibration["P_rect_02"].split(), float).reshape(3, 4)
        assert projection[0, 0] == pytest.approx(focal, abs=1e-3)
        assert [float(value) for value in calibration["S_rect_02"].split()] == [image.shape[1], image.shape[0]]
        assert drive.startswith(date)
        sizes.add(image.shape[:2])
    assert sizes == {(375, 1242), (370, 1224)}


def test_test_drives_are_not_training_drives(made: SyntheticSummary) -> None:
    drives = [{rgb.split("/")[1] for rgb, _, _ in lines_of(split)} for split in (made.train_split, made.test_split)]
    assert not drives[0] & drives[1]
    assert sorted(drives[0] | drives[1]) == sorted(made.drives)


def test_the_kitti_reader_finds_everything(made: SyntheticSummary) -> None:
    for purpose, split in (("train", made.train_split), ("test", made.test_split)):
        frames = KittiFrames.open(made.root, purpose=purpose)  # type: ignore[arg-type]
        assert len(frames.frame_ids) == len(lines_of(split))
        frame = frames.load(frames.frame_ids[0], with_gt=True)
        assert frame.image.shape == (352, 1216, 3)
        assert frame.gt_depth is not None
        assert frame.gt_depth.max() > 10


def test_a_complete_folder_is_reused_untouched(made: SyntheticSummary) -> None:
    before, bar = contents(made.root), CountingBar()
    times = {path: path.stat().st_mtime_ns for path in made.root.rglob("*")}
    again = write(made.root, bar)
    assert again.reused
    assert not made.reused
    assert again.drives == made.drives
    assert bar.totals == []
    assert contents(made.root) == before
    assert {path: path.stat().st_mtime_ns for path in made.root.rglob("*")} == times


@pytest.mark.slow
def test_an_interrupted_folder_is_finished_with_the_same_bytes(made: SyntheticSummary, tmp_path: Path) -> None:
    class Interrupt(CountingBar):
        def update(self, count: int) -> None:
            raise KeyboardInterrupt

    root = tmp_path / "kitti"
    with pytest.raises(KeyboardInterrupt):
        write(root, Interrupt())
    assert json.loads((root / RECORD).read_text())["complete"] is False
    assert not write(root).reused
    assert contents(root) == contents(made.root)


@pytest.mark.parametrize("change", [{"seed": 4}, {"train_frames": 3}, {"test_frames": 2}, {"dense": False}])
def test_other_settings_are_refused_and_nothing_changes(made: SyntheticSummary, change: dict[str, Any]) -> None:
    before = contents(made.root)
    (name,) = change
    with pytest.raises(DataError, match=name):
        write(made.root, **change)
    assert contents(made.root) == before


def test_a_users_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="was not made here"):
        write(tmp_path)
    assert contents(tmp_path) == {"notes.txt": b"mine"}
    with pytest.raises(DataError, match="is a file"):
        write(tmp_path / "notes.txt")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(DataError, match=RECORD):
        write(tmp_path)
    assert contents(tmp_path) == {RECORD: text.encode()}


@pytest.mark.parametrize("change", [{"train_frames": 0}, {"test_frames": 0}, {"seed": -1}])
def test_impossible_numbers_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(RangeError, match="Cannot make"):
        write(tmp_path / "kitti", **change)
    assert not (tmp_path / "kitti").exists()
