"""`push`, `pull` and `merge` as a user types them: one good way, and the mistakes."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from e2e.command_line import fail, start, succeed, tiekd
from store_helpers import build_schema, depth_maps, files_of, frame_list, make_store, open_writer

import tiekd_cache.sharing.copying as copying
from tiekd_cache.data.kitti_layout import FrameKey
from tiekd_cache.errors import DataError
from tiekd_cache.sharing import read_frame_choice
from tiekd_cache.store import StoreWriter, open_store
from tiekd_cache.whole_file import is_partial

FRAMES = frame_list(10)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sharing") / "a.zarr"
    make_store(path)
    return path


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A folder with stores/a.zarr."""
    shutil.copytree(made, tmp_path / "stores" / "a.zarr")
    return tmp_path


def test_push_and_pull_there_and_back(home: Path) -> None:
    said = succeed("push", "stores/a.zarr", "team/a.zarr", "--json", cwd=home).json
    assert (said["frames"], said["store_frames"], said["shards_copied"]) == (10, 10, 3)
    shards = [file for file in (home / "stores/a.zarr/residual/c").rglob("*") if file.is_file()]
    assert said["bytes_copied"] == sum(file.stat().st_size for file in shards)
    assert said["store"] == str(home / "team" / "a.zarr")
    again = succeed("push", "stores/a.zarr", "team/a.zarr", "--jobs", "1", cwd=home)
    assert "shards_there_before  3" in again.out
    assert again.err == ""
    succeed("pull", "team/a.zarr", "back.zarr", cwd=home)
    assert files_of(home / "back.zarr") == files_of(home / "stores/a.zarr")
    assert succeed("verify", "back.zarr", "--json", cwd=home).json["problems"] == []


def test_pull_takes_the_frames_of_a_file(home: Path) -> None:
    (home / "ids.txt").write_text(f"# mine\n{FRAMES[5]}\n\n{FRAMES[4]}\n")
    outcome = succeed("pull", "stores/a.zarr", "b.zarr", "--frames", "ids.txt", cwd=home)
    assert "b.zarr is partial: read it with --allow-partial" in outcome.err
    assert list(open_store(home / "b.zarr", allow_partial=True)) == FRAMES[4:8]
    key = FrameKey.parse(FRAMES[9])
    line = f"{key.drive[:10]}/{key.drive}/{key.camera}/data/{key.index}.png None 721.5377\n"
    (home / "split.txt").write_text(line)
    assert read_frame_choice(home / "split.txt") == [FRAMES[9]]
    said = succeed("pull", "stores/a.zarr", "b.zarr", "--frames", "split.txt", "--json", cwd=home).json
    assert (said["frames"], said["shards_copied"]) == (6, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"file of frames .*frames\.txt cannot be read: No such file"),
        (b"\xff\xfe\x00", "is not a text file in UTF-8"),
        (b"# nothing\n", "names no frame"),
        (b"a b c d e\n", r"frames\.txt:1: 'a' is not the path of a KITTI image"),
        (b"elsewhere\n", r"1 of 1 frames are not in the frame list of .*a\.zarr \(elsewhere\)"),
    ],
)
def test_odd_files_of_frames_are_refused(home: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (home / "frames.txt").write_bytes(content)
    error = fail("pull", "stores/a.zarr", "b.zarr", "--frames", "frames.txt", cwd=home)
    with pytest.raises(DataError, match=message):
        raise DataError(error)
    assert not (home / "b.zarr").exists()


def test_what_cannot_be_pushed_or_pulled_is_said_in_one_line(home: Path) -> None:
    assert "There is no store at" in fail("push", "stores/b.zarr", "team/b.zarr", cwd=home)
    assert "is the source and the target" in fail("push", "stores/a.zarr", home / "stores" / "a.zarr", cwd=home)
    (home / "photos").mkdir()
    (home / "photos" / "a.png").touch()
    assert "holds other things (a.png)" in fail("push", "stores/a.zarr", "photos", cwd=home)
    assert "ftp:// is no place for a store" in fail("push", "stores/a.zarr", "ftp://host/a.zarr", cwd=home)
    (home / "file").touch()
    assert "file" in fail("pull", "stores/a.zarr", "file", cwd=home)
    assert "file" in fail("pull", "stores/a.zarr", "file/b.zarr", cwd=home)
    assert tiekd("pull", "stores/a.zarr", cwd=home).code == 2
    assert tiekd("push", "stores/a.zarr", "b.zarr", "--jobs", "0", cwd=home).code == 2
    (home / "stores/a.zarr/residual/c/1/0/0").write_bytes(b"torn")
    error = fail("push", "stores/a.zarr", "team/a.zarr", cwd=home)
    assert "shard 1: 4 bytes, the done-record says" in error
    assert "Everything else that was asked for is at" in error
    assert len(open_store(home / "team/a.zarr", allow_partial=True)) == 6


def test_merge_joins_parts_and_names_what_differs(home: Path) -> None:
    depth = depth_maps(10)
    open_writer(home / "ann.zarr").write_shard(0, depth[:4])
    open_writer(home / "ben.zarr").write_shard(1, depth[4:8])
    outcome = succeed("merge", "ann.zarr", "ben.zarr", "--into", "stores/b.zarr", cwd=home)
    assert "frames               8" in outcome.out
    assert "is partial" in outcome.err
    said = succeed("merge", "stores/a.zarr", "--into", "stores/b.zarr", "--json", cwd=home).json
    assert (said["frames"], said["shards_copied"], said["shards_there_before"]) == (10, 1, 2)
    teacher = {**build_schema(FRAMES).teacher, "digest": "1" * 64}
    StoreWriter.open(home / "eve.zarr", build_schema(FRAMES, teacher=teacher), FRAMES, shard_frames=4)
    error = fail("merge", "ann.zarr", "eve.zarr", "--into", "c.zarr", cwd=home)
    assert 'they differ in teacher.digest ("000' in error
    assert not (home / "c.zarr").exists()
    assert tiekd("merge", "--into", "c.zarr", cwd=home).code == 2
    assert tiekd("merge", "ann.zarr", cwd=home).code == 2


def test_ctrl_c_keeps_what_was_finished(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, calls = copying._copy, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return copy(*arguments)

    monkeypatch.setattr(copying, "_copy", interrupted)
    outcome = tiekd("push", "stores/a.zarr", "team/a.zarr", "--jobs", "1", cwd=home)
    assert outcome.code == 130
    assert outcome.err == "Interrupted. What was finished is kept; the same command goes on from there.\n"
    kept = open_store(home / "team/a.zarr", allow_partial=True)
    assert FRAMES[0] in kept
    assert FRAMES[4] not in kept
    monkeypatch.undo()
    succeed("push", "stores/a.zarr", "team/a.zarr", cwd=home)
    assert files_of(home / "team/a.zarr") == files_of(home / "stores/a.zarr")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_while_it_runs_costs_the_shards_under_way(tmp_path: Path, number: signal.Signals) -> None:
    make_store(tmp_path / "a.zarr", count=150, shard_frames=1)
    process = start(["push", "a.zarr", "team/a.zarr"], tmp_path)
    done = tmp_path / "team" / "a.zarr" / "done"
    deadline = time.monotonic() + 60
    while not list(done.glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert err == "Interrupted. What was finished is kept; the same command goes on from there.\n"
    finished = len(open_store(tmp_path / "team" / "a.zarr", allow_partial=True))
    assert 0 < finished < 150
    said = succeed("push", "a.zarr", "team/a.zarr", "--json", cwd=tmp_path).json
    assert (said["frames"], said["shards_there_before"]) == (150, finished)
    there = {name for name in files_of(tmp_path / "team" / "a.zarr") if not name.startswith("claims/")}
    # killed between the two names of a file, a process leaves the one that nobody reads
    left = {name for name in there if is_partial(Path(name).name)}
    assert number == signal.SIGKILL or not left
    assert there - left == files_of(tmp_path / "a.zarr").keys()
