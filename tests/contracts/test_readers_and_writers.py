"""Readers change nothing, so that a store may lie on a read-only mount; writers never touch a finished shard."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import read_only_reader
from e2e.command_line import environment, succeed, tiekd
from fakes import FormulaTeacher, MemoryFrames
from store_helpers import in_child

from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.store import open_store

CONFIG = PrecomputeConfig(shard_frames=2, batch_size=2, with_images=True)
State = dict[str, tuple[int, int, int, bytes]]


def state_of(folder: Path) -> State:
    """What every file and folder is: inode, time of its last change, mode, contents."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        at = path.stat(follow_symlinks=False)
        found[str(path)] = (at.st_ino, at.st_mtime_ns, at.st_mode, path.read_bytes() if path.is_file() else b"")
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "a.zarr"
    precompute(FormulaTeacher(), MemoryFrames(6), path, CONFIG)
    return path


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A folder with a whole store, as a folder and as a zip file."""
    shutil.copytree(made, tmp_path / "share" / "a.zarr")
    shutil.make_archive(str(tmp_path / "share" / "a"), "zip", made.parent, "a.zarr")
    (tmp_path / "work").mkdir()
    return tmp_path / "share"


@pytest.mark.slow
def test_readers_ask_to_write_nothing(folder: Path) -> None:
    before = state_of(folder)

    def work() -> None:
        read_only_reader.forbid_writing(folder)
        with pytest.raises(OSError, match="read-only"):
            (folder / "a.zarr" / "new").touch()
        read_only_reader.read_everything(folder, folder.parent / "work")

    assert os.waitpid(in_child(work), 0)[1] == 0
    assert state_of(folder) == before


@pytest.mark.slow
def test_readers_work_on_a_read_only_mount(folder: Path) -> None:
    mount = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        'mount --bind -o ro "$0" "$0" && exec "$@"',
        str(folder),
    ]
    try:
        trial = subprocess.run([*mount, "touch", str(folder / "new")], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare on this machine")
    if "Read-only" not in trial.stderr:
        pytest.skip(f"no read-only mount can be made here: {trial.stderr.strip()}")
    program = [sys.executable, read_only_reader.__file__, str(folder), str(folder.parent / "work")]
    tests = Path(read_only_reader.__file__).parent
    run = subprocess.run(
        [*mount, *program],
        env=environment(PYTHONPATH=os.pathsep.join([str(tests.parent), str(tests)])),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


SHARD_PARTS = ("residual/c/{0}/0/0", "digest/c/{0}", "done/0000{0}.json", "statistics/0000{0}.json")
IMAGE_PARTS = ("images/image/c/{0}/0/0/0", "images/intrinsics/c/{0}/0/0", "images/done/0000{0}.json")
METADATA = (
    "zarr.json",
    "residual/zarr.json",
    "frame_id/zarr.json",
    "digest/zarr.json",
    "frame_id/c/0",
    "images/zarr.json",
)


def finished(store: Path, *shards: int) -> State:
    """The state of shards' files, and of the store's own."""
    own = [part.format(shard) for part in (*SHARD_PARTS, *IMAGE_PARTS) for shard in shards]
    every = state_of(store)
    return {name: every[str(store / name)] for name in (*METADATA, *own)}


def without(store: Path, shard: int) -> Path:
    """The store, one of its shards not made yet."""
    for part in (*SHARD_PARTS, *IMAGE_PARTS):
        (store / part.format(shard)).unlink()
    return store


@pytest.mark.parametrize("writer", ["precompute", "push", "pull", "merge", "repair", "repair and precompute"])
def test_writers_never_touch_a_finished_shard(folder: Path, tmp_path: Path, writer: str) -> None:
    store = tmp_path / "mine.zarr"
    shutil.copytree(folder / "a.zarr", store)
    if "repair" in writer:
        damaged = store / "residual/c/1/0/0"
        damaged.write_bytes(damaged.read_bytes()[:-1])
    else:
        without(store, 1)
    before, source = finished(store, 0, 2), state_of(folder)
    if "repair" in writer:
        assert tiekd("verify", store, "--repair", cwd=tmp_path).code == 0
        assert not (store / "done/00001.json").exists()
    elif writer == "merge":
        succeed("merge", folder / "a.zip", store, "--into", store, cwd=tmp_path)
    elif writer != "precompute":
        succeed(writer, folder / "a.zarr", store, cwd=tmp_path)
    if "precompute" in writer:
        precompute(FormulaTeacher(), MemoryFrames(6), store, CONFIG)
    assert len(open_store(store, allow_partial=True)) == (4 if writer == "repair" else 6)
    assert finished(store, 0, 2) == before
    assert state_of(folder) == source


@pytest.mark.parametrize("writer", ["precompute", "push", "pull", "merge", "repair"])
def test_writers_touch_nothing_of_a_finished_store(folder: Path, tmp_path: Path, writer: str) -> None:
    store = tmp_path / "mine.zarr"
    shutil.copytree(folder / "a.zarr", store)
    before = finished(store, 0, 1, 2)
    if writer == "precompute":
        precompute(FormulaTeacher(), MemoryFrames(6), store, CONFIG)
    elif writer == "repair":
        succeed("verify", store, "--repair", cwd=tmp_path)
    elif writer == "merge":
        succeed("merge", folder / "a.zip", folder / "a.zarr", "--into", store, cwd=tmp_path)
    else:
        succeed(writer, folder / "a.zarr", store, cwd=tmp_path)
    assert finished(store, 0, 1, 2) == before
