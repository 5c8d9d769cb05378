"""Writing to a bucket and listing it, whatever its server does: done once, or one clear error soon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from remote_helpers import check_error, failing_bucket
from servers import FaultServer

from tiekd_cache.store import remote
from tiekd_cache.store.objects import Objects, RefusedError, RemoteError, open_objects

pytest.importorskip("obstore")

URL = "s3://bucket/a.zarr"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """A server with an empty bucket, which is asked again at once."""
    monkeypatch.setattr(remote, "PAUSE_S", 0.001)
    with failing_bucket(tmp_path) as started:
        yield started


@pytest.mark.parametrize(("kind", "times"), [("500", 2), ("503", 2), ("reset", 2), ("lost", 1)])
def test_a_fault_that_passes_changes_nothing(server: FaultServer, kind: Any, times: int) -> None:
    objects = open_objects(URL)
    server.fail("*", kind, times=times, method="PUT")
    assert objects.put("done/0", b"first", if_absent=True)
    assert not objects.put("done/0", b"second", if_absent=True)
    assert objects.get("done/0") == b"first"
    if kind != "lost":
        server.fail("*", kind, times=times, method="LIST")
    assert objects.list("done") == [("done/0", 5)]
    server.fail("*", kind, times=times, method="DELETE")
    objects.delete("done/0")
    assert objects.list() == []


@pytest.mark.parametrize("kind", ["500", "reset", "403"])
def test_a_fault_that_stays_is_one_error(server: FaultServer, kind: Any) -> None:
    objects = open_objects(URL)
    server.fail("*", kind)
    said = []
    for act in (lambda: objects.put("done/0", b"x"), objects.list, lambda: objects.delete("done/0")):
        with pytest.raises(RefusedError if kind == "403" else RemoteError) as caught:
            act()
        check_error(str(caught.value), URL)
        said.append(str(caught.value).partition(" cannot be ")[2].partition(":")[0])
    assert said == ["written", "listed", "removed"]


@pytest.fixture
def impatient(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> FaultServer:
    """The server; every object is a large one, a second is long, and no request is made again after it."""
    monkeypatch.setattr(remote, "REQUEST_S", 1.0)
    monkeypatch.setattr(remote, "LAST_START_S", 0.0)
    monkeypatch.setattr(remote, "LARGE_PUT_S", 0.2)
    return server


def opened(server: FaultServer) -> Objects:
    """The place in the bucket, which has answered before."""
    objects = open_objects(URL)
    assert objects.list() == []
    server.requests.clear()
    return objects


def methods(server: FaultServer) -> list[str]:
    """What was asked of the server since the last call."""
    asked = [method for method, _, _ in server.requests]
    server.requests.clear()
    return asked


def test_much_is_not_sent_to_a_server_that_does_not_answer(
    impatient: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = opened(impatient)
    monkeypatch.setattr(remote, "REQUEST_S", 0.3)
    impatient.fail("*", "never")
    with pytest.raises(RemoteError, match="no whole answer in time"):
        objects.put("shard", b"x")
    assert methods(impatient) == ["HEAD"]


@pytest.mark.slow
def test_a_server_that_answers_meanwhile_is_given_the_time_that_a_slow_line_takes(impatient: FaultServer) -> None:
    objects = opened(impatient)
    impatient.fail("*", "never", times=1, method="PUT")
    assert objects.put("shard", b"x", if_absent=True)
    assert methods(impatient) == ["HEAD", "PUT", "HEAD", "PUT"]
    impatient.fail("*", "never", method="PUT")
    with pytest.raises(RemoteError, match="were not taken within 2 s"):
        objects.put("shard", b"x")
    assert methods(impatient) == ["HEAD", "PUT"]  # it is known now that the line is slow


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("after", [0, 1])
def test_a_silent_server_is_one_error_within_a_minute(tmp_path: Path, after: int) -> None:
    with failing_bucket(tmp_path) as server:
        objects = opened(server)
        server.fail("*", "never", after=after)
        started = time.monotonic()
        with pytest.raises(RemoteError, match="no whole answer in time"):
            objects.put("shard", bytes(47_000_000))
        assert methods(server) == (["HEAD", "PUT", "HEAD"] if after else ["HEAD"] * 3)
        for tidy_up in (objects.list, lambda: objects.delete("claims/0")):
            with pytest.raises(RemoteError, match="no whole answer in time"):
                tidy_up()
        assert time.monotonic() - started < 60.0
