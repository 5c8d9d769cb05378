"""A store survives kills at any moment, disks that refuse or lie, and flipped bits: no wrong answer, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_helpers import (
    all_files,
    arrays_of,
    build_schema,
    depth_maps,
    files_of,
    frame_list,
    make_store,
    open_writer,
    start_helper,
    write_all,
)

from tiekd_cache.errors import StoreError
from tiekd_cache.store import StoreSchema, StoreWriter, open_store, verify_store
from tiekd_cache.store.durable import write_file
from tiekd_cache.store.layout import same_format
from tiekd_cache.whole_file import ABANDONED_AFTER_S, partial_path

FRAMES = frame_list(10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.zarr"


def check_kills(path: Path, kills: int, seed: int) -> dict[str, int]:
    helper = start_helper(f"write_killed_at_random(Path({str(path)!r}), {kills}, {seed})")
    printed, _ = helper.communicate()
    assert helper.returncode == 0
    whole = path.with_name("undisturbed.zarr")
    writer = StoreWriter.open(whole, build_schema(FRAMES), FRAMES, shard_frames=2)
    write_all(writer, depth_maps(10))
    assert arrays_of(path) == arrays_of(whole)
    report = verify_store(path)
    assert (report.problems, report.notes, report.frames_checked) == ((), (), 10)
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, whole.name], "dead writers left something"
    counts: dict[str, int] = json.loads(printed)
    assert counts["hit"] == kills
    return counts


def test_a_killed_writer_loses_nothing_and_the_next_one_resumes(path: Path) -> None:
    check_kills(path, kills=12, seed=0)


@pytest.mark.parametrize("max_bytes", [50, *(pytest.param(n, marks=pytest.mark.slow) for n in (5, 250, 400))])
def test_a_file_killed_in_mid_write_never_appears_under_its_name(path: Path, max_bytes: int) -> None:
    writer = open_writer(path)
    before = files_of(path)
    helper = start_helper(f"write_until_killed_in_mid_write(Path({str(path)!r}), {max_bytes})")
    helper.communicate()
    assert helper.returncode == -signal.SIGXFSZ
    after = {name: data for name, data in files_of(path).items() if ".partial-" not in name and "claims" not in name}
    assert len(files_of(path)) > len(after), "something must have been half-written"
    whole = {"residual/c/0/0/0", "digest/c/0"} if max_bytes >= 400 else set()
    assert after.keys() - before.keys() == whole, "400 bytes hold the shard and not the record"
    assert writer.todo() == [0, 1, 2]
    write_all(writer, depth_maps(10))
    report = verify_store(path)
    assert (report.problems, report.notes, report.frames_checked) == ((), (), 10)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hundred_kills(path: Path) -> None:
    counts = check_kills(path, kills=200, seed=1)
    assert counts["before_creation"] > 0, "some kills must hit the creation"
    assert counts["finished"] > 2


def test_what_dead_writers_left_is_removed_and_the_livings_is_not(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    living, here = partial_path(path), partial_path(path)
    with monkeypatch.context() as container:  # another one on this machine: the same host, pids of its own
        container.setattr("tiekd_cache.whole_file.process_space", lambda: "boot pid:[2]")
        there = partial_path(path)
    gone, elsewhere = (one.with_name(one.name.replace(f"-{os.getpid()}-", f"-{dead.pid}-")) for one in (here, there))
    old = living.with_name(f"{living.name}-old")
    for folder in (living, elsewhere, gone, old):
        folder.mkdir()
        (folder / "zarr.json").write_text("{}")
    yesterday = time.time() - ABANDONED_AFTER_S - 60
    os.utime(old, (yesterday, yesterday))
    writer = open_writer(path)
    assert [folder.exists() for folder in (living, elsewhere, gone, old)] == [True, True, False, False]
    file = path / "residual" / "c" / "0" / "0" / "0"
    file.parent.mkdir(parents=True)
    half = file.with_name(partial_path(file).name.replace(f"-{os.getpid()}-", f"-{dead.pid}-"))
    half.write_bytes(b"half a shard")
    writer.write_shard(0, depth_maps(4))
    assert [entry.name for entry in file.parent.iterdir()] == ["0"]


@pytest.mark.parametrize(
    ("number", "remedy", "successful_syncs"),
    [
        (errno.ENOSPC, "free space on this disk", 0),
        (errno.ENOSPC, "free space on this disk", 2),
        (errno.ENOSPC, "free space on this disk", 4),
        (errno.ENOSPC, "free space on this disk", 6),
        (errno.EDQUOT, "free space in your quota", 2),
        (errno.EACCES, "get permission to write there", 0),
        (errno.EROFS, "this file system is read-only", 0),
        (errno.EIO, "mend that", 6),
    ],
)
def test_a_disk_that_refuses_is_one_clear_error_and_the_store_resumes(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str, successful_syncs: int
) -> None:
    depth = depth_maps(10)
    writer = open_writer(path)
    writer.write_shard(0, depth[:4])
    sync, calls = os.fsync, []

    def refuse(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > successful_syncs:
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(StoreError, match=remedy) as caught:
            writer.write_shard(1, depth[4:8])
    message = str(caught.value)
    assert message.startswith(f"Cannot write {path}/")
    assert os.strerror(number) in message
    assert message.endswith("then run the same command again: it resumes.")
    assert "\n" not in message
    assert list(open_store(path, allow_partial=True)) == FRAMES[:4]
    assert verify_store(path).problems == ()
    assert not list(path.rglob(".*partial*"))
    write_all(open_writer(path), depth)
    make_store(path.with_name("b.zarr"))
    assert arrays_of(path) == arrays_of(path.with_name("b.zarr"))


def test_a_real_limit_on_file_sizes_is_one_clear_error(path: Path) -> None:
    writer = open_writer(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(StoreError, match=r"File too large.*ulimit -f"):
            writer.write_shard(0, depth_maps(4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(path.rglob(".*partial*"))
    writer.write_shard(0, depth_maps(4))
    assert writer.todo() == [1, 2]


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"Cannot write .*/file/a\.zarr: (File exists|Not a directory)"):
        open_writer(tmp_path / "file" / "a.zarr")


def test_a_shard_that_reads_back_differently_is_not_recorded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lie(file: Path, data: bytes) -> None:
        write_file(file, data[:40] + bytes([data[40] ^ 1]) + data[41:] if "residual" in file.parts else data)

    store = open_writer(path)
    with monkeypatch.context() as patch:
        patch.setattr("tiekd_cache.store.writer.write_file", lie)
        with pytest.raises(StoreError, match=r"reads back differently.*checksum.*The disk or the memory is faulty"):
            store.write_shard(0, depth_maps(4))
    assert store.todo() == [0, 1, 2]
    assert not (path / "residual" / "c" / "0" / "0" / "0").exists()
    store.write_shard(0, depth_maps(4))
    assert store.todo() == [1, 2]


def error_of(call: Callable[[], Any]) -> str | None:
    """What a StoreError of the call says, or None."""
    try:
        call()
    except StoreError as error:
        return str(error)
    return None


def check_answers(path: Path, schema: StoreSchema, expected: dict[str, Any]) -> int:
    """How many frames are refused; asserts that all others, and all that the store says of itself, are unchanged."""
    refused = 0

    def read_all() -> None:
        nonlocal refused
        store = open_store(path)
        assert store.schema == schema
        assert list(store) == list(expected)
        for frame_id, response in expected.items():

            def read(frame_id: str = frame_id, response: Any = response) -> None:
                assert np.array_equal(store[frame_id], response)

            error = error_of(read)
            refused += error is not None
            assert error is None or frame_id in error

    error = error_of(read_all)
    assert error is None or str(path) in error
    return refused if error is None else len(expected)


def check_flips(path: Path, flips: int, seed: int) -> None:
    make_store(path)
    store = open_store(path)
    schema, expected = store.schema, {frame_id: store[frame_id] for frame_id in store}
    files = all_files(path)
    chance = random.Random(seed)
    refused: Counter[str] = Counter()
    for _ in range(flips):
        file = chance.choice(files)  # every file alike, or the responses would take nearly all
        data = file.read_bytes()
        at, bit = chance.randrange(len(data)), chance.randrange(8)
        flipped = data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]
        file.write_bytes(flipped)
        try:
            refused[file.relative_to(path).parts[0]] += check_answers(path, schema, expected)
            if not verify_store(path).problems:  # only what a decoder need not know
                assert file.name == "zarr.json"
                assert same_format(json.loads(flipped), json.loads(data))
        except AssertionError as error:
            error.add_note(f"bit {bit} of byte {at} of {file} was flipped")
            raise
        file.write_bytes(data)
    for part in ("residual", "done", "frame_id", "zarr.json"):
        assert refused[part] > 0, f"no flip in {part} was refused: it holds answers"


def test_no_flipped_bit_changes_an_answer(path: Path) -> None:
    check_flips(path, 150, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_none_of_two_thousand_flipped_bits_changes_an_answer(path: Path) -> None:
    check_flips(path, 2000, seed=1)
