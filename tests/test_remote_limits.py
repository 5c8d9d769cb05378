"""Whatever a server declares or sends, no more memory is taken than what is asked for can have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import FaultServer
from store_helpers import frame_list, make_store

from tiekd_cache.errors import StoreError
from tiekd_cache.sharing import copy_store
from tiekd_cache.store import open_store, remote
from tiekd_cache.store.cache import CachedObjects
from tiekd_cache.store.objects import FolderObjects, OversizedObject, RemoteError, open_objects

pytest.importorskip("obstore")

MOST_SENT = 64 << 20
"""Bytes that the buffers of both ends may hold before a connection is closed."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the store `a.zarr`."""
    make_store(tmp_path / "served" / "a.zarr")
    return tmp_path / "served"


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """A server with that folder, and little patience for it."""
    monkeypatch.setattr(remote, "REQUEST_S", 2.0)
    monkeypatch.setattr(remote, "LAST_START_S", 1.0)
    with FaultServer(folder) as started:
        yield started


@pytest.mark.parametrize("kind", ["huge", "endless"])
def test_no_more_is_taken_than_asked_for(server: FaultServer, folder: Path, kind: Any) -> None:
    objects = open_objects(f"{server.url}/a.zarr")
    key = "residual/c/0/0/0"
    data = (folder / "a.zarr" / key).read_bytes()
    assert objects.get(key, len(data)) == data
    assert objects.get_range(key, 3, 20) == data[3:23]
    with pytest.raises(OversizedObject, match=f"it has {len(data)} bytes, and may have {len(data) - 1}"):
        objects.get(key, len(data) - 1)
    server.fail("*", kind)
    for read in (lambda: objects.get(key), lambda: objects.get_range(key, 3, 20)):
        with pytest.raises(StoreError, match=r"is not read: (it has 10000000000 bytes|the server sends more)"):
            read()
    assert server.sent < 2 * MOST_SENT


def test_a_server_that_was_given_up_is_asked_once_until_it_answers(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "LAST_START_S", 60.0)
    monkeypatch.setattr(remote, "PAUSE_S", 0.001)
    objects = open_objects(f"{server.url}/a.zarr")

    def requests_until_given_up() -> int:
        fault = server.fail("*", "500")
        with pytest.raises(RemoteError, match="the server answers 500"):
            objects.get("zarr.json")
        server.mend()
        return fault.seen

    assert [requests_until_given_up() for _ in range(3)] == [remote.ATTEMPTS, 1, 1]
    objects.get("zarr.json")
    assert requests_until_given_up() == remote.ATTEMPTS


PARTS = (
    *("zarr.json", "frame_id/c/0", "done/00001.json", "residual/c/1/0/0"),
    *("images/zarr.json", "statistics/00001.json"),
)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", ["huge", pytest.param("endless", marks=pytest.mark.slow)])
def test_every_reader_of_a_store_stops(server: FaultServer, tmp_path: Path, part: str, kind: Any) -> None:
    file = server.folder / "a.zarr" / part
    file.parent.mkdir(exist_ok=True)
    file.touch()
    url = f"{server.url}/a.zarr"
    server.fail(f"*/{part}", kind)
    for place in (url, CachedObjects(open_objects(url), tmp_path / "cache")):
        if part in PARTS[-2:]:  # whoever reads responses needs neither
            assert len(open_store(place).read(frame_list(10))) == 10
        else:
            with pytest.raises(StoreError):
                open_store(place).read(frame_list(10))
    target = FolderObjects(tmp_path / "b.zarr")
    if part == PARTS[-1]:
        assert "statistics of shard 1" in copy_store(open_objects(url), target).notes[0]
    else:
        with pytest.raises(StoreError):
            copy_store(open_objects(url), target)
    assert server.sent < 16 * MOST_SENT


def test_a_listing_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import obstore

    def endless(*_: Any, **__: Any) -> Iterator[list[dict[str, Any]]]:
        while True:
            yield [{"path": "a", "size": 1}] * 1000

    monkeypatch.setattr(obstore, "list", endless)
    monkeypatch.setattr(remote, "MOST_LISTED", 5000)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(RemoteError, match="lists more than 5000 objects"):
        open_objects("s3://bucket/stores").list()
