"""A store is plain Zarr; it is created whole or not at all, resumed, and takes only what it can give back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from store_helpers import (
    HALF_STEP,
    arrays_of,
    build_schema,
    depth_maps,
    files_of,
    frame_list,
    make_store,
    open_writer,
    write_all,
)

from tiekd_cache.errors import RangeError, ShapeError, StoreError
from tiekd_cache.store import StoreWriter, open_store, verify_store

FRAMES = frame_list(10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.zarr"


def test_zarr_python_reads_all_of_it_without_a_warning(path: Path) -> None:
    depth = make_store(path)
    group: Any = zarr.open_group(path, mode="r")
    assert {name for name, _ in group.members(max_depth=None)} == {"residual", "frame_id", "digest"}
    assert group["frame_id"][:].tolist() == FRAMES
    attributes = group.attrs["depth"]
    residual: Any = zarr.open_array(path / "residual", mode="r")  # by its own metadata, not the group's
    assert residual.shards == (4, 12, 20)
    assert residual.chunks == (1, 12, 20)
    for i, digest in enumerate(group["digest"][:]):
        zigzag = residual[i].astype(np.int64)
        signed = np.where(zigzag % 2 == 0, zigzag // 2, -(zigzag + 1) // 2)
        codes = signed.cumsum(axis=0).cumsum(axis=1) % 65536  # the format, written out once more
        assert google_crc32c.value(codes.astype("<u2").tobytes()) == digest
        metres = np.where(codes == attributes["invalid_code"], 0, np.maximum(codes * attributes["step"], 1e-3))
        assert np.abs(metres - depth[i]).max() <= HALF_STEP


def test_a_shard_that_zarr_python_writes_is_read_by_ours(path: Path, tmp_path: Path) -> None:
    make_store(path)
    expected = {frame_id: open_store(path)[frame_id] for frame_id in FRAMES}
    group: Any = zarr.open_group(path, mode="r")
    theirs: Any = zarr.open_array(tmp_path / "theirs", mode="w", zarr_format=3, shape=1, dtype="u1")
    shutil.copy(path / "residual" / "zarr.json", tmp_path / "theirs" / "zarr.json")
    theirs = zarr.open_array(tmp_path / "theirs", mode="r+")
    theirs[:] = group["residual"][:]
    for shard in range(3):
        shutil.copy(
            tmp_path / "theirs" / "c" / str(shard) / "0" / "0", path / "residual" / "c" / str(shard) / "0" / "0"
        )
    store = open_store(path)
    for frame_id in FRAMES:
        assert np.array_equal(store[frame_id], expected[frame_id])


@pytest.mark.parametrize("folder", ["absent", "empty"])
def test_a_new_store_is_whole_and_holds_nothing(tmp_path: Path, folder: str) -> None:
    path = tmp_path / "deep" / "down" / "a.zarr"
    if folder == "empty":
        path.mkdir(parents=True)
    writer = open_writer(path)
    assert (writer.num_shards, writer.todo()) == (3, [0, 1, 2])
    assert [list(writer.frames_of(shard)) for shard in range(3)] == [FRAMES[:4], FRAMES[4:8], FRAMES[8:]]
    assert len(open_store(path, allow_partial=True)) == 0
    report = verify_store(path)
    assert (report.problems, report.frames_checked) == ((), 0)
    assert [file.name for file in path.parent.iterdir()] == ["a.zarr"], "nothing may stay beside it"


def test_writing_resumes_where_it_stopped_and_keeps_its_shards(path: Path) -> None:
    depth = depth_maps(10)
    open_writer(path).write_shard(1, depth[4:8])
    kept = files_of(path)
    again = StoreWriter.open(path, build_schema(FRAMES), FRAMES, shard_frames=64)
    assert again.num_shards == 3
    assert again.todo() == [0, 2]
    write_all(again, depth)
    assert again.todo() == []
    assert files_of(path).items() >= kept.items(), "what was finished must not be touched"
    again.write_shard(1, depth[:4])
    assert files_of(path).items() >= kept.items(), "a finished shard is left as it is"
    other = path.with_name("b.zarr")
    make_store(other)
    assert arrays_of(path) == arrays_of(other)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_text("a file"),
        lambda path: zarr.create_group(path, attributes={"format": "something else"}).create_array(
            "residual", shape=(3,), dtype="u2"
        ),
        lambda path: (path.mkdir(), (path / "photo.png").write_bytes(b"...")),
    ],
    ids=["file", "another zarr group", "other things"],
)
def test_what_is_there_and_no_store_is_refused_untouched(
    tmp_path: Path, path: Path, make: Callable[[Path], Any]
) -> None:
    make(path)
    before = files_of(tmp_path)
    with pytest.raises(StoreError, match="exists and is no tiekd-cache store: nothing was touched") as caught:
        open_writer(path)
    assert str(path) in str(caught.value)
    assert "choose another --store" in str(caught.value)
    assert files_of(tmp_path) == before


def test_a_store_of_other_settings_is_refused_naming_them(path: Path) -> None:
    open_writer(path)
    before = files_of(path)
    with pytest.raises(StoreError, match=r"depth\.max \(80\.0, now 100\.0\); dataset|depth\.max") as caught:
        open_writer(path, max_depth=100.0)
    assert str(path) in str(caught.value)
    assert "Choose another --store" in str(caught.value)
    with pytest.raises(StoreError, match=r"dataset\.frames_digest"):
        StoreWriter.open(path, build_schema(FRAMES[:9]), FRAMES[:9])
    assert files_of(path) == before


@pytest.mark.parametrize(
    ("frame_ids", "message"),
    [
        ([], "cannot hold 0 frames"),
        (["a", "b", "a"], "Frame a stands twice"),
        (["a", ""], "is empty or has a line break"),
        (["a\nb"], "is empty or has a line break"),
    ],
)
def test_odd_frame_lists_are_refused(path: Path, frame_ids: list[str], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        StoreWriter.open(path, build_schema(frame_ids), frame_ids)
    assert not path.exists()


def test_a_schema_of_other_frames_is_refused(path: Path) -> None:
    with pytest.raises(StoreError, match="describes other frames"):
        StoreWriter.open(path, build_schema(FRAMES), FRAMES[::-1])


def test_frame_ids_of_any_script_are_kept(path: Path) -> None:
    frame_ids = ["straße/影像/0001", "a b/c'd\"e", "🛣", "x" * 3000]
    writer = StoreWriter.open(path, build_schema(frame_ids), frame_ids)
    write_all(writer, depth_maps(4))
    assert list(open_store(path)) == frame_ids
    assert zarr.open_array(path / "frame_id", mode="r")[:].tolist() == frame_ids  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "is NaN"),
        (-np.inf, "is infinite"),
        (-1.0, "-1 m is negative"),
        (131.1, "131.1 m exceeds the limit of 80 m"),
        (1e-4, "below the limit of 0.001 m"),
    ],
)
def test_a_bad_response_names_frame_and_pixel_and_writes_nothing(path: Path, value: float, message: str) -> None:
    writer = open_writer(path)
    before = files_of(path)
    depth = depth_maps(10)[:4]
    depth[2, 7, 11] = value
    with pytest.raises(RangeError, match=message) as caught:
        writer.write_shard(0, depth)
    for part in (FRAMES[2], "row 7, column 11", "teacher formula", str(path), "--max-depth"):
        assert part in str(caught.value)
    assert files_of(path) == before
    assert writer.todo() == [0, 1, 2]


@pytest.mark.parametrize(
    "depth",
    [
        np.ones((3, 12, 20), np.float32),
        np.ones((4, 20, 12), np.float32),
        np.ones((4, 12, 20), np.float64),
        np.ones((4, 1, 12, 20), np.float32),
    ],
)
def test_only_a_whole_shard_is_taken(path: Path, depth: Any) -> None:
    with pytest.raises(ShapeError, match=r"takes float32 \[4, 12, 20\]"):
        open_writer(path).write_shard(0, depth)
