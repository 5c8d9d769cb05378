"""Two ways to a frame's residual: our own, and zarr-python's; both give the same integers."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Protocol

from tiekd_cache.errors import ConfigError
from tiekd_cache.store.chunks import Damage, Index
from tiekd_cache.store.codec import Codes
from tiekd_cache.store.layout import Layout
from tiekd_cache.store.object_path import objects_of
from tiekd_cache.store.shard_file import Shard, open_shard

MAX_OPEN_SHARDS = 128
"""Open files a process and store; a limit of 1024 is common. The parsed indices stay, 1 KB a shard."""


class FrameReader(Protocol):
    """What gives the residual of a frame, in one process."""

    def residual(self, shard: int, place: int, out: Codes) -> None:
        """Fill `out` [h,w] uint16 with the residual at a place in a shard; raises Damage where it is not whole."""


class OwnFrames:
    """Reads the shards itself: one `pread` or request, one checksum, one decompression, no event loop."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._indices: dict[int, Index] = {}
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._lock = threading.Lock()

    def residual(self, shard: int, place: int, out: Codes) -> None:
        """See FrameReader."""
        self._shard(shard).residual(place, out)

    def chunk(self, shard: int, place: int) -> bytes:
        """The bytes of a chunk, its checksum unchecked; raises Damage where they cannot be read."""
        return self._shard(shard).chunk(place)

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
