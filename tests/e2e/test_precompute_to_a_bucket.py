"""`precompute --store s3://…` as a user gives it: stops, kills, mistakes, colleagues; the same store as in a folder."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import fail, start, succeed

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fakes import FormulaTeacher, MemoryFrames
from servers import FaultServer, Server, s3_server
from signing_helpers import write_key
from store_helpers import start_helper
from test_pipeline import RECIPE

from tiekd_cache.data.synthetic_kitti import write_synthetic_kitti
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.store import open_store, verify_store
from tiekd_cache.store.objects import open_objects

pytest.importorskip("obstore")

FRAMES = 5
PRECOMPUTE = ["precompute", "--teacher", "lidar", "--kitti", "data/kitti", "--split", "all", "--shard-frames", "1"]


@pytest.fixture(scope="module")
def s3() -> Iterator[Server]:
    """S3 with an empty bucket; this process knows how to reach it, too."""
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/kitti and the store of its frames, made on the disk."""
    home = tmp_path_factory.mktemp("home")
    write_synthetic_kitti(home / "data" / "kitti", train_frames=FRAMES, test_frames=1)
    succeed(*PRECOMPUTE, "--with-images", "--store", "local.zarr", cwd=home)
    return home


def done_at(url: str) -> int:
    """Finished shards there."""
    return len(open_objects(url).list("done"))


def same_as_local(home: Path, url: str) -> None:
    """Verify says nothing, and every answer is bit for bit that of the local store."""
    report = verify_store(url)
    assert (report.problems, report.notes) == ((), ())
    there, local = open_store(url), open_store(home / "local.zarr")
    assert list(there) == list(local)
    assert there.read(there.frame_ids).tobytes() == local.read(local.frame_ids).tobytes()
    assert there.info.schema.fingerprint == local.info.schema.fingerprint


def one_line(process: subprocess.Popen[str], code: int, timeout: float = 150) -> str:
    """The last line that a command says, which ends with this code and no traceback."""
    _, err = process.communicate(timeout=timeout)
    assert process.returncode == code, err
    assert "Traceback" not in err, err
    return err.strip().splitlines()[-1]


@pytest.mark.slow
def test_a_signed_store_that_grows_in_the_bucket_is_said_to_be_signed_no_more(s3: Server, home: Path) -> None:
    url = f"{s3.url}/signed.zarr"
    write_key(home / "key")
    succeed(*PRECOMPUTE, "--store", "part.zarr", "--shard-range", "0/3", cwd=home)
    succeed("push", "part.zarr", url, "--sign", "key", cwd=home)
    assert "has changed since" not in succeed(*PRECOMPUTE, "--store", url, "--shard-range", "0/3", cwd=home).err
    assert "pull it to a folder, sign it there and push it" in succeed(*PRECOMPUTE, "--store", url, cwd=home).err
    assert "has not signed" in fail("verify", url, "--trust", "key.pub", cwd=home)


def test_a_store_grows_in_the_bucket_and_is_the_one_of_the_folder(s3: Server, home: Path) -> None:
    url = f"{s3.url}/grows.zarr"
    before = {file.name for file in home.iterdir()}
    part = succeed(*PRECOMPUTE, "--store", url, "--shard-range", "0/3", "--json", cwd=home).json
    assert (part["made_now"], part["responses_when_finished"]) == (2, FRAMES + 1)
    assert url in succeed("info", url, cwd=home).out
    assert succeed("pull", url, "pulled.zarr", "--json", cwd=home).json["frames"] == 2
    rest = succeed(*PRECOMPUTE, "--store", url, "--with-images", "--json", cwd=home)
    assert (rest.json["made_now"], rest.json["responses"]) == (FRAMES - 1, FRAMES + 1)
    assert f"Next: tiekd-cache distill --student resnet18 --store {url} --kitti data/kitti" in rest.err
    same_as_local(home, url)
    assert succeed("verify", url, "--json", cwd=home).json["notes"] == []
    images = open_store(url)
    assert all((images.image(one) == open_store(home / "local.zarr").image(one)).all() for one in images)
    assert succeed("push", "local.zarr", url, "--json", cwd=home).json["shards_copied"] == 0
    refused = fail(*PRECOMPUTE, "--store", url, "--max-depth", "90", cwd=home)
    assert f"{url} was begun with other settings: depth.max (80.0, now 90.0)" in refused
    assert {file.name for file in home.iterdir()} - before == {"pulled.zarr"}, "nothing is kept on the disk"


def test_places_that_are_not_to_be_had_are_one_line_before_the_teacher_is_loaded(s3: Server, home: Path) -> None:
    command = ["precompute", "--teacher", "no such teacher", "--store"]
    missing = fail(*command, "s3://nobodys-bucket/a.zarr", cwd=home)
    assert "there is no such bucket" in missing
    with FaultServer(home) as refusing:
        refusing.fail("*", "403")
        refused = fail(*command, "s3://bucket/a.zarr", cwd=home, AWS_ENDPOINT_URL=refusing.url)
    assert "access is refused (403)" in refused
    assert "AWS_ACCESS_KEY_ID" in refused
    assert s3.environment["AWS_SECRET_ACCESS_KEY"] not in refused


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_at_random_moments_it_ends_with_the_store_of_an_undisturbed_run(s3: Server, tmp_path: Path) -> None:
    local = tmp_path / "local.zarr"
    source, config = MemoryFrames(24), PrecomputeConfig(batch_size=2, shard_frames=2, with_images=True)
    precompute(FormulaTeacher(), source, local, config)
    helper = start_helper(
        f"precompute_killed_at_random({s3.url + '/killed'!r}, Path({str(local)!r}), 25, 1)", "bucket_helpers"
    )
    printed, _ = helper.communicate(timeout=350)
    assert helper.returncode == 0
    counts = json.loads(printed)
    assert counts["hit"] == 25
    report = verify_store(counts["url"])
    assert (report.problems, report.notes, report.frames_checked) == ((), (), 24)
    there, whole = open_store(counts["url"]), open_store(local)
    assert there.read(there.frame_ids).tobytes() == whole.read(whole.frame_ids).tobytes()
    assert all((there.image(one) == whole.image(one)).all() for one in whole)
    in_bucket = dict(open_objects(counts["url"]).list())
    own = {str(file.relative_to(local)) for file in local.rglob("*") if file.is_file()}
    assert {key for key in in_bucket if "claims/" not in key} == own


@pytest.mark.slow
def test_ctrl_c_and_sigkill_of_the_command(s3: Server, home: Path) -> None:
    url = f"{s3.url}/stopped.zarr"
    for number in (signal.SIGINT, signal.SIGKILL):
        before = done_at(url)
        process = start([*PRECOMPUTE, "--store", url], home)
        deadline = time.monotonic() + 90
        while done_at(url) == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode in ((130, 0) if number == signal.SIGINT else (-9, 0)), err
        assert "Traceback" not in err, err
        assert done_at(url) > before
        if number == signal.SIGINT:
            assert open_objects(url).list("claims") == []
    succeed(*PRECOMPUTE, "--store", url, cwd=home)
    same_as_local(home, url)


@pytest.mark.slow
def test_several_processes_make_each_shard_once(s3: Server, home: Path) -> None:
    url = f"{s3.url}/together.zarr"
    processes = [start([*PRECOMPUTE, "--store", url, "--json"], home) for _ in range(3)]
    said: list[Any] = []
    for process in processes:
        out, err = process.communicate(timeout=150)
        assert process.returncode == 0, err
        said.append(json.loads(out))
    assert sum(one["made_now"] for one in said) == FRAMES + 1
    assert {one["responses"] for one in said} == {FRAMES + 1}
    same_as_local(home, url)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_server_that_falls_silent_ends_the_run_in_one_line_and_the_same_command_goes_on(home: Path) -> None:
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        url = f"{server.url}/a.zarr"
        process = start([*PRECOMPUTE, "--store", url], home)
        deadline = time.monotonic() + 90
        while not done_at(url) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            line = one_line(process, 1)
        finally:
            os.kill(server.pid, signal.SIGCONT)  # what it was sent meanwhile it does now
        assert re.match(rf"Error: {url}/\S+ cannot be (read|written|listed|removed): no whole answer in time", line), (
            line
        )
        succeed(*PRECOMPUTE, "--store", url, cwd=home)
        same_as_local(home, url)


@pytest.mark.slow
def test_a_recipe_whose_store_is_in_a_bucket(s3: Server, tmp_path: Path) -> None:
    url = f"{s3.url}/recipe.zarr"
    (tmp_path / "small.toml").write_text(RECIPE)
    settings = ["--set", f"teacher.store={url}"]
    first = succeed("run", "small.toml", *settings, cwd=tmp_path)
    assert url in first.out
    assert (verify_store(url).problems, len(open_store(url))) == ((), 2)
    assert "finished already" in succeed("run", "small.toml", *settings, cwd=tmp_path).err
    assert {file.name for file in tmp_path.iterdir()} == {"small.toml", "runs"}
