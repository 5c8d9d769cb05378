"""A cache folder between a store far away and whoever reads it: each shard is fetched once, whole, and checked.

`DIR/<fingerprint>-<frames a shard>/` holds a store's objects under their own keys, so that stores with the same
answers share them, wherever they were fetched. Opening a store looks at its place for what is new; if there is no
answer, and all of it is in the cache, the cache alone serves it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

from tiekd_cache.errors import ConfigError
from tiekd_cache.foreign import SMALL_BYTES, parse_json, read_file
from tiekd_cache.store.cache_check import ATTRIBUTES, ShardKey, check_small, is_small
from tiekd_cache.store.cache_files import KeptStore, OpenShard
from tiekd_cache.store.cache_shards import ShardCache
from tiekd_cache.store.chunks import Damage
from tiekd_cache.store.layout import Layout
from tiekd_cache.store.object_path import StorePlace
from tiekd_cache.store.objects import MissingObject, Objects, RemoteError, is_remote, open_objects
from tiekd_cache.store.record import DoneRecord

Listing = list[tuple[str, int]]

DEFAULT_LIMIT_BYTES = 50_000_000_000


class CachedObjects:
    """Objects of one store for reading, kept in a folder. Threads and processes may share the folder.

    Pickled for another process, it goes on there with what this one has found out, and asks for none of it again.

    Args:
        objects: of the store.
        folder: of the cache, for any number of stores; made where it does not exist.
        limit_bytes: that the shards of all stores in it may take together.
    Raises:
        ConfigError: the folder cannot be written.
    """

    def __init__(self, objects: Objects, folder: str | Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        if limit_bytes < 1:
            raise ConfigError(f"A cache of {limit_bytes} bytes holds nothing: give --cache-size a size like 50GB")
        where = Path(os.path.abspath(Path(folder).expanduser()))  # noqa: PTH100 - a link to a cache is no trouble
        self.__setstate__((objects, where, limit_bytes, None, set(), {}, {}, None))
        self._shards.check_folder()

    def __getstate__(self) -> tuple[Any, ...]:
        own = (self._objects, self._folder, self._limit_bytes)
        return (*own, self._found, self._absent, self._sizes, self._listed, self._alone)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._objects: Objects
        self._folder: Path
        self._found: KeptStore | None
        self._absent: set[str]
        self._sizes: dict[str, int]
        self._listed: dict[str, Listing]
        self._alone: str | None
        (self._objects, self._folder, self._limit_bytes) = state[:3]
        (self._found, self._absent, self._sizes, self._listed, self._alone) = state[3:]
        self.url = self._objects.url
        self._shards = ShardCache(self._folder, self._limit_bytes)
        self._plain = False
        self._opening = threading.Lock()

    def get(self, key: str, at_most: int = SMALL_BYTES) -> bytes:
        """See Objects."""
        store = self._store()
        if key in self._absent:
            raise MissingObject(f"There is no {self.url}/{key}")
        if store is None:
            return self._objects.get(key, at_most)
        if key in store.attributes:
            return store.attributes[key]
        if not is_small(key):
            file = self._shard(store, key)
            return self._ask(key, at_most) if file is None else file.read(0, file.num_bytes)
        data = None if key in ATTRIBUTES else self._kept(store, key)
        return self._fetch_small(store, key) if data is None else data

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See Objects; of a shard this fetches all, if it has to."""
        file = self._shards.opened(key)
        if file is None:
            store = self._store()
            if store is not None and is_small(key):
                data = self.get(key)[start : start + length]
                if len(data) != length:
                    raise RemoteError(f"{self.url}/{key} is truncated: {len(data)} of {length} bytes at {start}")
                return data
            file = None if store is None else self._shard(store, key)
        return self._objects.get_range(key, start, length) if file is None else file.read(start, length)

    def size(self, key: str) -> int:
        """See Objects."""
        store = self._store()
        if key in self._absent:
            raise MissingObject(f"There is no {self.url}/{key}")
        if store is not None:
            if key in ATTRIBUTES or (is_small(key) and (self._alone or self._is_settled(store, key))):
                return len(self.get(key))
            shard = ShardKey.of(key)
            if shard is not None and store.has(key):  # what it must have: a torn file of the cache is fetched again
                with contextlib.suppress(Damage):
                    return DoneRecord.from_bytes(self.get(shard.record)).file_bytes
        try:
            if key not in self._sizes:
                self._sizes[key] = self._objects.size(key)
            return self._sizes[key]
        except MissingObject:
            self._absent.add(key)
            raise

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        """See Objects; as it was when this process, or the one that handed it on, asked first."""
        store = self._store()
        if self._alone and store is not None:
            return self._list_kept(store, prefix)
        if prefix not in self._listed:
            self._listed[prefix] = self._objects.list(prefix)
        return self._listed[prefix]

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Raises ConfigError: a cache is only read through."""
        raise ConfigError(f"{self.url}/{key} cannot be written through a cache: write without --cache-dir")

    def delete(self, key: str) -> None:
        """Raises ConfigError: a cache is only read through."""
        raise ConfigError(f"{self.url}/{key} cannot be removed through a cache: remove it without --cache-dir")

    def drop(self, key: str) -> bool:
        """Remove a file of the cache that turned out to be damaged, so that reading again fetches it anew.

        Returns:
            False where the cache does not hold it: then the object itself is damaged.
        """
        store = self._store()
        known = is_small(key) or ShardKey.of(key) is not None
        return store is not None and known and self._shards.drop(store, key)

    def _store(self) -> KeptStore | None:
        """The store's part of the cache; None where it is none that can be kept: whoever reads it says why."""
        if self._found is None and not self._plain:
            with self._opening:
                if self._found is None and not self._plain:
                    self._found = self._find()
                    self._plain = self._found is None
        return self._found

    def _find(self) -> KeptStore | None:
        try:
            data = self._objects.get("zarr.json")
        except RemoteError as error:
            return self._find_alone(error)
        try:
            store = KeptStore.of(self._folder, data)
        except Damage:
            return None
        self._shards.keep(store.home / "zarr.json", data)
        place = json.dumps({"url": self.url, "store": store.home.name}).encode()
        self._shards.keep(_place_file(self._folder, self.url), place)
        self._shards.clean(store)
        return store

    def _find_alone(self, error: RemoteError) -> KeptStore:
        """The store in the cache where its place does not answer; raises the error where it is not all there."""
        try:
            name = parse_json(read_file(_place_file(self._folder, self.url)))["store"]
            if re.fullmatch(r"[0-9a-f]{64}-\d+", name) is None:
                raise ValueError
            store = KeptStore.of(self._folder, read_file(self._folder / name / "zarr.json"))
        except (OSError, ValueError, KeyError, TypeError, Damage):
            raise error from None
        shards = [ShardKey(shard, images=False) for shard in range(store.layout.num_shards)]
        kept = sum(store.has(shard.key) and store.has(shard.record) for shard in shards)
        if kept < len(shards):
            raise RemoteError(
                f"{error}. The cache {self._folder} cannot stand in: it has {kept} of the {len(shards)} shards."
            ) from None
        self._alone = str(error)
        self._shards.tell(f"{error}. All of the store is in the cache {self._folder}, which is read alone.")
        return store

    def _kept(self, store: KeptStore, key: str) -> bytes | None:
        """A small object as the cache has it; None where it has none that is whole."""
        try:
            data = read_file(store.home / key)
            check_small(key, data)
        except (OSError, Damage):
            return None
        return data

    def _fetch_small(self, store: KeptStore, key: str) -> bytes:
        try:
            data = self._ask(key)
            if not _is_whole(key, data):
                data = self._ask(key)
        except MissingObject:
            self._absent.add(key)
            raise
        except RemoteError:
            kept = self._kept(store, key) if key in ATTRIBUTES else None
            if kept is None and self._alone and key in ATTRIBUTES:
                raise MissingObject(f"There is no {key} in the cache {store.home}") from None
            if kept is None:
                raise
            data = kept
        if _is_whole(key, data):  # else whoever reads it says what is wrong with it
            self._shards.keep(store.home / key, data)
            if key in ATTRIBUTES:
                store.attributes[key] = data
        return data

    def _ask(self, key: str, at_most: int = SMALL_BYTES) -> bytes:
        if self._alone:
            raise RemoteError(f"{self._alone}. {key} is not in the cache {self._folder}.")
        return self._objects.get(key, at_most)

    def _shard(self, store: KeptStore, key: str) -> OpenShard | None:
        def record(shard: ShardKey, *, anew: bool) -> tuple[DoneRecord, Layout]:
            data = self._fetch_small(store, shard.record) if anew else self.get(shard.record)
            found = DoneRecord.from_bytes(data)
            return found, store.check_record(shard, found, self.get("images/zarr.json") if shard.images else None)

        return self._shards.shard(store, key, self._objects, record)

    def _is_settled(self, store: KeptStore, key: str) -> bool:
        """Whether a small object is in the cache for good: a done-record only where its shard is."""
        shard = ShardKey.of_record(key)
        return store.has(key) and (shard is None or store.has(shard.key))

    def _list_kept(self, store: KeptStore, prefix: str) -> Listing:
        found = []
        for around, _, names in os.walk(store.home / prefix):
            for name in names:
                file = Path(around) / name
                key = file.relative_to(store.home).as_posix()
                if is_small(key) or ShardKey.of(key) is not None:
                    found.append((key, file.stat().st_size))
        return sorted(found)


def has_found(folder: Path, url: str) -> bool:
    """Whether a store at this URL was read through the cache before; the network is not asked."""
    return _place_file(folder.expanduser(), url).is_file()


def _place_file(folder: Path, url: str) -> Path:
    """Which store was found at a URL."""
    return folder / "places" / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.json"


def through_cache(place: StorePlace, folder: str | Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> StorePlace:
    """Where to read a store through a cache; the place itself where it is not read over a network.

    Raises:
        ConfigError: the folder cannot be written, or nothing is installed that reads such a place.
    """
    if not isinstance(place, str | Path) or not is_remote(place):
        return place
    return CachedObjects(open_objects(place), folder, limit_bytes)


def _is_whole(key: str, data: bytes) -> bool:
    try:
        check_small(key, data)
    except Damage:
        return False
    return True
