"""The files of a cache folder: a store's part of it, and an open shard."""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from dataclasses import dataclass, field, replace
from pathlib import Path

from tiekd_cache.store.cache_check import ShardKey, read_schema, shards_of
from tiekd_cache.store.chunks import Damage
from tiekd_cache.store.layout import Layout
from tiekd_cache.store.objects import RemoteError
from tiekd_cache.store.record import DoneRecord
from tiekd_cache.store.schema import StoreSchema

TOUCHED_EVERY_S = 60.0
"""How often a shard in use is marked as used."""


@dataclass(frozen=True)
class KeptStore:
    """A store's part of a cache folder.

    Attributes:
        layout: its shards, below its folder in the cache.
        schema: its attributes.
        attributes: the `zarr.json` files and the signature, as far as they are known, by key.
    """

    layout: Layout
    schema: StoreSchema
    attributes: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, cache: Path, attributes: bytes) -> KeptStore:
        """The part of the store with this `zarr.json`; raises Damage where it is not whole."""
        schema, layout = read_schema(attributes)
        home = cache / f"{schema.fingerprint}-{layout.shard_frames}"
        return cls(replace(layout, path=home), schema, {"zarr.json": attributes})

    @property
    def home(self) -> Path:
        """Its folder."""
        return self.layout.path

    def has(self, key: str) -> bool:
        """Whether the file of an object is in it."""
        return (self.home / key).is_file()

    def check_record(self, shard: ShardKey, record: DoneRecord, images: bytes | None) -> Layout:
        """The layout that a shard with this done-record has.

        Args:
            shard: which.
            record: what was found under its key.
            images: the `zarr.json` of the images, where it holds some.
        Raises:
            Damage: it is the record of another shard or store.
        """
        layout, fingerprint = self.layout, self.schema.fingerprint
        if images is not None:
            layout, fingerprint = shards_of(images, self.layout, self.schema)
        if shard.shard >= layout.num_shards:
            raise Damage(f"shard {shard.shard} of a store of {layout.num_shards}")
        record.check(fingerprint, shard.shard, layout.positions(shard.shard))
        return layout


class OpenShard:
    """A shard's file in the cache, open. Threads may share it; it is read to its end even where others remove it.

    Raises:
        OSError: it is not there, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        self.num_bytes = os.fstat(self._descriptor).st_size
        self._touch_next = 0.0

    def read(self, start: int, length: int) -> bytes:
        """Exactly so many bytes; raises RemoteError where there are fewer."""
        try:
            data = os.pread(self._descriptor, length, start)
        except OSError as error:
            raise RemoteError(f"{self._path} in the cache cannot be read ({error.strerror}): mend that") from error
        if len(data) != length:
            raise RemoteError(f"{self._path} in the cache is truncated: {len(data)} of {length} bytes at {start}")
        return data

    def touch(self) -> bool:
        """Mark it as used, now and then; False where others have removed it, which is looked at as seldom."""
        now = time.monotonic()
        if now < self._touch_next:
            return True
        self._touch_next = now + TOUCHED_EVERY_S
        with contextlib.suppress(OSError):  # somebody else's file: then its owner's use counts
            os.utime(self._descriptor)
        return os.fstat(self._descriptor).st_nlink > 0

    def is_at(self, path: Path) -> bool:
        """Whether this file is the one with that name."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), path.stat())
        except OSError:
            return False
