"""Objects in a bucket (`s3://`, `gs://`, `az://`) or behind a web server (`http://`, `https://`), through obstore.

Every request has a time limit and is made again, with growing pauses, where the server or the line failed; one call
waits a minute at most for something that does not come, more only where much goes over a slow line. Messages name the
URL without credentials and never repeat what a server said: that may hold some. obstore's threads do not survive a
fork, so that a forked child that would go on with it would wait for ever: it gets an error instead.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

from tiekd_cache.errors import ConfigError
from tiekd_cache.foreign import SMALL_BYTES
from tiekd_cache.store.objects import MissingObject, OversizedObject, RefusedError, RemoteError, check_key, oversized
from tiekd_cache.store.remote_client import import_obstore, make_client
from tiekd_cache.store.remote_errors import Silence, error_for, is_missing_bucket, is_panic, may_pass, slow_line

if TYPE_CHECKING:
    from obstore import GetOptions

T = TypeVar("T")

REQUEST_S = 10.0
"""Seconds without a byte after which a request has failed."""

SLOWEST_BYTES_PER_S = 250_000.0
"""A slower line is taken for one that hangs."""

LAST_START_S = 25.0
"""Seconds after the first request at which another may still start."""

LARGE_PUT_S = LAST_START_S
"""What may take longer at the slowest rate is first sent within this time only, and not again unless a small request is
answered: the server may have fallen silent."""

ATTEMPTS = 7
PAUSE_S = 0.2
"""Before the second request; twice that before the third, and so on: 13 seconds of a server that is down."""

MOST_LISTED = 1 << 23
"""Objects of one listing: a store of a million shards has as many."""

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
            scheme = place.partition("://")[0]
            raise ConfigError(f"{scheme}://… is no URL that can be read: name SCHEME://HOST/FOLDER") from None
        self.url = f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"
        if not host or parts.query or parts.fragment:
            raise ConfigError(
                f"{self.url}: the URL of a store is that of a folder, SCHEME://HOST/FOLDER, without ? and #. Where"
                " access needs a key, set it in the environment."
            )
        import_obstore(self.url)
        self._place = place.rstrip("/")
        self._scheme = parts.scheme
        self._clients: dict[tuple[float, bool], Any] = {}
        self._given_up = self._slow_line = self._bucket_is_there = False

    def __reduce__(self) -> tuple[type[RemoteObjects], tuple[str]]:
        return RemoteObjects, (self._place,)

    def get(self, key: str, at_most: int = SMALL_BYTES) -> bytes:
        """See Objects."""
        import obstore

        def request() -> bytes:
            # How long it may take follows from its size, which the answer tells first.
            result = obstore.get(self._client(24 * 3600.0), key)
            total = int(result.meta["size"])
            if total > at_most:
                raise oversized(f"{self.url}/{key}", f"it has {total} bytes, and may have {at_most}")
            return self._receive(key, result, total)

        return self._ask(key, request)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See Objects."""
        import obstore

        if not length:
            return b""
        client = self._client(_allowed(length))
        options: GetOptions = {"range": (start, start + length)}

        def request() -> bytes:
            result = obstore.get(client, key, options=options)  # obstore.get_range takes in whatever the server sends
            first, end = result.range
            if (first, end) != (start, start + length):
                raise RemoteError(
                    f"{self.url}/{key} is truncated: {end - first} of {length} bytes at {start}. Push the store there"
                    " again."
                )
            return self._receive(key, result, length)

        return self._ask(key, request)

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

        def request() -> list[tuple[str, int]]:
            found: list[tuple[str, int]] = []
            for items in obstore.list(client, folder or None, chunk_size=1000):
                found += [(str(item["path"]), int(item["size"])) for item in items]
                if len(found) > MOST_LISTED:
                    raise RemoteError(f"{self.url}/{folder} lists more than {MOST_LISTED} objects: name a folder in it")
            return sorted(found)

        return self._ask(folder, request, "listed")

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """See Objects."""
        import obstore
        from obstore import exceptions

        self._refuse_to_write()
        mode: Literal["create", "overwrite"] = "create" if if_absent else "overwrite"
        requests = itertools.count()

        def put_within(seconds: float) -> bool:
            client = self._client(seconds, writing=True)

            def request() -> bool:
                again = next(requests) > 0
                try:
                    obstore.put(client, key, data, mode=mode, use_multipart=False)
                except exceptions.AlreadyExistsError:
                    # Where an answer got lost on the way, what is there may be what the request before this one put.
                    return again and self._holds(key, data)
                return True

            return self._ask(key, request, "written")

        seconds = _allowed(len(data))
        if seconds <= LARGE_PUT_S:
            return put_within(seconds)
        self._require_answer(key)
        if not self._slow_line:
            with contextlib.suppress(Silence):
                return put_within(LARGE_PUT_S)
            self._require_answer(key)
            self._slow_line = True
        try:
            return put_within(seconds)
        except Silence:
            raise slow_line(f"{self.url}/{key}", len(data), seconds, SLOWEST_BYTES_PER_S) from None

    def delete(self, key: str) -> None:
        """See Objects."""
        import obstore

        self._refuse_to_write()
        with contextlib.suppress(MissingObject):
            client = self._client(_allowed(0), writing=True)
            self._ask(key, lambda: obstore.delete(client, key), "removed")

    def _receive(self, key: str, result: Any, length: int) -> bytes:
        """The body of an answer, which has `length` bytes; memory is taken for no more."""
        started, data = time.monotonic(), bytearray()
        for part in result.stream(min_chunk_size=1):
            data += part
            if len(data) > length:
                raise oversized(f"{self.url}/{key}", f"the server sends more than the {length} bytes that it declares")
            if time.monotonic() - started > REQUEST_S + len(data) / SLOWEST_BYTES_PER_S:
                raise TimeoutError
        if len(data) != length:
            raise ConnectionError
        return bytes(data)

    def _require_answer(self, key: str) -> None:
        """Raise RemoteError where the server does not answer a small request: then much need not be sent to it."""
        with contextlib.suppress(MissingObject, RefusedError):
            self.size(key)

    def _holds(self, key: str, data: bytes) -> bool:
        try:
            return self.get(key, len(data)) == data
        except OversizedObject:
            return False

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

    def _ask(self, key: str, request: Callable[[], T], done: str = "read") -> T:
        """The answer to a request that is made again until it comes, or no hope is left; `done` is what it is for.

        A server that was given up is asked once at a time until it answers again: whoever tidies up after the error
        does not wait as long for each of its requests.
        """
        if key:
            check_key(key)
        from obstore.exceptions import BaseError

        started = time.monotonic()
        for attempt in range(ATTEMPTS):
            try:
                answer = request()
                self._given_up, self._bucket_is_there = False, True
                return answer
            except FileNotFoundError:
                self._given_up = False
                self._require_bucket()
                raise MissingObject(f"There is no {self.url}/{key}") from None
            except (BaseError, OSError, ValueError) as error:
                pause = PAUSE_S * 2**attempt * random.uniform(0.75, 1.25)
                late = time.monotonic() - started + pause > LAST_START_S
                passing = may_pass(error)
                if late or attempt == ATTEMPTS - 1 or self._given_up or not passing:
                    self._given_up = passing
                    where, seconds = f"{self.url}/{key}".rstrip("/"), time.monotonic() - started
                    raise error_for(error, where, done, self._scheme, attempt + 1, seconds) from None
            except BaseException as error:
                if not is_panic(error):
                    raise
                raise ConfigError(
                    f"{self.url}: obstore cannot make a request with these settings. Check the addresses and the"
                    " credentials in the environment, also for line breaks."
                ) from None
            time.sleep(pause)
        raise AssertionError("the last attempt has returned or raised")

    def _require_bucket(self) -> None:
        """Raise RemoteError where it is the bucket that is missing; a request for an object does not tell."""
        import obstore
        from obstore.exceptions import BaseError

        if not self._bucket_is_there and self._scheme not in ("http", "https"):
            try:
                next(iter(obstore.list(self._client(_allowed(0)), chunk_size=1)), None)
            except (BaseError, OSError) as error:
                if is_missing_bucket(error):
                    raise error_for(error, self.url, "read", self._scheme) from None
            self._bucket_is_there = True  # or it cannot be told: asked once


def _allowed(length: int) -> float:
    """Seconds that a request for so many bytes may take: few different numbers, each has connections of its own."""
    allowed = REQUEST_S
    while allowed < REQUEST_S + length / SLOWEST_BYTES_PER_S:
        allowed *= 1.5
    return allowed
