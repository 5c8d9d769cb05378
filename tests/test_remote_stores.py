"""Stores over the network: the same arrays, losses and commands as from a folder. Faults: test_remote_faults.py."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from e2e.command_line import succeed, tiekd
from fakes import FormulaTeacher, MemoryFrames
from remote_helpers import bucket_of
from servers import FaultServer, nginx, s3_server
from store_helpers import frame_list, in_child, make_store
from test_distill import losses, train, with_train

from tiekd_cache.cli import main
from tiekd_cache.data.synthetic_kitti import write_synthetic_kitti
from tiekd_cache.errors import ConfigError, StoreError
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.store import open_store, remote
from tiekd_cache.store.objects import MissingObject, RemoteError, open_objects

pytest.importorskip("obstore")
pytestmark = pytest.mark.slow

FRAMES = frame_list(10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two stores: `a.zarr`, and `run.zarr` to train from."""
    path = tmp_path_factory.mktemp("served")
    make_store(path / "a.zarr")
    precompute(FormulaTeacher(), MemoryFrames(6), path / "run.zarr", PrecomputeConfig(shard_frames=4))
    for name in ("a", "run"):
        shutil.make_archive(str(path / name), "zip", path, f"{name}.zarr")
    return path


@pytest.fixture(scope="module", params=["zip", "nginx", "s3"])
def place(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """Where the stores are, but for what their names end in."""
    if request.param == "zip":
        yield f"{folder}/NAME.zip"
    elif request.param == "nginx":
        with nginx(folder) as server:
            yield f"{server.url}/NAME.zarr"
    else:
        with bucket_of(folder) as bucket:
            yield f"{bucket}/NAME.zarr"


def test_the_same_arrays_and_numbers(place: str, folder: Path) -> None:
    local, store = open_store(folder / "a.zarr"), open_store(place.replace("NAME", "a"))
    assert np.array_equal(store.read(FRAMES, threads=4), local.read(FRAMES))
    assert np.array_equal(pickle.loads(pickle.dumps(store))[FRAMES[3]], local[FRAMES[3]])
    assert store.info.num_bytes == local.info.num_bytes
    for command in ("info", "verify"):
        result = CliRunner().invoke(main, [command, place.replace("NAME", "a"), "--json"])
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["frames"] == 10


def test_two_workers_train_to_the_same_losses(place: str, folder: Path, tmp_path: Path) -> None:
    config = with_train(workers=2, steps=4)
    expected = train(open_store(folder / "run.zarr"), tmp_path / "local", with_train(steps=4))
    assert train(open_store(place.replace("NAME", "run")), tmp_path / "run", config) == expected


def test_a_forked_child_gets_an_error_and_does_not_hang(folder: Path) -> None:
    with nginx(folder) as server:
        store = open_store(f"{server.url}/a.zarr")
        assert store[FRAMES[0]].any()

        def read() -> None:
            with pytest.raises(RemoteError, match="spawn"):
                store[FRAMES[5]]

        assert os.waitpid(in_child(read), 0)[1] == 0


def test_a_bucket_takes_writes_and_puts_if_absent(tmp_path: Path) -> None:
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.environment["AWS_ENDPOINT_URL"])
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))  # the profile serves, too
        (tmp_path / "credentials").write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
        objects = open_objects(server.url)
        assert objects.list() == []
        assert objects.put("a/b", b"first", if_absent=True)
        assert not objects.put("a/b", b"second", if_absent=True)
        assert objects.get("a/b") == b"first"
        assert objects.put("a/b", b"third")
        assert objects.get_range("a/b", 1, 3) == b"hir"
        assert objects.list() == objects.list("a") == [("a/b", 5)]
        objects.delete("a/b")
        objects.delete("a/b")
        with pytest.raises(MissingObject):
            objects.size("a/b")
        objects.put("c", b"12")
        with pytest.raises(RemoteError, match="truncated"):
            objects.get_range("c", 1, 5)


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """A server that fails as it is told, and little patience for a request."""
    monkeypatch.setattr(remote, "REQUEST_S", 1.0)
    with FaultServer(folder) as started:
        yield started


def test_a_shard_that_is_gone_ends_training_with_workers_in_one_line(server: FaultServer, tmp_path: Path) -> None:
    store = open_store(f"{server.url}/run.zarr")
    server.fail("*run.zarr/residual/*", "404")
    with pytest.raises(StoreError, match="file of the shard is missing") as caught:
        train(store, tmp_path / "run", with_train(workers=1))
    assert "\n" not in str(caught.value)


def test_credentials_are_never_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LAST_START_S", 0.0)
    with FaultServer(folder) as started:
        host = started.url.removeprefix("http://")
        store = open_store(f"http://somebody:topsecret@{host}/a.zarr")
        shown = [repr(store), str(store.info.path), str(store.info)]
        started.fail("*", "403")
        with pytest.raises(StoreError) as caught:
            store[FRAMES[0]]
        for text in (*shown, str(caught.value), repr(caught.value.__cause__)):
            assert "topsecret" not in text
            assert "somebody" not in text
        monkeypatch.setenv("AWS_ENDPOINT_URL", started.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "topsecret")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "topsecret")
        with pytest.raises(StoreError, match=r"access is refused \(403\)") as caught:
            open_store("s3://bucket/a.zarr")
        assert "topsecret" not in str(caught.value)
    with pytest.raises(ConfigError, match="without") as refused:
        open_store("https://example.org/a.zarr?sig=topsecret")
    assert "topsecret" not in str(refused.value)


@pytest.mark.timeout(300)
def test_every_command_that_reads_a_store_takes_a_url(tmp_path: Path) -> None:
    write_synthetic_kitti(tmp_path / "data" / "kitti", train_frames=3, test_frames=1)
    succeed("precompute", "--teacher", "lidar", "--with-images", cwd=tmp_path)
    small = [
        "--steps", "3", "--no-pretrained", "--batch-size", "2", "--crop", "64x96", "--decoder-width", "0.125",
        "--set", "student.num_bins=33", "--sigma", "2.5", "--validate-frames", "0", "--images-from-store",
    ]  # fmt: skip
    with nginx(tmp_path / "stores") as server:
        url = f"{server.url}/lidar.zarr"
        succeed("distill", *small, "--store", url, "--workers", "2", "--run", "remote", cwd=tmp_path)
        succeed("distill", *small, "--store", "stores/lidar.zarr", "--workers", "0", "--run", "local", cwd=tmp_path)
        assert losses(tmp_path / "remote") == losses(tmp_path / "local")
        assert json.loads((tmp_path / "remote" / "run.json").read_text())["store"] == url
        succeed("distill", "--resume", "--run", "remote", cwd=tmp_path)
        split = ["--kitti", "data/kitti", "--run", "remote", "--json"]
        succeed("evaluate", *split, "--store", url, cwd=tmp_path)
        succeed("export-store", url, "--to", "hdf5", "--out", "lidar.h5", cwd=tmp_path)
        succeed("verify", url, cwd=tmp_path)
        shown = succeed("info", url, cwd=tmp_path)
        assert url in shown.out
    assert "Without the responses of the run's own store" in succeed("evaluate", *split, cwd=tmp_path).err
    wrong = tiekd("evaluate", *split, "--store", url, cwd=tmp_path)
    assert wrong.code == 1
    assert wrong.err.count("\n") <= 3
    assert "no connection" in wrong.err
