"""A bucket as a catalogue, one that does not answer, and a web server, which cannot be one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from remote_helpers import bucket_of
from servers import FaultServer
from store_helpers import build_schema, frame_list, make_store

from tiekd_cache.cli.catalogue import choose_stores, refuse_made_already
from tiekd_cache.errors import ConfigError, SharedError
from tiekd_cache.store import open_store
from tiekd_cache.store_list import is_catalogue, list_stores
from tiekd_cache.store_page import store_page

pytest.importorskip("obstore")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    make_store(folder / "a.zarr")
    make_store(folder / "team" / "rooms.zarr", dataset={"name": "nyu", "split": "labelled"})
    return folder


@pytest.fixture(scope="module")
def bucket(folder: Path) -> Iterator[str]:
    with bucket_of(folder) as url:
        yield url


def test_a_bucket_is_a_catalogue(folder: Path, bucket: str) -> None:
    stores, here = list_stores(bucket), list_stores(folder)
    assert [(s.name, s.num_bytes, s.schema, s.frames_done) for s in stores] == [
        (s.name, s.num_bytes, s.schema, s.frames_done) for s in here
    ]
    assert stores[1].place == f"{bucket}/team/rooms.zarr"
    assert store_page(bucket, stores, thumbnails=2).count("<img") == 4
    assert is_catalogue(bucket)
    assert not is_catalogue(f"{bucket}/a.zarr")
    nothing = {"kitti": None, "nyu": None, "images": None}
    chosen = choose_stores([bucket], ["formula"], nothing | {"nyu": "x"}, any_data=False, partial=False)
    assert chosen == (f"{bucket}/team/rooms.zarr",)
    assert len(open_store(chosen[0])) == 10
    with pytest.raises(SharedError, match=f"tiekd-cache pull {bucket}/a.zarr mine.zarr"):
        refuse_made_already(bucket, "mine.zarr")(build_schema(frame_list(10)))


def test_a_catalogue_that_does_not_answer_is_one_warning_within_a_minute(
    bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    started = time.monotonic()
    refuse_made_already(bucket, "mine.zarr")(build_schema(frame_list(10)))
    assert time.monotonic() - started < 60
    said = capsys.readouterr().err
    assert said.startswith("Warning: the catalogue cannot be read")
    assert said.count("\n") == 1


def test_a_web_server_is_no_catalogue_but_its_stores_are_stores(folder: Path) -> None:
    with FaultServer(folder) as server:
        with pytest.raises(ConfigError, match="cannot be listed"):
            list_stores(server.url)
        assert not is_catalogue(server.url)
        assert not is_catalogue(f"{server.url}/a.zarr")
