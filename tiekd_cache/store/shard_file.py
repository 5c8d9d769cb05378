"""Reading frames out of one shard's file: the index is parsed once, then each frame is one `pread`."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

from tiekd_cache.store.chunks import Damage, Index, decode_chunk, index_bytes, parse_index
from tiekd_cache.store.codec import Codes
from tiekd_cache.store.kernels import kernels
from tiekd_cache.store.layout import Layout


class ShardFile:
    """An open shard. Threads may share it: reading moves no file position.

    Args:
        layout: of the store.
        shard: its number.
        index: as an earlier `ShardFile` of this shard read it, to spare reading it again.
    Raises:
        Damage: the file is missing, truncated, or its index is not whole.
    """

    def __init__(self, layout: Layout, shard: int, index: Index | None = None) -> None:
        self.path: Path = layout.shard_file(shard)
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise Damage("file of the shard is missing") from error
        except OSError as error:
            raise Damage(f"file cannot be opened ({error.strerror})") from error
        # Closed with its last user, so that a thread that still reads is not cut off.
        self._close = weakref.finalize(self, os.close, self._descriptor)
        self.index = self._read_index(layout, shard) if index is None else index

    def _read_index(self, layout: Layout, shard: int) -> Index:
        length = index_bytes(layout.shard_frames)
        file_bytes = os.fstat(self._descriptor).st_size
        tail = self._read(max(0, file_bytes - length), min(length, file_bytes))
        return parse_index(tail, layout.shard_frames, len(layout.positions(shard)), file_bytes)

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
        return self._read(int(self.index[place, 0]), int(self.index[place, 1]))

    def drop_page_cache(self) -> None:
        """Let the next read come from the disk and not from memory, where the system can do that."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close the file now."""
        self._close()

    def _read(self, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise Damage(f"file cannot be read ({error.strerror})") from error
        if len(data) != length:
            raise Damage(f"file is truncated: {len(data)} of {length} bytes at {offset}")
        return data
