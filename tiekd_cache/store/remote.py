"""Objects in a bucket (`s3://`, `gs://`, `az://`) or behind a web server (`http://`, `https://`), through obstore.

Every request has a time limit and is made again, with growing pauses, where the server or the line failed; one call
waits a minute at most for something that does not come. Messages name the URL without credentials and never repeat
what a server said: that may hold some. obstore's threads do not survive a fork, so that a forked child that would go
on with it would wait for ever: it gets an error instead.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import time
from collections.abc import Callable
from typing import Any, Literal, NoReturn, TypeVar
from urllib.parse import urlsplit

from tiekd_cache.errors import ConfigError
from tiekd_cache.store.objects import MissingObject, RemoteError, check_key
from tiekd_cache.store.remote_client import import_obstore, make_client

T = TypeVar("T")

REQUEST_S = 10.0
"""Seconds without a byte after which a request has failed."""

SLOWEST_BYTES_PER_S = 250_000.0
"""A slower line is taken for one that hangs."""

LAST_START_S = 25.0
"""Seconds after the first request at which another may still start."""

ATTEMPTS = 7
PAUSE_S = 0.2
"""Before the second request; twice that before the third, and so on: 13 seconds of a server that is down."""

_FIRST_PID: list[int] = []
"""The process in which obstore was first used; its threads run there and nowhere else."""


class RemoteObjects:
    """The objects below a URL. Opens its connections at the first request, in each process; threads share it.

    Pickled, it is its URL.

    Args:
        place: `s3://bucket/folder`, `gs://…`, `az://container/folder`, `http://…` or `https://…`.
    Raises:
        ConfigError: it is no such URL, or obstore is not installed.
    """

    def __init__(self, place: str) -> None:
        try:
            parts = urlsplit(place)
            host, port = parts.hostname or "", f":{parts.port}" if parts.port else ""
        except ValueError:
            raise ConfigError(f"{_shown(place)} is no URL that can be read: name SCHEME://HOST/FOLDER") from None
        self.url = f"{parts.scheme}://{host}{port}{parts.path}".rstrip("/")
        if not host or parts.query or parts.fragment:
            raise ConfigError(
                f"{self.url}: the URL of a store is that of a folder, SCHEME://HOST/FOLDER, without ? and #. Where"
                " access needs a key, set it in the environment."
            )
        import_obstore(self.url)
        self._place = place.rstrip("/")
        self._scheme = parts.scheme
        self._clients: dict[tuple[float, bool], Any] = {}

    def __reduce__(self) -> tuple[type[RemoteObjects], tuple[str]]:
        return RemoteObjects, (self._place,)

    def get(self, key: str) -> bytes:
        """See Objects."""
        import obstore

        def request() -> bytes:
            # How long it may take follows from its size, which the answer tells first.
            result = obstore.get(self._client(24 * 3600.0), key)
            total, started, data = result.meta["size"], time.monotonic(), bytearray()
            for part in result.stream(min_chunk_size=1):
                data += part
                if time.monotonic() - started > REQUEST_S + len(data) / SLOWEST_BYTES_PER_S:
                    raise TimeoutError
            if len(data) != total:
                raise ConnectionError
            return bytes(data)

        return self._ask(key, request)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See Objects."""
        import obstore

        if not length:
            return b""
        client = self._client(_allowed(length))
        data = self._ask(key, lambda: bytes(obstore.get_range(client, key, start=start, length=length)))
        if len(data) != length:
            raise RemoteError(
                f"{self.url}/{key} is truncated: {len(data)} of {length} bytes at {start}. Push the store there again."
            )
        return data

    def size(self, key: str) -> int:
        """See Objects."""
        import obstore

        return int(self._ask(key, lambda: obstore.head(self._client(_allowed(0)), key)["size"]))

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        """See Objects."""
        import obstore

        if self._scheme in ("http", "https"):
            raise ConfigError(
                f"{self.url} cannot be listed: a plain web server does not say what it has. Name one store's own URL."
            )
        folder = prefix.strip("/")
        client = self._client(_allowed(0))
        found = self._ask(folder, lambda: obstore.list(client, folder or None).collect())
        return sorted((str(item["path"]), int(item["size"])) for item in found)

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """See Objects."""
        import obstore
        from obstore import exceptions

        self._refuse_to_write()
        client = self._client(_allowed(len(data)), writing=True)
        mode: Literal["create", "overwrite"] = "create" if if_absent else "overwrite"
        requests = itertools.count()

        def request() -> bool:
            again = next(requests) > 0
            try:
                obstore.put(client, key, data, mode=mode, use_multipart=False)
            except exceptions.AlreadyExistsError:
                # Where an answer got lost on the way, what is there may be what the request before this one put.
                return again and self.get(key) == data
            return True

        return self._ask(key, request)

    def delete(self, key: str) -> None:
        """See Objects."""
        import obstore

        self._refuse_to_write()
        with contextlib.suppress(MissingObject):
            self._ask(key, lambda: obstore.delete(self._client(_allowed(0), writing=True), key))

    def _refuse_to_write(self) -> None:
        if self._scheme in ("http", "https"):
            raise ConfigError(
                f"{self.url} is a web server: stores behind one are read only. Write to the folder itself."
            )

    def _client(self, seconds: float, *, writing: bool = False) -> Any:
        """What makes requests of at most so many seconds, in this process."""
        if not _FIRST_PID:
            _FIRST_PID.append(os.getpid())
        if _FIRST_PID[0] != os.getpid():
            raise RemoteError(
                f"{self.url} cannot be read in a process forked from one that has read over the network: it would"
                " wait for ever. Start the processes with multiprocessing's 'spawn' (DataLoader:"
                " multiprocessing_context='spawn')."
            )
        if (seconds, writing) not in self._clients:
            # While much is sent nothing is received, which is no sign of a dead line.
            silence = seconds if writing else min(seconds, REQUEST_S)
            self._clients[seconds, writing] = make_client(self._place, self.url, seconds, silence)
        return self._clients[seconds, writing]

    def _ask(self, key: str, request: Callable[[], T]) -> T:
        """The answer to a request that is made again until it comes, or no hope is left."""
        if key:
            check_key(key)
        from obstore.exceptions import BaseError

        started = time.monotonic()
        for attempt in range(ATTEMPTS):
            try:
                return request()
            except FileNotFoundError:
                raise MissingObject(f"There is no {self.url}/{key}") from None
            except (BaseError, OSError, ValueError) as error:
                pause = PAUSE_S * 2**attempt * random.uniform(0.75, 1.25)
                late = time.monotonic() - started + pause > LAST_START_S
                if late or attempt == ATTEMPTS - 1 or not _may_pass(error):
                    self._give_up(key, error, attempt + 1, time.monotonic() - started)
            time.sleep(pause)
        raise AssertionError("the last attempt has returned or raised")

    def _give_up(self, key: str, error: Exception, attempts: int, seconds: float) -> NoReturn:
        tried = f" ({attempts} requests in {seconds:.0f} s)" if attempts > 1 else ""
        raise RemoteError(f"{self.url}/{key} cannot be had: {_reason(error, self._scheme)}{tried}") from None


def _shown(place: str) -> str:
    return place.partition("://")[0] + "://…"


def _allowed(length: int) -> float:
    """Seconds that a request for so many bytes may take: few different numbers, each has connections of its own."""
    allowed = REQUEST_S
    while allowed < REQUEST_S + length / SLOWEST_BYTES_PER_S:
        allowed *= 1.5
    return allowed


def _status(error: Exception) -> int | None:
    found = re.search(r"status code: (\d{3})", str(error))
    return int(found[1]) if found else None


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    from obstore import exceptions

    if isinstance(error, ValueError | exceptions.NotSupportedError | exceptions.PermissionDeniedError):
        return False
    if isinstance(error, exceptions.UnauthenticatedError | exceptions.InvalidPathError):
        return False
    status = _status(error)
    return status is None or status >= 500 or status in (408, 429)


def _reason(error: Exception, scheme: str) -> str:
    """What went wrong and what to do, in words of our own: those of the server may hold credentials."""
    from obstore import exceptions

    text, status = str(error), _status(error)
    refused = isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError)
    if isinstance(error, exceptions.NotSupportedError):
        return (
            "the server ignores Range requests, so that one frame cannot be read alone. Serve the folder with nginx or"
            " another server that knows Range, or pull the store to a folder first"
        )
    if refused or status in (401, 403):
        said = f"access is refused ({status or 'no permission'}). "
        return said + _ACCESS.get(scheme, "Ask whoever runs the server for access")
    if status == 404 and scheme not in ("http", "https"):
        return (
            "there is no such bucket. Check its name, or make it; AWS_ENDPOINT_URL names a server other than Amazon's"
        )
    if status is not None:
        return f"the server answers {status}. Try again later, or ask whoever runs it"
    if "redirect without LOCATION" in text:
        return "the bucket is in another region. Set AWS_REGION"
    if "169.254.169.254" in text or "metadata.google" in text:
        return f"no credentials are found. {_ACCESS.get(scheme, '')}"
    if isinstance(error, TimeoutError) or "TimedOut" in text or "kind: Timeout" in text:
        return "no whole answer in time. Check the network and the server, then try again"
    if "kind: Connect," in text:
        return "no connection. Check the host's name, the network, and whether the server runs"
    return "the connection broke off. Check the network and the server, then try again"


_ACCESS = {
    "s3": (
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; AWS_SKIP_SIGNATURE=true for a public bucket;"
        " AWS_REGION and AWS_ENDPOINT_URL where it is not Amazon's usual one"
    ),
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS; GOOGLE_SKIP_SIGNATURE=true for a public bucket",
    "az": "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY; AZURE_SKIP_SIGNATURE=true for a public one",
}
"""Where credentials are looked for; what a user can do about a refusal."""
