"""Filling a cache folder: a shard is fetched by one process while others wait, checked, and kept where it fits."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

from tiekd_cache.errors import ConfigError, StoreError
from tiekd_cache.store.cache_check import ShardKey
from tiekd_cache.store.cache_files import KeptStore, OpenShard
from tiekd_cache.store.cache_room import Room, locked
from tiekd_cache.store.chunks import Damage
from tiekd_cache.store.durable import clear_errors, make_folders, write_file
from tiekd_cache.store.layout import Layout
from tiekd_cache.store.objects import MissingObject, Objects, OversizedObject
from tiekd_cache.store.record import DoneRecord
from tiekd_cache.store.shard_check import check_shard

MAX_OPEN_SHARDS = 128
WAIT_FOR_OTHERS_S = 120.0
"""For another process that fetches the same shard; after that its frames are read over the network."""

REFUSED_FOR_S = 60.0
"""After a shard that found no room, none is fetched for that long."""

JUST_NOW_S = 5.0

_LOG = logging.getLogger("tiekd_cache")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Records(Protocol):
    """What gives a shard's done-record, and the layout that it has."""

    def __call__(self, shard: ShardKey, *, anew: bool) -> tuple[DoneRecord, Layout]:
        """Checked; `anew` from the store itself. Raises Damage or MissingObject where there is none that is whole."""


class ShardCache:
    """The shards in a cache folder, of one store, in one process.

    Args:
        folder: of the cache.
        limit: bytes that the shards of all stores in it may take.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self._limit = folder, limit
        self._room = Room(folder, limit)
        self._open: OrderedDict[str, OpenShard] = OrderedDict()
        self._dropped: dict[str, float] = {}
        self._unfit: set[str] = set()
        self._told: set[str] = set()
        self._refused_until = 0.0
        self._full = False
        self._lock = threading.Lock()

    def check_folder(self) -> None:
        """Make the folder; raises ConfigError where it cannot be written, for another reason than a full disk."""
        try:
            with locked(self.folder / ".lock", 0.0):
                pass
        except StoreError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno not in _FULL:
                raise ConfigError(
                    f"The cache folder {self.folder} cannot be written ({_reason(error)}): choose another --cache-dir,"
                    " or go without"
                ) from error
            self._cannot_keep(error)

    def clean(self, store: KeptStore) -> None:
        """Remove what processes that died left of their writes."""
        self._room.remove_abandoned(store.home)

    def keep(self, file: Path, data: bytes) -> None:
        """Keep a small object, if the disk lets us."""
        if self._full:
            return
        try:
            make_folders(file.parent, self.folder)
            write_file(file, data)
        except StoreError as error:
            self._cannot_keep(error)

    def opened(self, key: str) -> OpenShard | None:
        """The shard, where this process has it open."""
        with self._lock:
            file = self._open.get(key)
            if file is not None:
                self._open.move_to_end(key)
        if file is not None and not file.touch():
            with self._lock:
                self._open.pop(key, None)
            return None
        return file

    def shard(self, store: KeptStore, key: str, objects: Objects, records: Records) -> OpenShard | None:
        """The shard, fetched if need be; None where it is not kept and must be read over the network.

        Raises:
            StoreError: it cannot be fetched, see Objects.
        """
        shard = ShardKey.of(key)
        if shard is None or key in self._unfit:
            return None
        file = self._existing(store, shard, records, ours=False)
        if file is not None or self._full or time.monotonic() < self._refused_until:
            return file
        lock = store.home / "locks" / key.replace("/", "-")
        try:
            make_folders(lock.parent, self.folder)
            with locked(lock, 0.0):
                pass
        except StoreError as error:
            self._cannot_keep(error)
            return None
        with locked(lock, WAIT_FOR_OTHERS_S) as mine:
            file = self._existing(store, shard, records, ours=mine)
            if file is None and mine and self._fill(store, shard, objects, records):
                file = self._existing(store, shard, records, ours=True)
            return file

    def drop(self, store: KeptStore, key: str) -> bool:
        """Remove a damaged file, see `CachedObjects.drop`."""
        held = store.home / key
        with self._lock:
            if time.monotonic() - self._dropped.get(key, float("-inf")) < JUST_NOW_S:
                return True  # by another thread, which has read the same
            file = self._open.pop(key, None)
            if file is None and not held.is_file():
                return False
            if file is None or file.is_at(held):  # else another process has put a whole one there
                held.unlink(missing_ok=True)
            self._dropped[key] = time.monotonic()  # only now: a thread that is told so reads again at once
        return True

    def tell(self, text: str) -> None:
        """Say something that a user should know, once."""
        if text not in self._told:
            self._told.add(text)
            _LOG.warning(text)

    def _existing(self, store: KeptStore, shard: ShardKey, records: Records, *, ours: bool) -> OpenShard | None:
        """The shard where it is kept; what is not as long as it must be is removed, where we hold its lock."""
        try:
            file = OpenShard(store.home / shard.key)
        except OSError:
            return None
        try:
            whole = file.num_bytes == records(shard, anew=False)[0].file_bytes
        except (Damage, MissingObject):
            whole = False
        if not whole:
            if ours:
                (store.home / shard.key).unlink(missing_ok=True)
            return None
        file.touch()
        with self._lock:
            if not file.is_at(store.home / shard.key):
                return None  # dropped since by another thread, or by others to make room
            self._open[shard.key] = file
            if len(self._open) > MAX_OPEN_SHARDS:
                self._open.popitem(last=False)  # closes when the last thread that reads from it is done
        return file

    def _fill(self, store: KeptStore, shard: ShardKey, objects: Objects, records: Records) -> bool:
        """Fetch, check and keep a shard; False where it is not kept."""
        for anew in (False, True):
            try:
                record, layout = records(shard, anew=anew)
                if record.file_bytes > layout.largest_shard:
                    raise Damage("its done-record gives the shard more bytes than one can have")
                if not self._admit(record.file_bytes):
                    return False
                if objects.size(shard.key) != record.file_bytes:
                    raise Damage("the shard is not as long as its done-record says")
                data = objects.get(shard.key, record.file_bytes)
                check_shard(data, layout, record)
            except (Damage, OversizedObject):
                continue  # garbled on its way, or made again since its record was kept
            return self._write(store.home / shard.key, data)
        self._unfit.add(shard.key)  # whoever reads it says what is wrong with it
        return False

    def _admit(self, num_bytes: int) -> bool:
        try:
            fits = self._room.admit(num_bytes)
        except StoreError as error:
            self._cannot_keep(error)
            return False
        if not fits:
            self._refuse()
        return fits

    def _write(self, file: Path, data: bytes) -> bool:
        try:
            with clear_errors(file):
                make_folders(file.parent, self.folder)
            fits = self._room.write(file, data)
        except StoreError as error:
            self._cannot_keep(error)
            return False
        if not fits:
            self._refuse()
        return fits

    def _refuse(self) -> None:
        self._refused_until = time.monotonic() + REFUSED_FOR_S
        self.tell(
            f"The cache {self.folder} is full of shards in use ({self._limit / 1e9:g} GB): others are read over the"
            " network. Raise --cache-size to keep them too."
        )

    def _cannot_keep(self, error: StoreError) -> None:
        """Go on without keeping anything: a run of days does not end because its cache has no more space."""
        self._full = True
        self.tell(
            f"Nothing more is kept in the cache {self.folder} ({_reason(error)}): what is not there is read over the"
            " network. Free space, or give a smaller --cache-size."
        )


def _reason(error: StoreError) -> str:
    cause = error.__cause__
    return (cause.strerror if isinstance(cause, OSError) else None) or str(error)
