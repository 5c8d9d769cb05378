"""The room of a cache folder: what its shards take, which of them go when a new one comes, and locks between processes.

The shards that are kept are files below `DIR/<fingerprint>/`; when one was used last is its time of modification.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tiekd_cache.errors import StoreError
from tiekd_cache.store.claims import try_lock
from tiekd_cache.store.durable import clear_errors, write_file
from tiekd_cache.whole_file import is_partial, remove_abandoned

PROTECTED_S = 600.0
"""A shard used within that time stays. Where a store is larger than the cache, what is kept then stays useful, and the
rest is read over the network frame by frame: else each frame would fetch a whole shard to push out another."""

WAIT_S = 120.0
"""For a process that writes a shard: a second is much."""

SHARD_FOLDERS = ("residual", "images/image")
_POLL_S = 0.02


class Held(NamedTuple):
    """A shard in the cache: when it was used last (seconds since 1970), its bytes, its file."""

    used: float
    num_bytes: int
    file: Path


def to_remove(held: Iterable[Held], needed: int, limit: int, now: float) -> list[Held] | None:
    """Which shards go, least recently used first, so that `needed` more bytes fit; None where they cannot.

    Args:
        held: what is kept.
        needed: bytes that are to come.
        limit: bytes that all shards together may take.
        now: seconds since 1970; what was used within PROTECTED_S stays.
    """
    waiting = sorted(held)
    excess = sum(item.num_bytes for item in waiting) + needed - limit
    chosen: list[Held] = []
    for item in waiting:
        if excess <= 0 or item.used > now - PROTECTED_S:
            break
        chosen.append(item)
        excess -= item.num_bytes
    return chosen if excess <= 0 else None


@contextlib.contextmanager
def locked(file: Path, wait_s: float) -> Iterator[bool]:
    """Yields True once the lock on a file is ours, False where another holds it for so long; it ends with the block.

    The kernel releases the lock of a process that dies. Where the file system knows no locks everyone gets True: a
    shard may be fetched twice, and files appear whole under their names in any case.

    Raises:
        StoreError: the file cannot be made.
    """
    with clear_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        last = time.monotonic() + wait_s
        while not (mine := try_lock(descriptor, file)) and time.monotonic() < last:
            time.sleep(_POLL_S)
        yield mine
    finally:
        _unlock(descriptor)


def _unlock(descriptor: int) -> None:
    """Release the lock and close the file; a child that was forked meanwhile and has it open holds nothing then."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


class Room:
    """What the shards of all stores in a cache folder may take together.

    Args:
        folder: of the cache.
        limit: in bytes.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit

    def held(self) -> list[Held]:
        """The shards in the cache, of all stores, and what interrupted writes left of some."""
        return [Held(found.st_mtime, found.st_size, file) for file, found in self._files()]

    def admit(self, num_bytes: int) -> bool:
        """Remove the least recently used shards until so many bytes fit; False where they do not.

        Raises:
            StoreError: the cache cannot be written.
        """
        with self._locked():
            return self._admit(num_bytes)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self._folder / ".lock", WAIT_S) as mine:
            if not mine:
                raise StoreError(f"another process has held {self._folder / '.lock'} for {WAIT_S:g} s")
            yield

    def write(self, file: Path, data: bytes) -> bool:
        """Keep a shard in a folder that exists, whole and on the disk; False where it does not fit.

        One process at a time writes, so that the limit holds for all of them together.

        Raises:
            StoreError: the disk refuses.
        """
        with self._locked():
            if not self._admit(len(data)):
                return False
            write_file(file, data)
            return True

    def remove_abandoned(self, store: Path) -> None:
        """Remove what processes that died left of their writes to a store's folder in the cache."""
        for around, _, names in os.walk(store):
            for name in names:
                if is_partial(name):
                    remove_abandoned(Path(around) / name[1:].partition(".partial-")[0])

    def _admit(self, num_bytes: int) -> bool:
        chosen = to_remove(self.held(), num_bytes, self._limit, time.time())
        if chosen is None:
            return False
        for item in chosen:
            try:
                item.file.unlink(missing_ok=True)  # whoever has it open reads on
            except OSError as error:
                raise StoreError(
                    f"Cannot remove {item.file} from the cache: {error.strerror}. Let every user of the cache write in"
                    " it, or give each a --cache-dir"
                ) from error
        return True

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for store in self._stores():
            for part in SHARD_FOLDERS:
                for around, _, names in os.walk(store / part):
                    for name in names:
                        file = Path(around) / name
                        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
                            yield file, file.stat()

    def _stores(self) -> list[Path]:
        with os.scandir(self._folder) as entries:
            return [Path(entry) for entry in entries if entry.is_dir(follow_symlinks=False)]
