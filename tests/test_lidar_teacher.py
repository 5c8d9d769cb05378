"""LiDAR depth becomes a complete map, planes exactly, real frames to a few per cent, or an error names the frame."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import NearestNDInterpolator

from tiekd_cache.data.frame import Frame, FrameSource
from tiekd_cache.errors import DataError, ShapeError
from tiekd_cache.teachers import LidarTeacher, load_teacher
from tiekd_cache.teachers.densify import Densification, densify, hidden

DepthMap = npt.NDArray[np.float32]
SETTINGS = Densification()


def plane(height: int, width: int, near: float, tilt: float, slope: float) -> DepthMap:
    """Depth of a plane; its inverse depth changes by these fractions from left to right and from top to bottom."""
    v, u = np.mgrid[:height, :width]
    inverse = (1.0 + tilt * (u / width - 0.5) + slope * (v / height - 0.5)) / near
    return np.asarray(1.0 / inverse, np.float32)


def sampled(depth: DepthMap, share: float, seed: int) -> DepthMap:
    return np.where(np.random.default_rng(seed).random(depth.shape) < share, depth, 0).astype(np.float32)


def frame(frame_id: str, gt_depth: DepthMap | None) -> Frame:
    return Frame(frame_id, np.zeros((32, 64, 3), np.uint8), np.eye(3), gt_depth)


@settings(max_examples=25)
@given(
    near=st.floats(3.0, 15.0),
    tilt=st.floats(-0.8, 0.8),
    slope=st.floats(0.0, 0.8),
    share=st.floats(0.05, 0.9),
    seed=st.integers(0, 99),
)
def test_a_sampled_plane_comes_back(near: float, tilt: float, slope: float, share: float, seed: int) -> None:
    depth = plane(60, 120, near, tilt, slope)
    sparse = sampled(depth, share, seed)
    sparse[::59, ::119] = depth[::59, ::119]  # the corners: so that every pixel lies between measured ones
    sparse[0, ::5] = depth[0, ::5]  # the first row: nothing above is continued from elsewhere
    np.testing.assert_allclose(densify(sparse, SETTINGS, "plane"), depth, rtol=1e-4)


def test_large_images_are_filled_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    sparse = sampled(plane(60, 120, 10.0, 0.5, 0.5), 0.1, 0)
    whole = densify(sparse, SETTINGS, "plane")
    monkeypatch.setattr("tiekd_cache.teachers.densify._CHUNK", 64)
    np.testing.assert_array_equal(densify(sparse, SETTINGS, "plane"), whole)


def test_visible_measurements_stay_and_far_ones_are_clipped() -> None:
    sparse = sampled(plane(60, 120, 60.0, 1.2, 0.3), 0.2, 1)
    assert sparse.max() > 100
    depth = densify(sparse, SETTINGS, "plane")
    visible = sparse > 0
    np.testing.assert_allclose(depth[visible], np.minimum(sparse, 80)[visible], rtol=1e-6)
    assert depth.dtype == np.float32
    assert depth.max() == 80
    assert depth.min() > 1


def test_background_seen_through_an_object_is_dropped_and_its_edge_is_not() -> None:
    truth = np.full((80, 120), 30.0, np.float32)
    truth[30:70, 40:80] = 8.0
    sparse = sampled(truth, 0.3, 2)
    through = np.zeros_like(sparse, bool)
    through[36:66:3, 46:76:4] = True
    sparse[through] = 30.0
    inverse = np.divide(1, sparse, out=np.zeros_like(sparse), where=sparse > 0)
    dropped = hidden(inverse, SETTINGS)
    assert dropped[through].mean() > 0.95
    beside_and_above = (truth == 30) & (sparse > 0) & (np.arange(80)[:, None] < 70)
    assert not dropped[beside_and_above].any()
    inside = np.s_[38:64, 46:74]
    np.testing.assert_allclose(densify(sparse, SETTINGS, "box")[inside], 8.0, rtol=1e-5)
    blind = densify(sparse, dataclasses.replace(SETTINGS, visibility_tolerance=100.0), "box")
    assert np.abs(blind[inside] - 8.0).mean() > 1.0


def test_a_road_hides_nothing_of_itself() -> None:
    v = np.arange(200)[:, None] * np.ones((1, 300))
    road = np.where(v > 60, 721.5 * 1.65 / (np.maximum(v, 61) - 50), 0).astype(np.float32)
    sparse = sampled(road, 0.3, 3)
    inverse = np.divide(1, sparse, out=np.zeros_like(sparse), where=sparse > 0)
    assert not hidden(inverse, SETTINGS).any()


def test_above_the_measurements_each_part_of_the_image_goes_on_with_its_own_depth() -> None:
    truth = np.full((90, 300), 10.0, np.float32)
    truth[:, 100:200] = 70.0
    sparse = sampled(truth, 0.2, 4)
    sparse[:30] = 0
    sparse[:45, 100:200] = 0  # the far end of a road: measured from further down only
    sparse[:, 290:] = 0
    depth = densify(sparse, SETTINGS, "street")
    np.testing.assert_allclose(depth[:30, 130:170], 70.0, rtol=1e-5)
    np.testing.assert_allclose(depth[:30, :80], 10.0, rtol=1e-5)
    np.testing.assert_allclose(depth[:, 290:], 10.0, rtol=1e-5)


def test_the_answer_is_the_same_every_time() -> None:
    sparse = sampled(plane(60, 120, 10.0, 0.5, 0.5), 0.1, 5) * np.float32(1.01)
    assert densify(sparse, SETTINGS, "a").tobytes() == densify(sparse.copy(), SETTINGS, "b").tobytes()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda depth: np.where(np.arange(64) < 2, depth, 0), "64 measured pixels; at least 100"),
        (lambda depth: depth * 0, "0 measured pixels"),
        (lambda depth: np.where(np.arange(64) == 3, np.nan, depth), "not finite"),
        (lambda depth: -depth, "negative"),
    ],
)
def test_maps_that_cannot_be_completed_name_the_frame(spoil: object, message: str) -> None:
    assert callable(spoil)
    sparse = spoil(plane(32, 64, 10.0, 0.0, 0.0)).astype(np.float32)
    with pytest.raises(DataError, match=rf"drive/cam/7 has {message}|drive/cam/7 has .*{message}"):
        LidarTeacher().predict_frames([frame("drive/cam/7", sparse)])


def test_points_on_one_line_name_the_frame() -> None:
    sparse = np.zeros((32, 200), np.float32)
    sparse[5] = 10.0
    with pytest.raises(DataError, match=r"drive/cam/7 .* on one line"):
        LidarTeacher().predict_frames([frame("drive/cam/7", sparse)])


def test_it_answers_frames_and_sparse_maps_but_no_images() -> None:
    teacher = load_teacher("lidar")
    assert isinstance(teacher, LidarTeacher)
    maps = [sampled(plane(32, 64, near, 0.2, 0.3), 0.3, 6) for near in (8.0, 20.0)]
    answer = teacher.predict_frames([frame(str(index), one) for index, one in enumerate(maps)])
    assert answer.depth.shape == (2, 1, 32, 64)
    assert answer.depth.dtype == torch.float32
    assert answer.resize is None
    assert torch.equal(teacher.predict_sparse(maps).depth, answer.depth)
    assert torch.equal(teacher.predict_sparse(torch.from_numpy(np.stack(maps)[:, None])).depth, answer.depth)
    with pytest.raises(DataError, match="frames with LiDAR depth, not images"):
        teacher.predict(torch.zeros(1, 3, 32, 64))
    with pytest.raises(DataError, match="Frame a/b/c has no LiDAR depth"):
        teacher.predict_frames([frame("a/b/c", None)])
    for wrong in (torch.zeros(2, 32, 64), [maps[0], maps[1][:16]], []):
        with pytest.raises(ShapeError, match=r"\[B,1,H,W\]|of equal size"):
            teacher.predict_sparse(wrong)


def test_what_it_says_of_itself() -> None:
    teacher = LidarTeacher()
    assert (teacher.name, teacher.weights_source, str(teacher.device)) == ("lidar", "none", "cpu")
    assert teacher.needs_lidar
    assert teacher.trained
    assert not teacher.flip_average
    assert teacher.clamps_to is None
    assert teacher.digest == LidarTeacher().digest
    digests = {teacher.digest}
    for field in dataclasses.fields(Densification):
        changed = dataclasses.replace(SETTINGS, **{field.name: getattr(SETTINGS, field.name) * 2})
        digests.add(LidarTeacher(changed).digest)
    assert len(digests) == 1 + len(dataclasses.fields(Densification))


def test_frames_without_lidar_files_cannot_be_answered() -> None:
    class Source:
        def has_lidar(self, frame_id: str) -> bool:
            return frame_id == "with"

    source = cast(FrameSource, Source())
    assert LidarTeacher().cannot_answer(source, "with") is None
    assert LidarTeacher().cannot_answer(source, "without") == "no depth PNG and no velodyne scan"


def kitti_depth(shared_dir: Path, frame_id: str) -> DepthMap:
    """[352,1216] float32 m: LiDAR depth of a sample frame, cropped, clipped to 80 m."""
    drive, _, index = frame_id.split("/")
    file = shared_dir / "kitti_sample/depth" / drive / "proj_depth/groundtruth/image_02" / f"{index}.png"
    depth = np.asarray(cv2.imread(str(file), cv2.IMREAD_UNCHANGED), np.float32) / 256
    left = (depth.shape[1] - 1216) // 2
    return np.asarray(np.minimum(depth[-352:, left : left + 1216], 80), np.float32)


def errors(sparse: DepthMap, truth: DepthMap, where: str) -> tuple[float, float]:
    """abs_rel on the pixels that were held out: of the teacher, and of taking the nearest measured pixel's depth."""
    held_out = (truth > 0) & (sparse == 0)
    measured = np.argwhere(sparse > 0)
    nearest = NearestNDInterpolator(measured, sparse[sparse > 0])(np.argwhere(held_out))
    answers = (densify(sparse, SETTINGS, where)[held_out], nearest)
    teacher, plain = (float(np.mean(np.abs(answer - truth[held_out]) / truth[held_out])) for answer in answers)
    return teacher, plain


@pytest.mark.shared
@pytest.mark.parametrize(
    ("frame_id", "bound"),
    [
        ("2011_09_26_drive_0001_sync/image_02/0000000005", 0.009),  # official depth, 91 000 pixels
        ("2011_09_26_drive_9001_sync/image_02/0000000001", 0.009),  # single sweeps, 16 000 to 20 000 pixels
        ("2011_09_26_drive_9001_sync/image_02/0000000005", 0.065),  # the worst of all: cars' windows, a hedge
        ("2011_09_28_drive_9011_sync/image_02/0000000000", 0.035),
    ],
)
def test_real_frames_are_completed_to_a_few_per_cent(shared_dir: Path, frame_id: str, bound: float) -> None:
    truth = kitti_depth(shared_dir, frame_id)
    sparse = sampled(truth, 0.85, 0)
    teacher, nearest = errors(sparse, truth, frame_id)
    assert teacher < bound
    assert teacher < 0.9 * nearest
    depth = LidarTeacher().predict_frames([frame(frame_id, truth)]).depth
    assert depth.shape == (1, 1, 352, 1216)
    assert torch.isfinite(depth).all()
    assert 1e-3 <= depth.min() < depth.max() <= 80


@pytest.mark.shared
def test_whole_missing_rows_of_a_real_frame_are_bridged(shared_dir: Path) -> None:
    frame_id = "2011_09_26_drive_0001_sync/image_02/0000000030"
    truth = kitti_depth(shared_dir, frame_id)
    sparse = np.where(np.arange(352)[:, None] % 5 == 0, truth, 0).astype(np.float32)  # as dense as a single sweep
    teacher, nearest = errors(sparse, truth, frame_id)
    assert teacher < 0.015
    assert teacher < 0.75 * nearest
