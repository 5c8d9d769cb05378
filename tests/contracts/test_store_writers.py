"""Any number of processes write one store: each shard once, none lost, and a dead process blocks nobody."""

from __future__ import annotations

import errno
import fcntl
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from store_helpers import HALF_STEP, depth_maps, frame_list, open_writer, start_helper

from tiekd_cache.errors import StoreError
from tiekd_cache.store import open_store, verify_store

FRAMES = frame_list(10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.zarr"


def test_a_claim_is_exclusive_and_ends_with_the_block_or_the_shard(path: Path) -> None:
    first, second = open_writer(path), open_writer(path)
    with first.claim(0) as mine, second.claim(0) as also_mine, second.claim(1) as other:
        assert (mine, also_mine, other) == (True, False, True)
    with second.claim(0) as mine:
        assert mine
        second.write_shard(0, depth_maps(4))
        with first.claim(0) as again:
            assert not again, "it is done"
    with first.claim(0) as mine:
        assert not mine
    assert not (path / "claims" / "00000.lock").exists()


def test_the_kernel_ends_a_dead_processs_claim(path: Path) -> None:
    writer = open_writer(path)
    file = path / "claims" / "00000.lock"
    code = (
        f"import fcntl; f = open({str(file)!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with writer.claim(0) as mine:
        assert not mine
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with writer.claim(0) as mine:
        assert mine


def test_without_locks_everyone_may_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def broken(descriptor: int, operation: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    first, second = open_writer(path), open_writer(path)
    depth = depth_maps(10)
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with first.claim(0) as mine, second.claim(0) as also_mine:
        assert mine
        assert also_mine
        first.write_shard(0, depth[:4])
        second.write_shard(0, depth[:4])
    assert verify_store(path).problems == ()
    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(StoreError, match="Cannot lock"), first.claim(1):
        pass


def test_two_processes_write_each_shard_once(path: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    helpers = [start_helper(f"write_beside_others(Path({str(path)!r}), Path({str(start)!r}))") for _ in range(2)]
    for helper in helpers:
        assert helper.stdout is not None
        assert helper.stdout.readline() == "ready\n"
    start.touch()
    printed = [helper.communicate()[0] for helper in helpers]
    assert [helper.returncode for helper in helpers] == [0, 0]
    first, second = (json.loads(text) for text in printed)
    assert sorted(first + second) == list(range(20)), "none lost, none twice"
    assert first
    assert second
    report = verify_store(path)
    assert (report.problems, report.notes, report.frames_checked) == ((), (), 40)
    depth, store = depth_maps(40), open_store(path)
    for i, frame_id in enumerate(frame_list(40)):
        assert np.abs(store[frame_id] - depth[i]).max() <= HALF_STEP
