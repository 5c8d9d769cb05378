"""A store gives back what was written to half a step, from any process or thread, and never anything else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from store_helpers import (
    HALF_STEP,
    IMAGE_SIZE,
    NATIVE_SIZE,
    build_schema,
    depth_maps,
    frame_list,
    half_resolution_schema,
    make_store,
    write_all,
)

from tiekd_cache.errors import FrameNotFoundError, StoreError
from tiekd_cache.store import StoreWriter, open_store

FRAMES = frame_list(10)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store of ten frames in three shards; read only."""
    path = tmp_path_factory.mktemp("stores") / "whole.zarr"
    make_store(path)
    return path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The same store, to be damaged."""
    path = tmp_path / "copy.zarr"
    shutil.copytree(whole, path)
    return path


def shard_file(path: Path, shard: int) -> Path:
    return path / "residual" / "c" / str(shard) / "0" / "0"


@pytest.mark.parametrize("reader", ["local", "zarr"])
def test_every_response_is_the_teachers_to_half_a_step(whole: Path, reader: Any) -> None:
    depth = depth_maps(10)
    store = open_store(whole, reader=reader)
    for i in (9, 0, 4, 3, 3, 8, 1, 2, 5, 6, 7):
        response = store[FRAMES[i]]
        assert response.dtype == np.float32
        assert response.shape == NATIVE_SIZE
        assert np.abs(response.astype(np.float64) - depth[i]).max() <= HALF_STEP
        assert np.array_equal(response == 0, depth[i] == 0)


def test_both_readers_give_identical_arrays(tmp_path: Path) -> None:
    for align_corners in (False, True):
        path = tmp_path / f"{align_corners}.zarr"
        writer = StoreWriter.open(path, half_resolution_schema(FRAMES, align_corners), FRAMES, shard_frames=4)
        write_all(writer, depth_maps(10))
        local, through_zarr = open_store(path), open_store(path, reader="zarr")
        for frame_id in FRAMES:
            assert np.array_equal(local[frame_id], through_zarr[frame_id])
            assert np.array_equal(local.native(frame_id), through_zarr.native(frame_id))


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_half_resolution_map_is_resized_as_its_teacher_would(tmp_path: Path, align_corners: bool) -> None:
    depth = depth_maps(10, seed=3)
    depth[depth == 0] = 5.0
    writer = StoreWriter.open(tmp_path / "a.zarr", half_resolution_schema(FRAMES, align_corners), FRAMES)
    write_all(writer, depth)
    store = open_store(tmp_path / "a.zarr")
    for i, frame_id in enumerate(FRAMES):
        said = torch.nn.functional.interpolate(
            torch.from_numpy(depth[i])[None, None], size=IMAGE_SIZE, mode="bilinear", align_corners=align_corners
        )[0, 0].numpy()
        assert store[frame_id].shape == IMAGE_SIZE
        assert np.abs(store[frame_id] - said).max() <= HALF_STEP + 1e-4
        assert store.native(frame_id).shape == NATIVE_SIZE
        assert np.abs(store.native(frame_id) - depth[i]).max() <= HALF_STEP


def test_it_is_a_collection_of_frames(whole: Path) -> None:
    store = open_store(str(whole))
    assert len(store) == 10
    assert list(store) == list(store.frame_ids) == FRAMES
    assert FRAMES[3] in store
    assert "elsewhere" not in store
    assert 3 not in store
    assert "10 frames" in repr(store)


def test_a_response_is_the_callers_own_array(whole: Path) -> None:
    store = open_store(whole)
    first = store[FRAMES[0]]
    kept = first.copy()
    store[FRAMES[1]][:] = -1
    assert np.array_equal(first, kept)
    first[:] = 0
    assert np.array_equal(store[FRAMES[0]], kept)


def test_info_says_what_the_store_is(whole: Path) -> None:
    info = open_store(whole).info
    assert (info.path, info.num_frames, info.num_done, info.num_shards, info.finished) == (whole, 10, 10, 3, True)
    assert info.num_bytes == sum(shard_file(whole, shard).stat().st_size for shard in range(3))
    assert info.bytes_per_frame == info.num_bytes / 10
    assert info.warning is None
    said = json.loads(json.dumps(info.to_json()))
    assert said["fingerprint"] == build_schema(FRAMES).fingerprint
    assert said["format"] == "tiekd-cache/1"
    assert said["depth"]["unit"] == "m"


def test_info_warns_of_an_untrained_teacher_and_of_missing_frames(tmp_path: Path) -> None:
    skipped = [("2011_09_26_drive_0099_sync/image_02/0000000000", "no velodyne scan")]
    teacher = {**build_schema(FRAMES).teacher, "weights": "random:0", "trained": False}
    writer = StoreWriter.open(tmp_path / "a.zarr", build_schema(FRAMES, teacher=teacher, skipped=skipped), FRAMES)
    info = open_store(tmp_path / "a.zarr", allow_partial=True).info
    assert "UNTRAINED TEACHER (random:0)" in str(info.warning)
    assert "10 of 10 frames are missing" in str(info.warning)
    assert info.to_json()["skipped"] == [{"frame_id": skipped[0][0], "reason": "no velodyne scan"}]
    assert info.bytes_per_frame == 0
    write_all(writer, depth_maps(10))
    with pytest.raises(FrameNotFoundError, match="no velodyne scan"):
        open_store(tmp_path / "a.zarr")[skipped[0][0]]


def test_a_frame_that_is_not_there_is_named(whole: Path) -> None:
    store = open_store(whole)
    with pytest.raises(FrameNotFoundError, match="'elsewhere', nor is it in its frame list") as caught:
        store["elsewhere"]
    assert str(whole) in str(caught.value)
    assert "precompute with a split that has the frame" in str(caught.value)
    with pytest.raises(KeyError):
        store["elsewhere"]


def test_an_unfinished_store_is_refused_unless_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    depth = depth_maps(10)
    writer = StoreWriter.open(path, build_schema(FRAMES), FRAMES, shard_frames=4)
    writer.write_shard(1, depth[4:8])
    with pytest.raises(StoreError, match=r"4 of 10 frames.*6 are missing \(2 of 3 shards") as caught:
        open_store(path)
    assert "--allow-partial" in str(caught.value)
    assert str(path / "done") in str(caught.value)
    store = open_store(path, allow_partial=True)
    assert list(store) == FRAMES[4:8]
    assert len(store) == 4
    assert FRAMES[0] not in store
    assert np.abs(store[FRAMES[5]] - depth[5]).max() <= HALF_STEP
    with pytest.raises(FrameNotFoundError, match="its shard 2 was not finished"):
        store[FRAMES[9]]
    writer.write_shard(0, depth[:4])
    writer.write_shard(2, depth[8:])
    assert len(open_store(path)) == 10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "There is no store at"),
        (lambda path: path.write_text("a file"), "is no tiekd-cache store"),
        (lambda path: path.mkdir(), "is no tiekd-cache store"),
    ],
)
def test_what_is_no_store_is_refused(tmp_path: Path, make: Callable[[Path], Any], message: str) -> None:
    make(tmp_path / "a.zarr")
    with pytest.raises(StoreError, match=message) as caught:
        open_store(tmp_path / "a.zarr")
    assert str(tmp_path / "a.zarr") in str(caught.value)


def test_stores_are_not_written_to_urls() -> None:
    with pytest.raises(StoreError, match=r"s3://bucket/a\.zarr is a URL: this works on a folder"):
        StoreWriter.open("s3://bucket/a.zarr", build_schema(FRAMES), FRAMES)


def test_a_newer_format_is_refused_saying_so(copy: Path) -> None:
    group = json.loads((copy / "zarr.json").read_text())
    group["attributes"]["format"] = "tiekd-cache/2"
    (copy / "zarr.json").write_text(json.dumps(group))
    with pytest.raises(StoreError, match=r"'tiekd-cache/2'.*a newer tiekd-cache reads it") as caught:
        open_store(copy)
    assert str(copy / "zarr.json") in str(caught.value)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)


def assert_helpful(error: StoreError, path: Path, *parts: object) -> None:
    metadata = any(str(part).startswith((str(path / "zarr.json"), str(path / "frame_id"))) for part in parts)
    remedies = ("another copy of the store",) if metadata else (f"run `tiekd-cache verify {path}`", "precompute")
    for part in (*parts, *remedies):
        assert str(part) in str(error)


@pytest.mark.parametrize("reader", ["local", "zarr"])
@pytest.mark.parametrize("damage", [truncate, empty, flip, Path.unlink])
def test_a_damaged_shard_is_an_error_with_frame_file_and_remedy(
    copy: Path, damage: Callable[[Path], Any], reader: Any
) -> None:
    damage(shard_file(copy, 1))
    store = open_store(copy, reader=reader)
    assert store[FRAMES[0]].shape == NATIVE_SIZE
    failed = 0
    for frame_id in FRAMES[4:8]:
        try:
            assert np.array_equal(store[frame_id], open_store(copy, reader=reader)[frame_id])
        except StoreError as error:
            assert_helpful(error, copy, frame_id, shard_file(copy, 1))
            failed += 1
    assert failed == (1 if damage is flip else 4)


@pytest.mark.parametrize("reader", ["local", "zarr"])
def test_swapped_and_foreign_shards_are_errors(copy: Path, tmp_path: Path, reader: Any) -> None:
    first, second = shard_file(copy, 0).read_bytes(), shard_file(copy, 1).read_bytes()
    shard_file(copy, 0).write_bytes(second)
    shard_file(copy, 1).write_bytes(first)
    store = open_store(copy, reader=reader)
    with pytest.raises(StoreError, match="does not have the digest in its done-record") as caught:
        store[FRAMES[1]]
    assert_helpful(caught.value, copy, FRAMES[1], shard_file(copy, 0))

    make_store(tmp_path / "other.zarr", max_depth=100.0, clamp=None)
    for part in ("residual/c/2/0/0", "done/00002.json", "digest/c/2"):
        shutil.copy(tmp_path / "other.zarr" / part, copy / part)
    with pytest.raises(StoreError, match="belongs to a store with fingerprint") as caught:
        open_store(copy, reader=reader)[FRAMES[9]]
    assert_helpful(caught.value, copy, FRAMES[9], copy / "done" / "00002.json")


@pytest.mark.parametrize("damage", [truncate, empty, flip, Path.unlink])
def test_a_damaged_done_record_is_an_error(copy: Path, damage: Callable[[Path], Any]) -> None:
    store = open_store(copy)
    damage(copy / "done" / "00001.json")
    with pytest.raises(StoreError) as caught:
        store[FRAMES[4]]
    assert_helpful(caught.value, copy, FRAMES[4], copy / "done" / "00001.json")
    if damage is Path.unlink:
        with pytest.raises(StoreError, match="6 of 10 frames"):
            open_store(copy)


@pytest.mark.parametrize("name", ["zarr.json", "frame_id/c/0"])
@pytest.mark.parametrize("damage", [truncate, empty, flip, Path.unlink])
def test_damaged_metadata_are_an_error_on_opening(copy: Path, name: str, damage: Callable[[Path], Any]) -> None:
    damage(copy / name)
    with pytest.raises(StoreError) as caught:
        open_store(copy)
    assert_helpful(caught.value, copy, copy / name)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("depth", {"step": 0.03125}, "fingerprint does not match"),
        ("depth", {"max": 100.0}, "fingerprint does not match"),
        ("input", {"flip_average": False}, "fingerprint does not match"),
        ("teacher", {"trained": False}, "attributes_digest does not match"),
        ("dataset", {"num_frames": 9}, "attributes_digest does not match"),
    ],
)
def test_edited_attributes_are_refused(copy: Path, section: str, change: dict[str, Any], message: str) -> None:
    group = json.loads((copy / "zarr.json").read_text())
    group["attributes"][section].update(change)
    (copy / "zarr.json").write_text(json.dumps(group))
    with pytest.raises(StoreError, match=message) as caught:
        open_store(copy)
    assert_helpful(caught.value, copy, copy / "zarr.json")


def test_an_edited_frame_list_is_refused(copy: Path, tmp_path: Path) -> None:
    renamed = [f"{frame_id}x" for frame_id in FRAMES]
    StoreWriter.open(tmp_path / "renamed.zarr", build_schema(renamed), renamed, shard_frames=4)
    shutil.copy(tmp_path / "renamed.zarr" / "frame_id" / "c" / "0", copy / "frame_id" / "c" / "0")
    with pytest.raises(StoreError, match="the frame list does not match its digest") as caught:
        open_store(copy)
    assert_helpful(caught.value, copy, copy / "frame_id" / "c" / "0")


@pytest.mark.slow
def test_a_million_frames_open_in_two_seconds_and_read_in_constant_time(tmp_path: Path) -> None:
    import time

    count = 1_000_000
    frame_ids = [f"2011_09_26_drive_{i // 500:04d}_sync/image_02/{i:010d}" for i in range(count)]
    writer = StoreWriter.open(tmp_path / "big.zarr", build_schema(frame_ids), frame_ids)
    last = writer.num_shards - 1
    depth = depth_maps(len(writer.frames_of(last)))
    writer.write_shard(last, depth)
    for shard in range(last):  # opening must not read records: that would be 15,625 files
        (tmp_path / "big.zarr" / "done" / f"{shard:05d}.json").write_bytes(b"")
    seconds = []
    for _ in range(3):  # the best of three: other processes' load is no property of the store
        started = time.perf_counter()
        store = open_store(tmp_path / "big.zarr")
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 6  # 0.9 s on an idle machine; the goal is 2, and a busy one must not decide a test
    assert len(store) == count
    assert np.abs(store[frame_ids[-1]] - depth[-1]).max() <= HALF_STEP
    started = time.perf_counter()
    for frame_id in writer.frames_of(last):
        assert store[frame_id].shape == NATIVE_SIZE
    assert (time.perf_counter() - started) / len(depth) < 0.05
    code = (
        "import sys; from tiekd_cache.store import open_store; store = open_store(sys.argv[1]); store[sys.argv[2]];"
        # not ru_maxrss: that counts what the process was forked from, too
        " print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "big.zarr", frame_ids[-1]],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert int(found.stdout) < 1e9 / 1024, "kilobytes of a process that does nothing but open it and read a frame"


@pytest.mark.slow
def test_opening_and_reading_touch_as_many_files_whatever_the_number_of_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched: list[str] = []
    real_read, real_open = Path.read_bytes, os.open
    for count in (3, 150):
        path = tmp_path / f"{count}.zarr"
        make_store(path, count, shard_frames=1)

        def read_bytes(file: Path, root: Path = path) -> bytes:
            touched.append(str(file.relative_to(root)))
            return real_read(file)

        def open_file(file: Any, *arguments: Any, root: Path = path, **options: Any) -> int:
            touched.extend([str(Path(file).relative_to(root))] if str(file).startswith(str(root)) else [])
            return real_open(file, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", read_bytes)
            patch.setattr(os, "open", open_file)
            store = open_store(path)
            assert set(touched) == {"zarr.json", "frame_id/c/0"}
            touched.clear()
            assert store[frame_list(count)[2]].shape == NATIVE_SIZE
            assert touched == ["done/00002.json", "residual/c/2/0/0"]
            touched.clear()
            assert store[frame_list(count)[2]].shape == NATIVE_SIZE
            assert touched == [], "index, record and file stay open"
