"""Decoding, answering and writing at the same time: same answers, bounded memory, and any thread's error ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FormulaTeacher, MemoryFrames
from torch import nn

from tiekd_cache import filling, speed
from tiekd_cache.answering import load_batch
from tiekd_cache.data.frame import DepthMap, Frame
from tiekd_cache.errors import ConfigError, DataError, DeviceError, RangeError, StoreError
from tiekd_cache.launch import Launch, ShardRange
from tiekd_cache.precompute import PrecomputeConfig, answer_frames, make_shard, open_writer, precompute
from tiekd_cache.statistics import ShardStatistics
from tiekd_cache.store import StoreWriter, open_store
from tiekd_cache.teacher_check import check_against_teacher
from tiekd_cache.teachers.base import FrameBatch, TeacherDepth
from tiekd_cache.teachers.network import NetworkTeacher

SMALL_SHARDS = PrecomputeConfig(batch_size=2, shard_frames=4, flip_average=False, workers=3)


@pytest.fixture(autouse=True)
def _no_thread_outlives_a_call() -> Iterator[None]:
    yield
    ours = ("decode", "write shard")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(ours)]


class SlowFrames(MemoryFrames):
    """Frames of which the second comes after the fourth, as other threads load that; one may be unreadable."""

    unreadable: str | None = None

    def __init__(self, count: int = 6) -> None:
        super().__init__(count)
        self.loaded: list[str] = []
        self._fourth = threading.Event()

    def load(self, frame_id: str, *, with_gt: bool = False) -> Frame:
        if frame_id == self.unreadable:
            raise DataError(f"{frame_id} cannot be read.")
        if frame_id == self._all[1]:
            assert self._fourth.wait(120), "nothing is decoded ahead"
        self.loaded.append(frame_id)
        if frame_id == self._all[3]:
            self._fourth.set()
        return super().load(frame_id, with_gt=with_gt)


class SmallNetwork(NetworkTeacher):
    """Two convolutions, at full resolution."""

    name = "small"
    flip_average = False

    def __init__(self, gain: float = 20.0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
        device = torch.device("cpu")
        super().__init__(network, architecture="small", weights_source="none", trained=False, device=device)
        self.gain = gain

    def answer(self, images: torch.Tensor, focal_px: torch.Tensor | None) -> TeacherDepth:
        return TeacherDepth((self.network(images).sigmoid() + 0.1) * self.gain)


def arrays(path: Path) -> list[DepthMap]:
    store = open_store(path)
    return [store[frame_id] for frame_id in store]


def test_frames_stay_in_order_whatever_is_decoded_first(tmp_path: Path) -> None:
    source = SlowFrames(11)
    report = precompute(FormulaTeacher(), source, tmp_path / "a.zarr", replace(SMALL_SHARDS, batch_size=3))
    assert (report.frames, report.store_frames, report.made, report.complete) == (11, 11, 11, True)
    assert source.loaded[1:] != source.frame_ids
    said = answer_frames(FormulaTeacher(), MemoryFrames(11), source.frame_ids, replace(SMALL_SHARDS, workers=1))
    for stored, depth in zip(arrays(tmp_path / "a.zarr"), said, strict=True):
        assert np.abs(stored - depth).max() <= 1 / 128


def test_a_frame_that_cannot_be_decoded_ends_the_run_and_finished_shards_stay(tmp_path: Path) -> None:
    source = SlowFrames(12)
    source.unreadable = source.frame_ids[9]
    with pytest.raises(DataError, match=source.frame_ids[9]):
        precompute(FormulaTeacher(), source, tmp_path / "a.zarr", SMALL_SHARDS)
    assert list(open_store(tmp_path / "a.zarr", allow_partial=True)) == source.frame_ids[:8]


@pytest.mark.parametrize("culprit", ["shard", "statistics"])
def test_an_error_of_the_writing_thread_ends_the_run_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, culprit: str
) -> None:
    source, teacher = MemoryFrames(80), FormulaTeacher()
    write, keep = StoreWriter.write_shard, filling.write_statistics

    def write_shard(writer: StoreWriter, shard: int, depth: DepthMap) -> None:
        if shard == 1 and culprit == "shard":
            raise StoreError("the disk is full")
        write(writer, shard, depth)

    def write_statistics(path: Path, statistics: ShardStatistics) -> None:
        if statistics.shard == 1 and culprit == "statistics":
            raise StoreError("the disk is full")
        keep(path, statistics)

    monkeypatch.setattr(StoreWriter, "write_shard", write_shard)
    monkeypatch.setattr(filling, "write_statistics", write_statistics)
    with pytest.raises(StoreError, match="the disk is full"):
        precompute(teacher, source, tmp_path / "a.zarr", SMALL_SHARDS)
    store = open_store(tmp_path / "a.zarr", allow_partial=True)
    assert set(source.frame_ids[:4]) <= set(store)
    assert not set(source.frame_ids[4:8]) & set(store)
    assert len(teacher.asked) < 60, "it went on for long"


def test_ctrl_c_leaves_a_store_that_the_next_start_finishes(tmp_path: Path) -> None:
    class Interrupted(FormulaTeacher):
        def predict_frames(self, frames: Sequence[Frame]) -> TeacherDepth:
            if frames[0].frame_id == source.frame_ids[10]:
                raise KeyboardInterrupt
            return super().predict_frames(frames)

    source = MemoryFrames(16)
    with pytest.raises(KeyboardInterrupt):
        precompute(Interrupted(), source, tmp_path / "a.zarr", SMALL_SHARDS)
    there = list(open_store(tmp_path / "a.zarr", allow_partial=True))
    assert there == source.frame_ids[: len(there)]
    assert len(there) < 12
    writer = open_writer(FormulaTeacher(), source, tmp_path / "a.zarr", SMALL_SHARDS)
    with writer.claim(2) as free:
        assert free, "no claim outlives the call"
    again = precompute(FormulaTeacher(), source, tmp_path / "a.zarr", SMALL_SHARDS)
    assert (again.made, again.frames) == (16 - len(there), 16)


def test_memory_is_bounded_and_a_claim_holds_until_its_shard_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, teacher = SlowFrames(48), FormulaTeacher()
    other = open_writer(FormulaTeacher(), source, tmp_path / "a.zarr", SMALL_SHARDS)
    source.loaded.clear()
    write = StoreWriter.write_shard
    unwritten: list[int] = []
    undecoded: list[int] = []
    free: list[bool] = []

    def slow(writer: StoreWriter, shard: int, depth: DepthMap) -> None:
        most = min(48, 4 * shard + 4 * (filling.WAITING_SHARDS + 1))
        patience = time.monotonic() + 120
        while len(teacher.asked) - 1 < most and time.monotonic() < patience:
            time.sleep(0.001)
        time.sleep(0.01)  # for more than that, where nothing holds it back
        unwritten.append(len(teacher.asked) - 1 - 4 * shard)
        undecoded.append(len(source.loaded) - len(teacher.asked))
        with other.claim(shard) as mine:
            free.append(mine)
        write(writer, shard, depth)

    monkeypatch.setattr(StoreWriter, "write_shard", slow)
    precompute(teacher, source, tmp_path / "a.zarr", SMALL_SHARDS)
    assert len(unwritten) == 12
    assert unwritten == [12] * 10 + [8, 4], "it asks while it writes, but no more than it can keep"
    assert max(undecoded) <= (3 + 1) * 2
    assert not any(free)


@pytest.mark.parametrize(("device", "passes"), [("cpu", [2, 2, 1, 1]), ("mps", [4, 2])])
def test_mirror_images_have_a_pass_of_their_own_on_a_cpu_only(device: str, passes: list[int]) -> None:
    class Counting(FormulaTeacher):
        needs_lidar = True

        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Frame] = []
            self.passes: list[int] = []

        @property
        def device(self) -> torch.device:
            return torch.device(device)

        def predict_frames(self, frames: Sequence[Frame]) -> TeacherDepth:
            assert isinstance(frames, FrameBatch)
            assert np.array_equal(frames.images.numpy(), np.stack([frame.image for frame in frames]))
            self.passes.append(len(frames))
            self.seen += frames
            maps = [torch.from_numpy(np.array(frame.gt_depth))[None] for frame in frames]
            return TeacherDepth(torch.stack(maps).roll(1, -1))

    source, teacher = MemoryFrames(3), Counting()
    rules = replace(SMALL_SHARDS, flip_average=True)
    said = answer_frames(teacher, source, source.frame_ids, rules)
    assert teacher.passes == passes
    for i, j in ((0, 2), (1, 3), (4, 5)):
        frame, mirror = teacher.seen[i], teacher.seen[j]
        assert frame.gt_depth is not None
        assert mirror.gt_depth is not None
        assert np.array_equal(frame.gt_depth[:, ::-1], mirror.gt_depth)
        assert np.array_equal(frame.image[:, ::-1], mirror.image)
    for frame_id, depth in zip(source.frame_ids, said, strict=True):
        truth = source.lidar_depth(frame_id)
        assert truth is not None
        np.testing.assert_allclose(depth, (np.roll(truth, 1, -1) + np.roll(truth, -1, -1)) / 2, atol=1e-5)


def test_the_batch_size_follows_the_device_and_is_noted(tmp_path: Path) -> None:
    source = MemoryFrames(2)
    assert [speed.default_batch_size(torch.device(name)) for name in ("cpu", "cuda:1", "mps")] == [1, 4, 4]
    for given, used in ((None, 1), (3, 3)):
        config = replace(SMALL_SHARDS, batch_size=given)
        assert config.rules(FormulaTeacher(), source).batch_size == used
        precompute(FormulaTeacher(), source, tmp_path / f"{given}.zarr", config)
        assert open_store(tmp_path / f"{given}.zarr").schema.created_by["batch_size"] == used
    one, three = (open_store(tmp_path / f"{given}.zarr").schema for given in (None, 3))
    assert one.fingerprint == three.fingerprint


def test_half_precision_is_measured_named_and_asked_for_again(tmp_path: Path) -> None:
    source, notes = MemoryFrames(4), list[str]()
    config = replace(SMALL_SHARDS, precision="bf16")
    precompute(SmallNetwork(), source, tmp_path / "bf16.zarr", config, note=notes.append)
    precompute(SmallNetwork(), source, tmp_path / "float32.zarr", SMALL_SHARDS, note=notes.append)
    [line] = notes
    assert line.startswith("Precision bf16 differs from float32 by ")
    half, full = (open_store(tmp_path / f"{name}.zarr").info.schema for name in ("bf16", "float32"))
    assert half.input["preprocessing"] == {**full.input["preprocessing"], "precision": "bf16"}
    assert "precision" not in full.input["preprocessing"]
    assert half.fingerprint != full.fingerprint
    difference = np.abs(np.array(arrays(tmp_path / "bf16.zarr")) - np.array(arrays(tmp_path / "float32.zarr"))).max()
    assert 0 < difference < 0.5
    assert check_against_teacher(open_store(tmp_path / "bf16.zarr"), SmallNetwork(), source, 4).problems == []


def test_fp16_that_overflows_says_what_may_help() -> None:
    source = MemoryFrames(1)
    teacher = SmallNetwork(gain=1e30)
    teacher.answer = lambda images, focal_px: TeacherDepth(teacher.network(images) * 1e38 * 10)  # type: ignore[method-assign]
    with pytest.raises(RangeError, match="fp16 overflows beyond 65504"):
        answer_frames(teacher, source, source.frame_ids, replace(SMALL_SHARDS, precision="fp16"))


def test_a_precision_that_is_unknown_or_not_computed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="float32, bf16, fp16"):
        speed.check_precision("int8", torch.device("cpu"))

    def refuse(*arguments: object) -> None:
        raise RuntimeError("not implemented for Half\nand more")

    speed.check_precision("bf16", torch.device("cpu"))
    monkeypatch.setattr(torch.nn.functional, "conv2d", refuse)
    with pytest.raises(DeviceError, match=r"cannot compute in fp16 \(not implemented for Half\)"):
        speed.check_precision("fp16", torch.device("cpu"))


def test_channels_last_gives_the_same_answers() -> None:
    source = MemoryFrames(2)
    plain, other = SmallNetwork(), SmallNetwork()
    digest = plain.digest
    speed.lay_out(plain, False, "float32")
    speed.lay_out(other, None, "float32")  # the default on a CPU
    weight = other.network.get_parameter("0.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert plain.network.get_parameter("0.weight").is_contiguous()
    first, second = (answer_frames(one, source, source.frame_ids, SMALL_SHARDS) for one in (plain, other))
    np.testing.assert_allclose(first, second, atol=1e-4)
    assert other.digest == digest


def test_compiling_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    source, teacher = MemoryFrames(1), SmallNetwork()
    rules = SMALL_SHARDS.rules(teacher, source)
    batch = load_batch(teacher, source, source.frame_ids, rules)
    with pytest.raises(ConfigError, match="formula has no network to compile"):
        speed.compile_networks(FormulaTeacher(), batch, rules)

    def fail(images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no compiler\nfound")

    monkeypatch.setattr(teacher.network, "compile", lambda: setattr(teacher.network, "forward", fail))
    with pytest.raises(
        ConfigError, match=r"--compile failed for teacher small \(no compiler\): leave it out"
    ) as caught:
        speed.compile_networks(teacher, batch, rules)
    assert "\n" not in str(caught.value)


def test_parts_of_the_shards_make_the_whole(tmp_path: Path) -> None:
    source = MemoryFrames(18)
    precompute(FormulaTeacher(), source, tmp_path / "whole.zarr", SMALL_SHARDS)
    reports = [
        precompute(FormulaTeacher(), source, tmp_path / "parts.zarr", SMALL_SHARDS, shards=ShardRange.parse(part))
        for part in ("1/2", ":1", "1:2")
    ]
    assert [(one.made, one.frames, one.complete) for one in reports] == [(10, 10, False), (4, 14, False), (4, 18, True)]
    assert np.array_equal(arrays(tmp_path / "parts.zarr"), arrays(tmp_path / "whole.zarr"))


def test_one_function_makes_one_shard(tmp_path: Path) -> None:
    source, teacher = MemoryFrames(10), FormulaTeacher()
    writer = open_writer(teacher, source, tmp_path / "a.zarr", SMALL_SHARDS)
    assert [make_shard(writer, teacher, source, SMALL_SHARDS, shard) for shard in (2, 0, 2)] == [2, 4, 0]
    assert writer.todo() == [1]
    with writer.claim(1) as mine:
        assert mine
        assert make_shard(writer, teacher, source, SMALL_SHARDS, 1) == 0, "in other hands"


def test_ranks_begin_apart_and_try_everything() -> None:
    starts = [Launch(rank, 4, rank).order(range(10)) for rank in range(4)]
    assert [order[0] for order in starts] == [0, 2, 5, 7]
    assert all(sorted(order) == list(range(10)) for order in starts)
    assert Launch.from_environment({"RANK": "1", "WORLD_SIZE": "2"}) == Launch()
    assert Launch.from_environment({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}) == Launch(1, 2, 0)
    for variables in ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, dict.fromkeys(["RANK", "WORLD_SIZE"], "x")):
        with pytest.raises(ConfigError, match="torchrun"):
            Launch.from_environment({"LOCAL_RANK": "0", **variables})


def test_a_rank_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [Launch(5, 8, 1).device(name) for name in ("auto", "cuda", "cpu", "cuda:3")] == [
        "cuda:1", "cuda:1", "cpu", "cuda:3",
    ]  # fmt: skip
    assert Launch().device("auto") == "auto"


@pytest.mark.parametrize("text", ["", "3", "4:4", "5:2", "2/2", "1/0", "-1:3", "a:b"])
def test_a_shard_range_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="A:B"):
        ShardRange.parse(text)


def test_a_shard_range_is_cut_to_the_store() -> None:
    assert [list(ShardRange.parse(text).of(5)) for text in ("3:9", ":2", "4:", "0/1")] == [
        [3, 4], [0, 1], [4], [0, 1, 2, 3, 4],
    ]  # fmt: skip
    parts = [ShardRange.parse(f"{i}/8").of(5) for i in range(8)]
    assert [shard for part in parts for shard in part] == [0, 1, 2, 3, 4]
    with pytest.raises(ConfigError, match="has 5 shards"):
        ShardRange.parse("5:6").of(5)
