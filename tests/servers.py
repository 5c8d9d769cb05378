"""Servers on loopback that tests start and stop: S3 (moto), nginx, and an HTTP server that fails as it is told."""

from __future__ import annotations

import contextlib
import fnmatch
import html
import http.client
import importlib.util
import os
import re
import shutil
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest

HOST = "127.0.0.1"
STARTS_WITHIN_S = 60
SOON_S = 0.05
HUGE = 10**10

Kind = Literal[
    "404", "403", "500", "503", "less", "short", "reset", "lost", "never", "slow", "no range", "huge", "endless"
]


@dataclass(frozen=True)
class Server:
    """A server that is running.

    Attributes:
        url: where stores lie on it, without a slash at the end.
        environment: variables that a process needs to reach it.
        pid: its process.
    """

    url: str
    environment: dict[str, str] = field(default_factory=dict)
    pid: int = 0


@contextlib.contextmanager
def s3_server() -> Iterator[Server]:
    """S3 with one empty bucket, by moto in a process of its own; skips where moto is not installed."""
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
        pytest.skip("moto[server] is not installed")
    with tempfile.TemporaryFile("w+") as log:

        def port() -> int | None:
            log.seek(0)
            found = re.search(rf"Running on http://{HOST}:(\d+)", log.read())
            return int(found[1]) if found else None

        command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", HOST, "-p", "0"]
        with _running(command, log, port) as (number, pid):
            connection = http.client.HTTPConnection(HOST, number, timeout=STARTS_WITHIN_S)
            with contextlib.closing(connection):
                connection.request("PUT", "/tiekd")
                assert connection.getresponse().status == 200
            yield Server(
                "s3://tiekd/stores",
                {
                    "AWS_ENDPOINT_URL": f"http://{HOST}:{number}",
                    "AWS_ACCESS_KEY_ID": "test-key",
                    "AWS_SECRET_ACCESS_KEY": "test-secret",
                    "AWS_REGION": "us-east-1",
                    "AWS_ALLOW_HTTP": "true",
                },
                pid,
            )


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def nginx(folder: Path) -> Iterator[Server]:
    """nginx over a folder, read only, with its defaults; skips where it is not installed."""
    program = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if program is None:
        pytest.skip("nginx is not installed")
    with tempfile.TemporaryDirectory(prefix="tiekd-nginx-") as own:
        number = free_port()
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {own}/{kind};" for kind in kinds)
        user = "user root;" if os.getuid() == 0 else ""  # else its workers could not read a test's folder
        config = Path(own, "nginx.conf")
        config.write_text(
            f"{user} daemon off; worker_processes 1; pid {own}/pid; error_log stderr; events {{}}"
            f"http {{ access_log off; {temporary} server {{ listen {HOST}:{number}; root '{folder}'; }} }}"
        )

        def answers() -> int | None:
            with contextlib.suppress(ConnectionError), socket.create_connection((HOST, number)):
                return number
            return None

        with (
            tempfile.TemporaryFile("w+") as log,
            _running([program, "-p", own, "-e", "stderr", "-c", str(config)], log, answers),
        ):
            yield Server(f"http://{HOST}:{number}")


@contextlib.contextmanager
def _running(command: list[str], log: Any, port: Callable[[], int | None]) -> Iterator[tuple[int, int]]:
    """A server's (port, process), once `port` says where it listens; it is ended, with what it started."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        last = time.monotonic() + STARTS_WITHIN_S
        while (number := port()) is None:
            if process.poll() is not None or time.monotonic() > last:
                log.seek(0)
                raise AssertionError(f"{command} does not start:\n{log.read()}")
            time.sleep(SOON_S)
        yield number, process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass
class Fault:
    """What happens to requests of some files, instead of a right answer.

    Attributes:
        pattern: of paths below the server's folder, as in a shell; `*` includes slashes.
        kind: a status; "less" = half of the body as if it were whole; "short" = the connection closes after half;
            "reset" = it breaks before the answer; "lost" = it breaks after what was asked for is done; "never" = no
            answer; "slow" = `rate` bytes a second;
            "no range" = the whole file, with status 200; "huge" = it declares HUGE bytes and sends on until nobody
            listens; "endless" = the same, but declares the right length.
        after: requests for such files that are answered well first.
        times: requests that fail then; None = all.
        rate: bytes a second of "slow".
        method: of the requests: GET, HEAD, PUT, DELETE, or LIST for a bucket's listing; "*" = all.
    """

    pattern: str
    kind: Kind
    after: int = 0
    times: int | None = None
    rate: float = 100.0
    method: str = "*"
    seen: int = 0

    def hits(self, method: str, path: str) -> bool:
        """Whether it happens to this request; counts it."""
        if self.method not in ("*", method) or not fnmatch.fnmatchcase(path, self.pattern):
            return False
        self.seen += 1
        return self.seen > self.after and (self.times is None or self.seen <= self.after + self.times)


class FaultServer:
    """HTTP/1.1 with Range and connections that stay, over a folder, in threads that end with the `with` block.

    Its folders are buckets, too: of S3 it knows PUT, `If-None-Match: *`, deleting several, and listing in one piece.

    Attributes:
        url: as of `Server`.
        requests: (method, path, Range header or "") of each request so far.
        sent: bytes of answers without end.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[tuple[str, str, str]] = []
        self.sent = 0
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self.ending = threading.Event()

    def fail(self, pattern: str, kind: Kind, **options: Any) -> Fault:
        """From now on do this to requests of these files; the first fault that hits is the one that happens."""
        fault = Fault(pattern, kind, **options)
        with self._lock:
            self._faults.append(fault)
        return fault

    def mend(self) -> None:
        """From now on answer well."""
        with self._lock:
            self._faults.clear()

    def take(self, method: str, path: str, wanted: str) -> Fault | None:
        """Note a request; what happens to it."""
        with self._lock:
            self.requests.append((method, path, wanted))
            return next((fault for fault in self._faults if fault.hits(method, path)), None)

    def __enter__(self) -> FaultServer:
        self._server = _Listener(self)
        self.url = f"http://{HOST}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(SOON_S,), name="fault server")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self._server.shutdown()
        self._thread.join()
        self._server.end_connections()
        self._server.server_close()  # waits for the threads of the connections
        assert not self._server.errors, self._server.errors


class _Listener(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, owner: FaultServer) -> None:
        self.owner = owner
        self.errors: list[BaseException] = []
        self._open: set[socket.socket] = set()
        self.broken: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__((HOST, 0), _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # http.server would ask the name service who we are

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        if request in self.broken:
            self.close_request(request)  # at once, without the polite end before it
        else:
            super().shutdown_request(request)

    def end_connections(self) -> None:
        """Wake the threads that wait for another request."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError):
            self.errors.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(whole_body=False)

    def do_GET(self) -> None:
        self._answer(whole_body=True)

    def do_PUT(self) -> None:
        self._answer(whole_body=True)

    def do_POST(self) -> None:
        self._answer(whole_body=True)

    def _answer(self, whole_body: bool) -> None:
        owner = self.server.owner
        parts = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(parts.path).strip("/")
        asked = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        method = "LIST" if "list-type" in asked else "DELETE" if "delete" in asked else self.command
        wanted = self.headers.get("Range", "")
        fault = owner.take(method, path, wanted)
        kind = fault.kind if fault else ""
        if kind == "never":
            owner.ending.wait()
        if kind in ("never", "reset"):
            self._break()
            return
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if kind.isdigit():
            self._send(int(kind), b"", {}, whole_body)
        elif method == "LIST":
            self._send_listing(owner.folder / path, asked.get("prefix", ""))
        elif method in ("PUT", "DELETE"):
            status, said = self._change(owner.folder / path, sent)
            if kind == "lost":
                self._break()
            else:
                self._send(status, said, {"ETag": '"written"'}, whole_body)
        else:
            self._send_file(owner.folder / path, wanted, fault, whole_body)

    def _change(self, file: Path, sent: bytes) -> tuple[int, bytes]:
        """Write a file, or remove those that a request to a bucket names; the status and body that say so."""
        if self.command == "POST":
            keys = re.findall("<Key>.*?</Key>", sent.decode())
            for key in keys:
                (file / html.unescape(key[5:-6])).unlink(missing_ok=True)
            deleted = "".join(f"<Deleted>{key}</Deleted>" for key in keys)
            return 200, f"<DeleteResult>{deleted}</DeleteResult>".encode()
        if self.headers.get("If-None-Match") == "*" and file.exists():
            return 412, b""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(sent)
        return 200, b""

    def _send_listing(self, bucket: Path, prefix: str) -> None:
        if not bucket.is_dir():
            self._send(404, b"", {}, True)
            return
        keys = {path.relative_to(bucket).as_posix(): path for path in bucket.rglob("*") if path.is_file()}
        entries = "".join(
            f"<Contents><Key>{html.escape(key)}</Key><Size>{keys[key].stat().st_size}</Size>"
            "<LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
            for key in sorted(keys)
            if key.startswith(prefix)
        )
        text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
        self._send(200, text.encode(), {"Content-Type": "application/xml"}, True)

    def _send_file(self, file: Path, wanted: str, fault: Fault | None, whole_body: bool) -> None:
        if not file.is_file() or not file.resolve().is_relative_to(self.server.owner.folder.resolve()):
            self._send(404, b"", {}, whole_body)
            return
        data, status = file.read_bytes(), 200
        headers = {
            "Last-Modified": formatdate(file.stat().st_mtime, usegmt=True),
            "ETag": f'"{file.stat().st_mtime_ns:x}-{len(data):x}"',
        }
        if fault is None or fault.kind != "no range":
            headers["Accept-Ranges"] = "bytes"
            if found := re.fullmatch(r"bytes=(\d*)-(\d*)", wanted):
                first, last = _asked(found[1], found[2], len(data))
                if first > last:
                    self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"}, whole_body)
                    return
                status, headers["Content-Range"] = 206, f"bytes {first}-{last}/{len(data)}"
                data = data[first : last + 1]
        self._send(status, data, headers, whole_body, fault)

    def _send(
        self, status: int, data: bytes, headers: dict[str, str], whole_body: bool, fault: Fault | None = None
    ) -> None:
        kind = fault.kind if fault else ""
        declared = len(data) // 2 if kind == "less" else HUGE if kind == "huge" else len(data)
        if kind == "endless":
            headers = {**headers, "Transfer-Encoding": "chunked"}
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(declared)}.items():
            self.send_header(name, value)
        self.end_headers()
        if not whole_body:
            return
        if kind in ("huge", "endless"):
            self._send_on(kind == "endless")
            return
        if kind in ("less", "short"):
            data = data[: len(data) // 2]
            self.close_connection = kind == "short"
        if fault is None or fault.kind != "slow":
            self.wfile.write(data)
            return
        piece = max(1, int(fault.rate / 10))
        for start in range(0, len(data), piece):
            self.wfile.write(data[start : start + piece])
            if self.server.owner.ending.wait(piece / fault.rate):
                self._break()
                return

    def _send_on(self, chunked: bool) -> None:
        block = bytes(1 << 20)
        with contextlib.suppress(ConnectionError):
            while not self.server.owner.ending.is_set():
                self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if chunked else block)
                self.server.owner.sent += len(block)
        self.close_connection = True

    def _break(self) -> None:
        """End the connection with a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.server.broken.add(self.connection)
        self.close_connection = True


def _asked(first: str, last: str, size: int) -> tuple[int, int]:
    """The bytes of a Range header, first and last included; empty where first > last."""
    if not first:
        return max(0, size - int(last or 0)), size - 1
    return int(first), min(int(last or size), size - 1)
