"""The cache in front of a web server: faults, workers, the command line, and a second run without the server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fakes import FormulaTeacher, MemoryFrames
from remote_helpers import bucket_of
from servers import FaultServer
from store_helpers import frame_list, make_store
from test_distill import losses, train, with_train

from tiekd_cache.cli import main
from tiekd_cache.errors import StoreError
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.store import open_store, remote

pytest.importorskip("obstore")
pytestmark = pytest.mark.slow

FRAMES = frame_list(10)
SHARDS = [f"a.zarr/residual/c/{shard}/0/0" for shard in range(3)]
SMALL = [
    "--steps", "3", "--no-pretrained", "--batch-size", "2", "--crop", "32x64", "--decoder-width", "0.125", "--set",
    "student.num_bins=33", "--sigma", "2.5", "--validate-frames", "0", "--workers", "0", "--images-from-store",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two stores: `a.zarr`, and `run.zarr` with images to train from."""
    path = tmp_path_factory.mktemp("served")
    make_store(path / "a.zarr")
    precompute(FormulaTeacher(), MemoryFrames(6), path / "run.zarr", PrecomputeConfig(shard_frames=4, with_images=True))
    return path


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["no range", "503", "reset", "short"])
def test_a_fault_on_the_way_does_no_harm(folder: Path, tmp_path: Path, kind: str) -> None:
    with FaultServer(folder) as server:
        server.fail("*/residual/c/*", kind, times=None if kind == "no range" else 2)  # type: ignore[arg-type]
        store = open_store(f"{server.url}/a.zarr", cache_dir=tmp_path)
        expected = open_store(folder / "a.zarr").read(FRAMES)
        assert np.array_equal(store.read(FRAMES), expected)
        before = len(server.requests)
        assert np.array_equal(store.read(FRAMES), expected)
        assert len(server.requests) == before


@pytest.mark.timeout(120)
def test_a_shard_that_is_gone_is_one_error(folder: Path, tmp_path: Path) -> None:
    with FaultServer(folder) as server:
        server.fail(SHARDS[1], "404")
        store = open_store(f"{server.url}/a.zarr", cache_dir=tmp_path)
        with pytest.raises(StoreError, match=r"file of the shard is missing .*/residual/c/1/0/0") as caught:
            store[FRAMES[5]]
        assert "\n" not in str(caught.value)
        assert store[FRAMES[0]].any()


@pytest.mark.timeout(170)
def test_two_workers_fetch_each_shard_once_and_train_to_the_same_losses(folder: Path, tmp_path: Path) -> None:
    expected = train(open_store(folder / "run.zarr"), tmp_path / "local", with_train(steps=9))
    with FaultServer(folder) as server:
        store = open_store(f"{server.url}/run.zarr", cache_dir=tmp_path / "cache")
        assert train(store, tmp_path / "run", with_train(steps=9, workers=2)) == expected
        fetched = [path for method, path, _ in server.requests if method == "GET" and "/residual/" in path]
        assert sorted(fetched) == [f"run.zarr/residual/c/{shard}/0/0" for shard in range(2)]


@pytest.mark.timeout(170)
def test_the_command_line_and_a_second_run_without_the_server(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PAUSE_S", 0.01)
    monkeypatch.setenv("TIEKD_CACHE_DIR", str(tmp_path / "cache"))

    def distill(url: str, name: str) -> list[float]:
        arguments = ["distill", "--store", url, *SMALL, "--run", str(tmp_path / name)]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.stderr
        return losses(tmp_path / name)

    with FaultServer(folder) as server:
        url = f"{server.url}/run.zarr"
        values = distill(url, "first")
        assert any("/images/image/" in path for _, path, _ in server.requests)
    assert distill(url, "second") == values == distill(str(folder / "run.zarr"), "local")
    assert json.loads((tmp_path / "second" / "run.json").read_text())["store"] == url
    alone = CliRunner().invoke(main, ["distill", "--store", url, *SMALL, "--cache-dir", str(tmp_path / "new")])
    assert alone.exit_code == 1
    assert "no connection" in alone.stderr
    assert alone.stderr.count("\n") == 1


@pytest.mark.timeout(170)
def test_distill_from_a_bucket_that_does_not_answer_any_more(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PAUSE_S", 0.01)
    with bucket_of(folder) as bucket:
        arguments = ["distill", "--store", f"{bucket}/run.zarr", *SMALL, "--cache-dir", str(tmp_path / "cache")]
        for name in ("first", "second"):
            result = CliRunner().invoke(main, [*arguments, "--run", str(tmp_path / name)])
            assert result.exit_code == 0, result.stderr
            monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert losses(tmp_path / "second") == losses(tmp_path / "first")
