"""Objects in a dictionary, as a bucket keeps them: whole or not at all, put-if-absent, no folders and no locks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from tiekd_cache.errors import ConfigError
from tiekd_cache.foreign import SMALL_BYTES
from tiekd_cache.store.objects import MissingObject, oversized


class MemoryObjects:
    """Objects by key.

    Args:
        listable: False where nothing can be listed or written, as behind a plain web server.
        before_put: called with each key before it is written: where a test lets something else happen.
    """

    def __init__(
        self, url: str = "memory://a", *, listable: bool = True, before_put: Callable[[str], None] = lambda key: None
    ) -> None:
        self.url = url
        self.content: dict[str, bytes] = {}
        self.listable = listable
        self.before_put = before_put
        self.reads: list[str] = []
        self._lock = threading.Lock()

    @classmethod
    def of(cls, folder: Path, *, listable: bool = True) -> MemoryObjects:
        """What a folder holds."""
        objects = cls(f"memory://{folder.name}", listable=listable)
        for file in folder.rglob("*"):
            if file.is_file():
                objects.content[file.relative_to(folder).as_posix()] = file.read_bytes()
        return objects

    def save(self, folder: Path) -> Path:
        """The objects as files."""
        for key, data in self.content.items():
            file = folder / key
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        return folder

    def get(self, key: str, at_most: int = SMALL_BYTES) -> bytes:
        """See Objects."""
        self.reads.append(key)
        size = self.size(key)
        if size > at_most:
            raise oversized(f"{self.url}/{key}", f"it has {size} bytes, and may have {at_most}")
        return self.content[key]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See Objects."""
        return self.get(key, self.size(key))[start : start + length]

    def size(self, key: str) -> int:
        """See Objects."""
        if key not in self.content:
            raise MissingObject(f"There is no {key} at {self.url}")
        return len(self.content[key])

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        """See Objects."""
        if not self.listable:
            raise ConfigError(f"{self.url} cannot be listed")
        found = [key for key in self.content if not prefix or key.startswith(prefix.rstrip("/") + "/")]
        return sorted((key, len(self.content[key])) for key in found)

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """See Objects."""
        if not self.listable:
            raise ConfigError(f"{self.url} can only be read")
        self.before_put(key)
        with self._lock:
            if if_absent and key in self.content:
                return False
            self.content[key] = data
        return True

    def delete(self, key: str) -> None:
        """See Objects."""
        self.content.pop(key, None)
