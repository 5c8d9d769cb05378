"""`verify` finds every kind of damage, says where, and repairs by dropping only what is wrong."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_helpers import HALF_STEP, build_schema, depth_maps, frame_list, make_store, write_all

from tiekd_cache.errors import StoreError
from tiekd_cache.store import StoreWriter, VerifyReport, open_store, verify_store
from tiekd_cache.store.schema import sha256_of

FRAMES = frame_list(10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make_store(tmp_path / "a.zarr")
    return tmp_path / "a.zarr"


def flip(file: Path, at: int = 20) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"x")


def swap(file: Path, other: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(other.read_bytes())
    other.write_bytes(data)


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def refill(path: Path) -> None:
    """What the next precompute does."""
    writer = StoreWriter.open(path, build_schema(FRAMES), FRAMES, shard_frames=4)
    write_all(writer, depth_maps(10))


def assert_whole(path: Path) -> None:
    report = verify_store(path)
    assert (report.problems, report.notes, report.frames_checked) == ((), (), 10)
    depth = depth_maps(10)
    store = open_store(path)
    for i, frame_id in enumerate(FRAMES):
        assert np.abs(store[frame_id] - depth[i]).max() <= HALF_STEP


def test_a_whole_store_has_no_problems(path: Path) -> None:
    report = verify_store(path)
    assert report == VerifyReport(path, 10, 10, (), ())
    assert report.whole
    assert json.loads(json.dumps(report.to_json()))["whole"] is True


DAMAGE: list[tuple[str, Callable[[Path], Any], str, list[int]]] = [
    ("flipped bit", lambda p: flip(p / "residual/c/1/0/0"), "residual/c/1/0/0", [1]),
    ("truncated", lambda p: (p / "residual/c/0/0/0").write_bytes(b"abc"), "residual/c/0/0/0", [0]),
    ("emptied", lambda p: (p / "residual/c/0/0/0").write_bytes(b""), "residual/c/0/0/0", [0]),
    ("missing shard", lambda p: (p / "residual/c/2/0/0").unlink(), "residual/c/2/0/0", [2]),
    ("longer", lambda p: lengthen(p / "residual/c/2/0/0"), "residual/c/2/0/0", [2]),
    ("swapped", lambda p: swap(p / "residual/c/0/0/0", p / "residual/c/1/0/0"), "residual/c/0/0/0", [0, 1]),
    ("swapped records", lambda p: swap(p / "done/00000.json", p / "done/00001.json"), "done/00000.json", [0, 1]),
    ("flipped record", lambda p: flip(p / "done/00001.json"), "done/00001.json", [1]),
    ("emptied record", lambda p: (p / "done/00001.json").write_bytes(b""), "done/00001.json", [1]),
    ("edited record", lambda p: edit(p / "done/00002.json", lambda d: d.update(digests=[1, 2])), "00002.json", [2]),
    ("flipped digest", lambda p: flip(p / "digest/c/1", 3), "digest/c/1", [1]),
    ("missing digest", lambda p: (p / "digest/c/1").unlink(), "digest/c/1", [1]),
    ("swapped digest", lambda p: swap(p / "digest/c/0", p / "digest/c/1"), "digest/c/0", [0, 1]),
]


@pytest.mark.parametrize(("damage", "file", "shards"), [row[1:] for row in DAMAGE], ids=[row[0] for row in DAMAGE])
def test_a_wrong_shard_is_found_dropped_and_made_again(
    path: Path, damage: Callable[[Path], Any], file: str, shards: list[int]
) -> None:
    damage(path)
    report = verify_store(path)
    assert not report.whole
    assert str(path / file) in report.problems[0] or file in report.problems[0]
    assert report.repaired == ()
    wrong = sum(len(range(4 * shard, min(4 * shard + 4, 10))) for shard in shards)
    assert report.frames_checked == 10 - wrong
    assert verify_store(path).problems == report.problems, "looking must not change anything"

    repaired = verify_store(path, repair=True)
    assert repaired.problems == repaired.repaired == report.problems
    assert repaired.whole
    writer = StoreWriter.open(path, build_schema(FRAMES), FRAMES)
    assert writer.todo() == shards, "only what is wrong is made again"
    after = verify_store(path)
    assert after.problems == ()
    assert after.frames_checked == 10 - wrong
    assert f"{wrong} of 10 frames are not there yet" in after.notes[0]
    refill(path)
    assert_whole(path)


def test_every_problem_is_listed(path: Path) -> None:
    flip(path / "residual/c/0/0/0")
    (path / "residual/c/1/0/0").unlink()
    flip(path / "digest/c/2", 1)
    (path / "digest" / "zarr.json").write_text("{}")
    problems = "\n".join(verify_store(path).problems)
    for file in ("residual/c/0/0/0", "residual/c/1/0/0", "digest/c/2", "digest/zarr.json"):
        assert str(path / file) in problems
    assert FRAMES[0] in problems, "the frame whose chunk was hit is named"


def test_a_foreign_shard_is_found(path: Path, tmp_path: Path) -> None:
    make_store(tmp_path / "other.zarr", max_depth=100.0, clamp=None)
    for part in ("residual/c/1/0/0", "digest/c/1", "done/00001.json"):
        shutil.copy(tmp_path / "other.zarr" / part, path / part)
    [problem] = verify_store(path).problems
    assert "belongs to a store with fingerprint" in problem
    verify_store(path, repair=True)
    refill(path)
    assert_whole(path)


@pytest.mark.parametrize("name", ["zarr.json", "residual/zarr.json", "frame_id/zarr.json", "digest/zarr.json"])
def test_zarr_metadata_are_written_anew(path: Path, name: str) -> None:
    edit(path / "zarr.json", lambda group: group["attributes"].update(licence="CC BY 4.0"))
    assert verify_store(path).whole, "attributes of the user's own are no problem"
    edit(path / name, lambda document: document.update(zarr_format=2))
    [problem] = verify_store(path).problems
    assert str(path / name) in problem
    assert verify_store(path, repair=True).whole
    assert_whole(path)
    assert json.loads((path / "zarr.json").read_text())["attributes"]["licence"] == "CC BY 4.0"


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("zarr.json", lambda file: edit(file, lambda group: group["attributes"]["depth"].update(max=90.0))),
        ("zarr.json", lambda file: edit(file, lambda group: group["attributes"]["created_by"].update(version="0"))),
        ("zarr.json", lambda file: edit(file, lambda group: group.pop("consolidated_metadata"))),
        ("zarr.json", lambda file: file.write_bytes(b"")),
        ("zarr.json", Path.unlink),
        ("frame_id/c/0", flip),
        ("frame_id/c/0", Path.unlink),
    ],
)
def test_damaged_attributes_and_frame_lists_are_found_and_not_repaired(
    path: Path, file: str, damage: Callable[[Path], Any]
) -> None:
    damage(path / file)
    report = verify_store(path, repair=True)
    [problem] = report.problems
    assert str(path / file) in problem
    assert not report.whole, "nobody can know what they were"
    assert "nothing else was checked" in report.notes[0]


def test_stray_files_and_unfinished_shards_are_notes(path: Path) -> None:
    (path / "notes.txt").write_text("mine")
    (path / "done" / "00002.json").unlink()
    (path / "residual/c/0/0/.0.partial-1-abcd-elsewhere").write_bytes(b"half")
    report = verify_store(path)
    assert report.problems == ()
    assert report.frames_checked == 8
    notes = "\n".join(report.notes)
    assert f"{path / 'notes.txt'}: belongs to no part of the store" in notes
    assert "an interrupted write left it" in notes
    assert "2 of 10 frames are not there yet" in notes
    assert (path / "notes.txt").read_text() == "mine"


def test_progress_counts_frames(path: Path) -> None:
    seen: list[Any] = []

    class Bar:
        def update(self, n: int, /) -> None:
            seen.append(n)

    @contextlib.contextmanager
    def bar(total: int, description: str, unit: str) -> Iterator[Bar]:
        seen.append((total, description, unit))
        yield Bar()

    verify_store(path, progress=bar)
    assert seen == [(10, "verify", "frame"), 4, 4, 2]


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_threads_find_the_same(path: Path, threads: int) -> None:
    flip(path / "residual" / "c" / "0" / "0" / "0")
    (path / "digest" / "c" / "1").write_bytes(b"")
    (path / "done" / "00002.json").write_bytes(b"{}")
    report = verify_store(path, threads=threads)
    assert [shard for shard in range(3) for line in report.problems if f"/{shard}" in line.split(": ")[0]]
    assert report == verify_store(path, threads=3)
    assert report.frames_checked == 0
    assert verify_store(path, threads=threads, repair=True).whole
    refill(path)
    assert_whole(path)


def test_an_error_in_the_middle_ends_the_threads(path: Path) -> None:
    class Bar:
        def update(self, n: int, /) -> None:
            raise KeyboardInterrupt

    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        verify_store(path, progress=lambda *_: contextlib.nullcontext(Bar()), threads=2)
    assert set(threading.enumerate()) <= before


def test_what_is_no_store_or_a_newer_one_is_an_error(path: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no store at"):
        verify_store(tmp_path / "nowhere")
    edit(path / "zarr.json", lambda group: group["attributes"].update(format="tiekd-cache/2"))
    with pytest.raises(StoreError, match="a newer tiekd-cache reads it"):
        verify_store(path)


DEEP = b"[" * 100_000


@pytest.mark.parametrize("name", ["done/00001.json", "statistics/00001.json"])
def test_json_that_nests_without_end_is_damage(path: Path, name: str) -> None:
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_bytes(DEEP)
    assert any(name in line for line in verify_store(path).problems)
    (path / "zarr.json").write_bytes(DEEP)
    [problem] = verify_store(path).problems
    assert "another copy of the store" in problem
    assert "--repair" not in problem


def test_statistics_are_checked_and_dropped_alone(path: Path) -> None:
    document = {"fingerprint": open_store(path).schema.fingerprint, "shard": 1, "frames": 4}
    file = path / "statistics" / "00001.json"
    file.parent.mkdir()
    for spoiled in (document, {**document, "shard": 0}):
        file.write_text(json.dumps({**spoiled, "statistics_digest": sha256_of(document)}))
        assert bool(verify_store(path).problems) == (spoiled is not document)
    file.write_text("[]")
    report = verify_store(path, repair=True)
    assert [str(file) in line for line in report.problems] == [True]
    assert report.whole
    assert not file.exists()
    assert_whole(path)


def test_a_folder_in_a_files_place_keeps_repair_from_nothing_else(path: Path) -> None:
    shard = path / "residual" / "c" / "0" / "0" / "0"
    shard.unlink()
    shard.mkdir()
    flip(path / "residual" / "c" / "2" / "0" / "0")
    report = verify_store(path, repair=True)
    assert not report.whole
    assert any("shard 0 cannot be dropped" in line for line in report.problems)
    assert not (path / "done" / "00002.json").exists()


def test_a_file_in_place_of_the_records_is_damage(path: Path) -> None:
    shutil.rmtree(path / "done")
    (path / "done").write_text("")
    [problem] = verify_store(path).problems
    assert "done-records cannot be listed" in problem
