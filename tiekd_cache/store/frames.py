"""Two ways to a frame's residual: our own, and zarr-python's; both give the same integers."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from tiekd_cache.errors import ConfigError
from tiekd_cache.store.chunks import Damage, Index, NotAsSigned, decode_chunk, index_bytes, parse_index
from tiekd_cache.store.codec import Codes
from tiekd_cache.store.layout import Layout
from tiekd_cache.store.object_path import objects_of
from tiekd_cache.store.record import DoneRecord
from tiekd_cache.store.shard_file import Shard, open_shard

MAX_OPEN_SHARDS = 128
"""Open files a process and store; a limit of 1024 is common. The parsed indices stay, 1 KB a shard."""


class FrameReader(Protocol):
    """What gives the residual of a frame, in one process."""

    def residual(self, shard: int, place: int, out: Codes) -> None:
        """Fill `out` [h,w] uint16 with the residual at a place in a shard; raises Damage where it is not whole."""


class SignedShards:
    """Compares chunks with what was signed, in one process.

    The first chunk of a shard costs reading all of it: its sha256 must be that in its done-record, which is signed.
    From then on each chunk must have the sha256 that it had there: 32 bytes of memory a frame.

    Args:
        layout: of the store.
        record: gives a shard's done-record, as it was signed.
    """

    def __init__(self, layout: Layout, record: Callable[[int], DoneRecord]) -> None:
        self._layout, self._record = layout, record
        self._digests: dict[int, bytes] = {}  # joined: each on its own takes twice the memory
        self._learning: dict[int, threading.Lock] = {}

    def check(self, shard: int, place: int, chunk: bytes, read_all: Callable[[], bytes]) -> None:
        """Raise NotAsSigned unless a chunk is that of the frame at this place in the shard.

        Args:
            read_all: gives all bytes of the shard.
        """
        if shard not in self._digests:
            with self._learning.setdefault(shard, threading.Lock()):  # of many threads one reads it
                if shard not in self._digests:
                    self._digests[shard] = self._learn(shard, read_all())
        if hashlib.sha256(chunk).digest() != self._digests[shard][32 * place : 32 * place + 32]:
            raise NotAsSigned("the frame is not the one that was signed: it was changed since")

    def _learn(self, shard: int, data: bytes) -> bytes:
        """The sha256 of each chunk, one after the other."""
        if hashlib.sha256(data).hexdigest() != self._record(shard).file_sha256:
            raise NotAsSigned("the shard is not the one that was signed: it was changed since")
        frames, count = self._layout.shard_frames, len(self._layout.positions(shard))
        index = parse_index(data[-index_bytes(frames) :], self._layout, count, len(data))
        chunks = index[:count].tolist()
        return b"".join(hashlib.sha256(data[start : start + size]).digest() for start, size in chunks)


class OwnFrames:
    """Reads the shards itself: one `pread` or request, one checksum, one decompression, no event loop.

    Args:
        layout: of the store.
        signed: what each chunk is compared with; None where no signature was asked for.
    """

    def __init__(self, layout: Layout, signed: SignedShards | None = None) -> None:
        self._layout, self._signed = layout, signed
        self._indices: dict[int, Index] = {}
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._lock = threading.Lock()

    def residual(self, shard: int, place: int, out: Codes) -> None:
        """See FrameReader."""
        decode_chunk(self.chunk(shard, place), out)

    def chunk(self, shard: int, place: int) -> bytes:
        """The bytes of a chunk, its checksum unchecked; raises Damage where they cannot be had or are not as signed."""
        file = self._shard(shard)
        chunk = file.chunk(place)
        if self._signed is not None:
            self._signed.check(shard, place, chunk, file.read_all)
        return chunk

    def _shard(self, shard: int) -> Shard:
        with self._lock:
            file = self._open.get(shard)
            if file is not None:
                self._open.move_to_end(shard)
                return file
        file = open_shard(self._layout, shard, self._indices.get(shard))
        with self._lock:
            self._indices[shard] = file.index
            self._open[shard] = file
            if len(self._open) > MAX_OPEN_SHARDS:
                self._open.popitem(last=False)  # closes when the last thread that reads from it is done
        return file


class ZarrFrames:
    """Reads through zarr-python: slower, and the proof that the format is Zarr and nothing of ours."""

    def __init__(self, layout: Layout) -> None:
        if objects_of(layout.path) is not None:
            raise ConfigError(f"{layout.path}: zarr-python reads stores in folders only here; leave reader='zarr' out")
        import zarr  # half a second that the other reader does not need

        self._layout = layout
        self._residual: Any = zarr.open_group(layout.path, mode="r", zarr_format=3)["residual"]

    def residual(self, shard: int, place: int, out: Codes) -> None:
        """See FrameReader."""
        if not self._layout.shard_file(shard).is_file():
            raise Damage("file of the shard is missing")  # zarr-python would read zeros
        try:
            out[...] = self._residual[shard * self._layout.shard_frames + place]
        except (ValueError, RuntimeError, OSError, IndexError) as error:
            raise Damage(f"zarr-python cannot read it ({error})") from error
