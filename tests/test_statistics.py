"""A store's statistics: numbers worked out by hand, kept through stops, and a wrong unit is said in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import FormulaTeacher, MemoryFrames
from store_helpers import NATIVE_SIZE, build_schema, frame_list, half_resolution_schema

from tiekd_cache.agreement import frame_agreement, is_wrong_unit
from tiekd_cache.data.frame import DepthMap, Frame
from tiekd_cache.errors import DataError, RangeError
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.statistics import EDGES_M, ShardStatistics, read_statistics, shard_statistics
from tiekd_cache.store.layout import statistics_file
from tiekd_cache.teachers.base import Resize, TeacherDepth

SMALL_SHARDS = PrecomputeConfig(batch_size=2, shard_frames=4, flip_average=False)


class TruthTeacher(FormulaTeacher):
    """Says the true depth times a gain, at full or half resolution."""

    def __init__(self, source: MemoryFrames, gain: float = 1.0, trained: bool = True, **other: Any) -> None:
        super().__init__(gain=gain, **other)
        self.source, self.trained = source, trained

    def predict_frames(self, frames: Sequence[Frame]) -> TeacherDepth:
        said = super().predict_frames(frames)
        truth = torch.stack([torch.from_numpy(self.source.depth(frame.frame_id)) for frame in frames])[:, None]
        depth = torch.where(said.depth.isfinite(), self.gain * truth, said.depth)
        if self.scale == 1:
            return TeacherDepth(depth)
        small = torch.nn.functional.interpolate(depth, scale_factor=1 / self.scale, mode="bilinear")
        return TeacherDepth(small, Resize((depth.shape[-2], depth.shape[-1])))


def test_a_frames_agreement_by_hand() -> None:
    truth = np.zeros((8, 10), np.float32)
    truth[:4] = 10.0
    truth[4] = 90.0  # beyond the range: does not count
    said = np.full((8, 10), 12.0, np.float32)
    said[0, :5] = 0.0  # missing: does not count
    said[1] = 9.0
    found = frame_agreement("a", said, truth, max_depth=80.0)
    assert found is not None
    assert (found.pixels, found.median_ratio) == (35, 1.2)
    assert found.abs_rel == pytest.approx((25 * 0.2 + 10 * 0.1) / 35, abs=1e-6)
    assert frame_agreement("a", said, np.where(said == 9, truth, 0).astype(np.float32), 80.0) is None, "too few pixels"


@pytest.mark.parametrize(("ratio", "wrong"), [(1.0, False), (1.29, False), (0.78, False), (1.31, True), (0.76, True)])
def test_a_unit_is_wrong_beyond_a_factor_of_1_3(ratio: float, wrong: bool) -> None:
    assert is_wrong_unit(ratio) == wrong


def test_histogram_and_missing_pixels_by_hand() -> None:
    frame_ids = frame_list(2)
    depth = np.full((2, *NATIVE_SIZE), 3.0, np.float32)
    depth[1] = 5.0  # an edge belongs to the bin that it begins
    depth[0, 0, :] = 0.0
    depth[1, 4, 8] = 79.0
    found = shard_statistics(build_schema(frame_ids), 0, frame_ids, depth, None)
    assert (found.frames, found.pixels, found.missing) == (2, 2 * 12 * 20, 20)
    assert (found.nearest, found.farthest) == (3.0, 79.0)
    counts = dict(zip(EDGES_M, found.histogram, strict=True))
    assert {edge: count for edge, count in counts.items() if count} == {3.0: 10, 5.0: 14, 60.0: 1}
    assert ShardStatistics.from_bytes(found.to_bytes()) == found


def test_what_was_changed_or_lacks_something_is_no_statistics() -> None:
    frame_ids = frame_list(2)
    depth = np.zeros((2, *NATIVE_SIZE), np.float32)
    whole = shard_statistics(build_schema(frame_ids), 0, frame_ids, depth, None)
    assert (whole.nearest, whole.farthest, whole.missing) == (0.0, 0.0, whole.pixels)
    with pytest.raises(ValueError, match="was changed"):
        ShardStatistics.from_bytes(whole.to_bytes().replace(b'"frames":2', b'"frames":3'))
    with pytest.raises(ValueError, match="Expecting"):
        ShardStatistics.from_bytes(whole.to_bytes()[:40])
    with pytest.raises(ValueError, match="was changed"):
        ShardStatistics.from_bytes(json.dumps([1]))


def test_a_half_resolution_response_is_compared_at_the_images_size() -> None:
    source = MemoryFrames(1, image_size=(24, 40))
    depth = np.full((1, 12, 20), 10.0, np.float32)
    found = shard_statistics(half_resolution_schema(source.frame_ids), 0, source.frame_ids, depth, source)
    truth = source.lidar_depth(source.frame_ids[0])
    assert truth is not None
    [frame] = found.agreement
    assert frame.pixels == int((truth > 0).sum())
    assert frame.median_ratio == pytest.approx(float(np.median(10 / truth[truth > 0])), rel=1e-5)


def test_few_frames_of_a_shard_are_compared_and_only_those_with_ground_truth() -> None:
    source = MemoryFrames(40, without_gt=range(0, 40, 2))
    depth = np.stack([source.depth(frame_id) for frame_id in source.frame_ids])
    schema = build_schema(
        source.frame_ids,
        native_size=(64, 96),
        input={"crop": "none", "image_size": (64, 96), "flip_average": False, "preprocessing": {}},
    )
    compared = [frame.frame_id for frame in shard_statistics(schema, 0, source.frame_ids, depth, source).agreement]
    assert len(compared) == 8
    assert (compared[0], compared[-1]) == (source.frame_ids[1], source.frame_ids[39])


def test_ground_truth_that_cannot_be_read_stops_nothing_and_is_told(tmp_path: Path) -> None:
    class Damaged(MemoryFrames):
        def lidar_depth(self, frame_id: str) -> DepthMap | None:
            if frame_id == self.frame_ids[1]:
                raise DataError("depth.png is truncated")
            return super().lidar_depth(frame_id)

    source = Damaged(3)
    report = precompute(TruthTeacher(source), source, tmp_path / "a.zarr", SMALL_SHARDS)
    found = read_statistics(tmp_path / "a.zarr").to_json()
    assert report.frames == 3
    assert found is not None
    assert found["ground_truth"]["frames"] == 2
    assert found["ground_truth"]["unreadable"] == [f"{source.frame_ids[1]}: depth.png is truncated"]


def test_statistics_survive_a_stop_and_count_each_frame_once(tmp_path: Path) -> None:
    source = MemoryFrames(10)
    bad = TruthTeacher(source, spoil=(source.frame_ids[6], float("nan")))
    with pytest.raises(RangeError):
        precompute(bad, source, tmp_path / "a.zarr", SMALL_SHARDS)
    assert [shard.frames for shard in read_statistics(tmp_path / "a.zarr").shards] == [4]
    report = precompute(TruthTeacher(source), source, tmp_path / "a.zarr", SMALL_SHARDS)
    found = read_statistics(tmp_path / "a.zarr")
    assert (report.made, report.warning) == (6, None)
    assert [shard.frames for shard in found.shards] == [4, 4, 2]
    assert [frame.frame_id for frame in found.agreement] == source.frame_ids
    assert found.median_ratio == pytest.approx(1.0)
    assert found.abs_rel == pytest.approx(0.0, abs=1e-6)
    assert sum(found.histogram.values()) == pytest.approx(1.0)
    assert found.notes == ()


def test_a_wrong_unit_is_warned_of_but_not_for_an_untrained_teacher(tmp_path: Path) -> None:
    source = MemoryFrames(3)
    config = replace(SMALL_SHARDS, max_depth=400.0)
    report = precompute(TruthTeacher(source, gain=4.0), source, tmp_path / "a.zarr", config)
    assert report.warning is not None
    assert "WRONG UNIT" in report.warning
    assert "4 times the ground truth (median of 3 frames" in report.warning
    untrained = precompute(TruthTeacher(source, gain=4.0, trained=False), source, tmp_path / "b.zarr", config)
    assert untrained.warning is None
    assert read_statistics(tmp_path / "b.zarr").median_ratio == pytest.approx(4.0)


def test_damaged_foreign_and_absent_statistics_are_noted_and_not_counted(tmp_path: Path) -> None:
    source = MemoryFrames(10)
    precompute(TruthTeacher(source), source, tmp_path / "a.zarr", SMALL_SHARDS)
    files = [statistics_file(tmp_path / "a.zarr", shard) for shard in range(3)]
    files[0].write_bytes(files[0].read_bytes()[:-30])
    files[1].write_bytes(files[2].read_bytes())
    files[2].unlink()
    found = read_statistics(tmp_path / "a.zarr")
    assert found.shards == ()
    assert found.to_json() is None
    assert found.unit_warning({"trained": True}) is None
    assert len(found.notes) == 3
    assert "belongs to another store or shard" in found.notes[1]
    assert found.notes[2] == "no statistics for 1 of 3 finished shards"
