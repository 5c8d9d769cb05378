"""A folder that stands for a store far away: its requests are counted, and it fails as it is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tiekd_cache.errors import ConfigError
from tiekd_cache.foreign import SMALL_BYTES
from tiekd_cache.store.objects import FolderObjects, RemoteError


class DistantObjects:
    """Objects of a folder.

    Args:
        folder: of the store.
        log: a file in which each request gets a line, too, so that processes are counted together.
        slow_s: how long each `get` takes.

    Attributes:
        asked: (method, key) of each request so far.
        down: whether nothing answers.
        listable: false for a plain web server.
        garble: changes what `get` returns.
    """

    def __init__(self, folder: Path, log: Path | None = None, slow_s: float = 0.0) -> None:
        self.folder, self.log, self.slow_s = folder, log, slow_s
        self._files = FolderObjects(folder)
        self.url = "https://example.org/a.zarr"
        self.asked: list[tuple[str, str]] = []
        self.down, self.listable = False, True
        self.garble: Callable[[str, bytes], bytes] = lambda key, data: data

    def __reduce__(self) -> tuple[type[DistantObjects], tuple[Path, Path | None, float]]:
        return DistantObjects, (self.folder, self.log, self.slow_s)

    def get(self, key: str, at_most: int = SMALL_BYTES) -> bytes:
        self._ask("get", key)
        time.sleep(self.slow_s)
        return self.garble(key, self._files.get(key, at_most))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self._ask("get_range", key)
        return self._files.get_range(key, start, length)

    def size(self, key: str) -> int:
        self._ask("size", key)
        return self._files.size(key)

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        if not self.listable:
            raise ConfigError(f"{self.url} cannot be listed")
        self._ask("list", prefix)
        return self._files.list(prefix)

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        raise AssertionError("a cache never writes to the store")

    def delete(self, key: str) -> None:
        raise AssertionError("a cache never removes from the store")

    def count(self, method: str, part: str) -> int:
        """Requests of a method for keys that begin so."""
        return sum(name == method and key.startswith(part) for name, key in self.asked)

    def _ask(self, method: str, key: str) -> None:
        self.asked.append((method, key))
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{method} {key}\n")
        if self.down:
            raise RemoteError(f"{self.url}/{key} cannot be had: no connection")
