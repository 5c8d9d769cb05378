"""Stage one: what the teacher said is what the store holds, and a bad answer stops it by the frame's name."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FormulaTeacher, MemoryFrames

from tiekd_cache.errors import ConfigError, DataError, RangeError, StoreError
from tiekd_cache.precompute import PrecomputeConfig, answer_frames, precompute
from tiekd_cache.store import open_store
from tiekd_cache.store.codec import FINE_STEP
from tiekd_cache.teachers.lidar import LidarTeacher

HALF_STEP_M = 1 / 128
SMALL_SHARDS = PrecomputeConfig(batch_size=2, shard_frames=4)


def test_a_response_is_what_the_teacher_said_within_half_a_step(tmp_path: Path) -> None:
    source, teacher = MemoryFrames(6), FormulaTeacher()
    report = precompute(teacher, source, tmp_path / "a.zarr", SMALL_SHARDS)
    assert (report.frames, report.made, report.skipped) == (6, 6, ())
    store = open_store(tmp_path / "a.zarr")
    config = PrecomputeConfig(flip_average=True)
    said = answer_frames(teacher, source, source.frame_ids, config)
    for frame_id, depth in zip(source.frame_ids, said, strict=True):
        assert np.abs(store[frame_id] - depth).max() <= HALF_STEP_M


def test_flip_averaging_is_the_mean_of_both_answers() -> None:
    source, teacher = MemoryFrames(1), FormulaTeacher()
    frame_id = source.frame_ids[0]
    plain = answer_frames(teacher, source, [frame_id], PrecomputeConfig(flip_average=False))
    image = source.load(frame_id).image
    # The formula looks at single pixels, so both answers agree once flipped back; shift it to see the average.
    teacher.predict = lambda images, focal_px=None: FormulaTeacher().predict(images.roll(1, -1))  # type: ignore[method-assign]
    averaged = answer_frames(teacher, source, [frame_id], PrecomputeConfig(flip_average=True))
    expected = (np.roll(plain[0], 1, -1) + np.roll(plain[0], -1, -1)) / 2
    assert image.shape[:2] == averaged.shape[1:]
    np.testing.assert_allclose(averaged[0], expected, atol=1e-5)
    assert np.abs(averaged - plain).max() > 1


def test_a_half_resolution_teacher_is_stored_as_it_is_and_replayed(tmp_path: Path) -> None:
    source, teacher = MemoryFrames(3), FormulaTeacher(scale=2)
    precompute(teacher, source, tmp_path / "half.zarr", PrecomputeConfig(flip_average=False))
    store = open_store(tmp_path / "half.zarr")
    frame_id = source.frame_ids[1]
    said = teacher.predict_frames([source.load(frame_id)])
    assert store.native(frame_id).shape == (32, 48)
    assert store[frame_id].shape == (64, 96)
    expected = said.at_image_size()[0, 0].numpy()
    assert np.abs(store[frame_id] - expected).max() <= HALF_STEP_M + 1e-4


def test_a_second_start_asks_the_teacher_for_nothing_but_the_first_frame(tmp_path: Path) -> None:
    source = MemoryFrames(6)
    precompute(FormulaTeacher(), source, tmp_path / "a.zarr", SMALL_SHARDS)
    again = FormulaTeacher()
    report = precompute(again, source, tmp_path / "a.zarr", SMALL_SHARDS)
    assert (report.frames, report.made) == (6, 0)
    assert set(again.asked) == {source.frame_ids[0]}  # to learn its resolution


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (math.nan, "not finite"),
        (math.inf, "not finite"),
        (-1.0, "-1 m"),
        (131.1, "131.1 m exceeds the store limit of 80 m"),
    ],
)
def test_a_bad_answer_stops_the_run_with_the_frames_name(tmp_path: Path, value: float, words: str) -> None:
    source = MemoryFrames(10)
    bad = source.frame_ids[6]
    with pytest.raises(RangeError, match=words) as caught:
        precompute(FormulaTeacher(spoil=(bad, value)), source, tmp_path / "a.zarr", SMALL_SHARDS)
    assert bad in str(caught.value)
    store = open_store(tmp_path / "a.zarr", allow_partial=True)
    assert list(store) == source.frame_ids[:4], "the shard of the bad frame must not be there, the one before must"
    with pytest.raises(StoreError, match="4 of 10"):
        open_store(tmp_path / "a.zarr")


def test_clip_cuts_what_is_too_far_and_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    source = MemoryFrames(2)
    spoiled = FormulaTeacher(spoil=(source.frame_ids[0], 131.1))
    precompute(spoiled, source, tmp_path / "a.zarr", PrecomputeConfig(clip=True, flip_average=False))
    store = open_store(tmp_path / "a.zarr")
    assert store[source.frame_ids[0]][3, 5] == 80.0
    precompute(FormulaTeacher(), source, tmp_path / "b.zarr", PrecomputeConfig(flip_average=False))
    assert open_store(tmp_path / "b.zarr").info.schema.fingerprint != store.info.schema.fingerprint


def test_missing_pixels_stay_missing_when_clipping() -> None:
    source = MemoryFrames(1)
    teacher = FormulaTeacher(spoil=(source.frame_ids[0], 0.0))
    depth = answer_frames(teacher, source, source.frame_ids, PrecomputeConfig(clip=True, flip_average=False))
    assert depth[0, 3, 5] == 0.0


def test_a_teachers_own_clamp_hides_five_percent_and_no_wrong_unit(tmp_path: Path) -> None:
    source = MemoryFrames(2)
    slightly, far = (FormulaTeacher(spoil=(source.frame_ids[0], value)) for value in (80.8, 8000.0))
    slightly.clamps_to = far.clamps_to = (1e-3, 80.0)
    depth = answer_frames(slightly, source, source.frame_ids, PrecomputeConfig(flip_average=False))
    assert depth[0, 3, 5] == 80.0
    with pytest.raises(RangeError, match="8000"):
        answer_frames(far, source, source.frame_ids, PrecomputeConfig(flip_average=False))


def test_another_teacher_or_other_settings_are_refused(tmp_path: Path) -> None:
    source = MemoryFrames(2)
    precompute(FormulaTeacher(), source, tmp_path / "a.zarr", SMALL_SHARDS)
    with pytest.raises(StoreError, match="digest"):
        precompute(FormulaTeacher(gain=1.01), source, tmp_path / "a.zarr", SMALL_SHARDS)
    with pytest.raises(StoreError, match="flip_average"):
        precompute(FormulaTeacher(), source, tmp_path / "a.zarr", PrecomputeConfig(flip_average=False))


def test_frames_that_a_teacher_cannot_answer_are_named_with_the_reason(tmp_path: Path) -> None:
    from tiekd_cache.teachers import load_teacher

    source = MemoryFrames(4, image_size=(64, 96), without_gt=[2])
    report = precompute(load_teacher("lidar"), source, tmp_path / "a.zarr", PrecomputeConfig())
    assert report.frames == 3
    [(frame_id, reason)] = report.skipped
    assert frame_id == source.frame_ids[2]
    assert "velodyne" in reason
    store = open_store(tmp_path / "a.zarr")
    assert frame_id not in store
    assert store.info.schema.dataset["skipped"] == [{"frame_id": frame_id, "reason": reason}]
    for answered in store:
        measured = source.lidar_depth(answered)
        assert measured is not None
        seen = measured > 0
        assert np.abs(store[answered][seen] / measured[seen] - 1).mean() < 0.05


def test_a_teacher_that_can_answer_nothing_is_an_error(tmp_path: Path) -> None:
    from tiekd_cache.teachers import load_teacher

    source = MemoryFrames(2, without_gt=[0, 1])
    with pytest.raises(DataError, match="can answer none of the 2 frames"):
        precompute(load_teacher("lidar"), source, tmp_path / "a.zarr", PrecomputeConfig())
    assert not (tmp_path / "a.zarr").exists()


def test_a_finer_step_and_a_nearer_range_are_kept_finer(tmp_path: Path) -> None:
    source = MemoryFrames(2)
    said = answer_frames(FormulaTeacher(), source, source.frame_ids, PrecomputeConfig())
    kept = {}
    for name, config in (
        ("fine", PrecomputeConfig(step=FINE_STEP)),
        ("near", PrecomputeConfig(max_depth=16, clip=True)),
    ):
        precompute(FormulaTeacher(), source, tmp_path / name, config)
        kept[name] = open_store(tmp_path / name)
    assert (kept["fine"].schema.step, kept["near"].schema.step) == (11 / 8192, 1 / 512)
    for frame_id, depth in zip(source.frame_ids, said, strict=True):
        assert 0 < np.abs(kept["fine"][frame_id] - depth).max() <= FINE_STEP / 2
        assert np.abs(kept["near"][frame_id] - depth.clip(max=16)).max() <= 1 / 1024
    with pytest.raises(RangeError, match="significant bits"):
        precompute(FormulaTeacher(), source, tmp_path / "odd", PrecomputeConfig(step=0.01))
    with pytest.raises(RangeError, match=r"100 m does not fit 16 bits at a step of 0\.0013"):
        precompute(FormulaTeacher(), source, tmp_path / "far", PrecomputeConfig(step=FINE_STEP, max_depth=100))


def test_batch_size_does_not_change_what_is_stored() -> None:
    source = MemoryFrames(5)
    one = answer_frames(FormulaTeacher(), source, source.frame_ids, PrecomputeConfig(batch_size=1))
    four = answer_frames(FormulaTeacher(), source, source.frame_ids, PrecomputeConfig(batch_size=4))
    assert torch.equal(torch.from_numpy(one), torch.from_numpy(four))


def test_a_precision_that_a_teacher_does_not_follow_is_refused(tmp_path: Path) -> None:
    config = PrecomputeConfig(precision="bf16")
    with pytest.raises(ConfigError, match="lidar does not compute in bf16"):
        config.rules(LidarTeacher(), MemoryFrames(2))


def test_a_store_keeps_the_shards_that_it_was_begun_with_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    precompute(FormulaTeacher(), MemoryFrames(5), tmp_path / "a.zarr", PrecomputeConfig(shard_frames=2))
    precompute(
        FormulaTeacher(), MemoryFrames(5), tmp_path / "a.zarr", PrecomputeConfig(shard_frames=3), note=said.append
    )
    assert said == ["The store has shards of 2 frames, as it was begun, not of 3."]
