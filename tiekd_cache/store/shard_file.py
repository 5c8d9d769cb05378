"""Reading frames out of one shard: the index is parsed once, then each frame is one `pread`, or one request."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Protocol

from tiekd_cache.foreign import open_regular, outside
from tiekd_cache.store.chunks import Damage, Index, decode_chunk, index_bytes, parse_index
from tiekd_cache.store.codec import Codes
from tiekd_cache.store.kernels import kernels
from tiekd_cache.store.layout import Layout
from tiekd_cache.store.object_path import ObjectPath, as_object, objects_of
from tiekd_cache.store.objects import MissingObject


class ShardSource(Protocol):
    """The bytes of a shard."""

    def total(self) -> int:
        """How many there are."""

    def read(self, offset: int, length: int) -> bytes:
        """Exactly so many of them; raises Damage where there are fewer."""


class Shard:
    """A shard whose index was read. Threads may share it.

    Args:
        source: its bytes.
        layout: of the store.
        shard: its number.
        index: as an earlier one read it, to spare reading it again.
    Raises:
        Damage: it is truncated, or its index is not whole.
    """

    def __init__(self, source: ShardSource, layout: Layout, shard: int, index: Index | None = None) -> None:
        self._source = source
        self.index = self._read_index(layout, shard) if index is None else index

    def _read_index(self, layout: Layout, shard: int) -> Index:
        length, total = index_bytes(layout.shard_frames), self._source.total()
        tail = self._source.read(max(0, total - length), min(length, total))
        return parse_index(tail, layout, len(layout.positions(shard)), total)

    def codes(self, place: int, out: Codes) -> None:
        """Fill `out` [h,w] uint16, contiguous, with the codes of the frame at a place in the shard; raises as below."""
        self.residual(place, out)
        kernels().codes(out)

    def residual(self, place: int, out: Codes) -> None:
        """Fill `out` [h,w] uint16, contiguous, with what prediction left of the frame at a place in the shard.

        Raises:
            Damage: its chunk is absent, cut off, or does not match its checksum.
        """
        decode_chunk(self.chunk(place), out)

    def chunk(self, place: int) -> bytes:
        """The bytes of one chunk, unchecked."""
        return self._source.read(int(self.index[place, 0]), int(self.index[place, 1]))

    def read_all(self) -> bytes:
        """All bytes of the shard, unchecked."""
        return self._source.read(0, self._source.total())


class ShardFile(Shard):
    """A shard's file, open. Reading moves no file position.

    Raises:
        Damage: the file is missing, truncated, or its index is not whole.
    """

    def __init__(self, layout: Layout, shard: int, index: Index | None = None) -> None:
        self.path: Path = layout.shard_file(shard)
        if outside(self.path, layout.path) is not None:
            raise Damage("file of the shard is a link that leads out of the store")
        self._file = _OpenFile(self.path)
        super().__init__(self._file, layout, shard, index)

    def drop_page_cache(self) -> None:
        """Let the next read come from the disk and not from memory, where the system can do that."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close the file now."""
        self._file.close()


class ShardBytes(Shard):
    """A shard in memory; raises as `Shard`."""

    def __init__(self, data: bytes, layout: Layout, shard: int) -> None:
        super().__init__(_Bytes(data), layout, shard)


def open_shard(layout: Layout, shard: int, index: Index | None = None) -> Shard:
    """A shard of a store, in a folder or anywhere else.

    Raises:
        Damage: it is missing, truncated, or its index is not whole.
        RemoteError: no answer, or no permission.
    """
    if objects_of(layout.path) is None:
        return ShardFile(layout, shard, index)
    return Shard(_Object(as_object(layout.shard_file(shard))), layout, shard, index)


class _OpenFile:
    def __init__(self, path: Path) -> None:
        try:
            self.descriptor = open_regular(path)
        except FileNotFoundError as error:
            raise Damage("file of the shard is missing") from error
        except OSError as error:
            raise Damage(f"file cannot be opened ({error.strerror})") from error
        # Closed with its last user, so that a thread that still reads is not cut off.
        self.close = weakref.finalize(self, os.close, self.descriptor)

    def total(self) -> int:
        return os.fstat(self.descriptor).st_size

    def read(self, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self.descriptor, length, offset)
        except OSError as error:
            raise Damage(f"file cannot be read ({error.strerror})") from error
        return _exactly(data, offset, length)


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def total(self) -> int:
        return len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        return _exactly(self._data[offset : offset + length], offset, length)


class _Object:
    def __init__(self, path: ObjectPath) -> None:
        self._objects, self._key = path.objects, path.key

    def total(self) -> int:
        try:
            return self._objects.size(self._key)
        except MissingObject as error:
            raise Damage("file of the shard is missing") from error

    def read(self, offset: int, length: int) -> bytes:
        try:
            return self._objects.get_range(self._key, offset, length)
        except MissingObject as error:
            raise Damage("file of the shard is missing") from error


def _exactly(data: bytes, offset: int, length: int) -> bytes:
    if len(data) != length:
        raise Damage(f"file is truncated: {len(data)} of {length} bytes at {offset}")
    return data
