"""Push to a bucket, pull from a bucket, a web server and a zip file: the same bytes everywhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from e2e.command_line import fail, succeed
from servers import nginx, s3_server
from store_helpers import depth_maps, files_of, frame_list, make_store, open_writer

from tiekd_cache.store import open_store


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a.zarr."""
    make_store(tmp_path / "a.zarr")
    return tmp_path


@pytest.mark.slow
def test_there_and_back_by_a_bucket(home: Path) -> None:
    pytest.importorskip("obstore")
    with s3_server() as server:
        url = f"{server.url}/team/a.zarr"
        half = open_writer(home / "half.zarr")
        half.write_shard(1, depth_maps(10)[4:8])
        first = succeed("push", "half.zarr", url, "--json", cwd=home, **server.environment).json
        assert (first["frames"], first["shards_copied"]) == (4, 1)
        said = succeed("push", "a.zarr", url, "--json", cwd=home, **server.environment).json
        assert (said["frames"], said["shards_copied"], said["shards_there_before"]) == (10, 2, 1)
        succeed("pull", url, "b.zarr", cwd=home, **server.environment)
        make_store(home / "other.zarr", max_depth=100.0)
        refused = fail("push", "other.zarr", url, cwd=home, **server.environment)
        assert "differ in depth.max (80.0, now 100.0)" in refused
        succeed("merge", "half.zarr", url, "--into", "c.zarr", cwd=home, **server.environment)
        assert "There is no store at" in fail("pull", f"{url}x", "d.zarr", cwd=home, **server.environment)
    for name in ("b.zarr", "c.zarr"):
        store, whole = open_store(home / name), open_store(home / "a.zarr")
        assert store.read(store.frame_ids).tobytes() == whole.read(store.frame_ids).tobytes()
        assert succeed("verify", name, "--json", cwd=home).json["problems"] == []


@pytest.mark.slow
def test_from_a_web_server_that_cannot_be_listed(home: Path) -> None:
    pytest.importorskip("obstore")
    with nginx(home) as server:
        (home / "ids.txt").write_text(frame_list(10)[9])
        part = succeed("pull", f"{server.url}/a.zarr", "b.zarr", "--frames", "ids.txt", "--json", cwd=home).json
        assert part["frames"] == 2
        succeed("pull", f"{server.url}/a.zarr", "b.zarr", cwd=home)
        assert files_of(home / "b.zarr") == files_of(home / "a.zarr")
        assert "can only be read" in fail("push", "a.zarr", f"{server.url}/c.zarr", cwd=home)
        (home / "a.zarr" / "residual" / "c" / "1" / "0" / "0").unlink()
        assert "residual/c/1/0/0" in fail("pull", f"{server.url}/a.zarr", "c.zarr", cwd=home)


def test_from_a_zip_file(home: Path) -> None:
    shutil.make_archive(str(home / "a.zarr"), "zip", home / "a.zarr")
    succeed("pull", "a.zarr.zip", "b.zarr", cwd=home)
    assert files_of(home / "b.zarr") == files_of(home / "a.zarr")
    (home / "a.zarr" / "done" / "00001.json").unlink()
    shutil.make_archive(str(home / "part"), "zip", home / "a.zarr")
    assert "part.zip" in fail("push", "b.zarr", "part.zip", cwd=home)
    assert "none.zip" in fail("push", "b.zarr", "none.zip", cwd=home)
