"""The servers that other tests rely on do what they are told, and leave nothing behind."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
import urllib.parse
from pathlib import Path

import pytest
from servers import FaultServer, nginx, s3_server

BODY = bytes(range(200))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shared" / "a").mkdir(parents=True)
    (tmp_path / "shared" / "a" / "b c.bin").write_bytes(BODY)
    (tmp_path / "secret").write_bytes(b"outside")
    return tmp_path / "shared"


def ask(
    url: str, path: str, wanted: str = "", method: str = "GET", data: bytes | None = None, timeout: float = 20
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one request on a connection of its own."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=timeout)
    with contextlib.closing(connection):
        connection.request(method, path, data, {"Range": wanted} if wanted else {})
        answer = connection.getresponse()
        with answer:
            return answer.status, dict(answer.getheaders()), answer.read()


def check_ranges(url: str, path: str) -> None:
    assert ask(url, path)[::2] == (200, BODY)
    for wanted, expected in (("0-9", BODY[:10]), ("190-500", BODY[190:]), ("-7", BODY[-7:]), ("50-", BODY[50:])):
        status, headers, body = ask(url, path, f"bytes={wanted}")
        assert (status, body) == (206, expected)
        assert headers["Content-Range"].endswith("/200")
    assert ask(url, path, "bytes=200-300")[0] == 416
    assert ask(url, "/nothing")[0] == 404
    status, headers, body = ask(url, path, method="HEAD")
    assert (status, headers["Content-Length"], body) == (200, "200", b"")


def test_files_and_ranges_are_served_and_no_thread_stays(folder: Path) -> None:
    before = set(threading.enumerate())
    with contextlib.ExitStack() as stays_open:
        with FaultServer(folder) as server:
            idle = http.client.HTTPConnection(urllib.parse.urlsplit(server.url).netloc, timeout=20)
            stays_open.callback(idle.close)
            for _ in range(2):  # the same connection twice
                idle.request("GET", "/a/b%20c.bin")
                assert idle.getresponse().read() == BODY
            check_ranges(server.url, "/a/b%20c.bin")
            assert ask(server.url, "/../secret")[0] == 404
            assert server.requests[:2] == [("GET", "a/b c.bin", "")] * 2
            assert ("GET", "a/b c.bin", "bytes=-7") in server.requests
            assert not set(threading.enumerate()) <= before
        assert set(threading.enumerate()) <= before


def test_each_fault_happens_when_and_where_it_is_told(folder: Path) -> None:
    (folder / "other").write_bytes(b"well")
    path = "/a/b%20c.bin"
    with FaultServer(folder) as server:
        for status in ("404", "403", "500"):
            server.fail("a/*", status)
            assert ask(server.url, path)[0] == int(status)
            assert ask(server.url, "/other")[2] == b"well"
            server.mend()
            assert ask(server.url, path)[2] == BODY
        server.fail("*", "503", after=1, times=2)
        assert [ask(server.url, path)[0] for _ in range(4)] == [200, 503, 503, 200]
        server.mend()
        server.fail("*", "less")
        assert ask(server.url, path, "bytes=0-99")[::2] == (206, BODY[:50])
        server.mend()
        server.fail("*", "short")
        with pytest.raises(http.client.IncompleteRead):
            ask(server.url, path)
        server.mend()
        server.fail("*", "reset")
        with pytest.raises(ConnectionResetError):
            ask(server.url, path)
        server.mend()
        server.fail("*", "no range")
        status, headers, body = ask(server.url, path, "bytes=0-9")
        assert (status, body, "Content-Range" in headers) == (200, BODY, False)


def test_a_server_that_is_slow_or_silent_still_ends(folder: Path) -> None:
    path = "/a/b%20c.bin"
    with FaultServer(folder) as server:
        server.fail("*", "slow", rate=500)
        started = time.monotonic()
        assert ask(server.url, path)[2] == BODY
        assert time.monotonic() - started >= 0.2
        server.mend()
        server.fail("*", "never")
        with pytest.raises(TimeoutError):
            ask(server.url, path, timeout=0.2)


@pytest.mark.slow
def test_nginx_serves_a_folder(folder: Path) -> None:
    with nginx(folder) as server:
        check_ranges(server.url, "/a/b%20c.bin")
    with pytest.raises(ConnectionRefusedError):
        ask(server.url, "/")


@pytest.mark.slow
def test_s3_keeps_what_is_put_there(monkeypatch: pytest.MonkeyPatch) -> None:
    obstore = pytest.importorskip("obstore")
    from obstore.store import from_url

    with s3_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        objects = from_url(server.url)
        obstore.put(objects, "a/b c.bin", BODY)
        assert bytes(obstore.get(objects, "a/b c.bin").bytes()) == BODY
        assert bytes(obstore.get_range(objects, "a/b c.bin", start=3, end=6)) == BODY[3:6]
        with pytest.raises(obstore.exceptions.AlreadyExistsError):
            obstore.put(objects, "a/b c.bin", b"", mode="create")
    with pytest.raises(ConnectionRefusedError):
        ask(server.environment["AWS_ENDPOINT_URL"], "/")
