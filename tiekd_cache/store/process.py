"""What one process keeps open of a store: files, digests, and the buffers of its threads."""

from __future__ import annotations

import os
import threading
from functools import cached_property
from typing import Literal

import numpy as np

from tiekd_cache.store.catalogue import Catalogue
from tiekd_cache.store.codec import Codes, Depth
from tiekd_cache.store.frames import FrameReader, OwnFrames, SignedShards, ZarrFrames
from tiekd_cache.store.images import ImageReader, open_images

ReaderName = Literal["local", "zarr"]


class Process:
    """What a process keeps open of a store, and the buffers of each of its threads.

    The buffers are overwritten by the thread's next frame: fresh memory for each would cost as much as decoding it.

    Attributes:
        pid: of the process.
        frames: what reads residuals.
    """

    def __init__(self, catalogue: Catalogue, reader: ReaderName) -> None:
        self.pid = os.getpid()
        signed = None if catalogue.signed is None else SignedShards(catalogue.layout, catalogue.record)
        self.frames: FrameReader
        self.frames = ZarrFrames(catalogue.layout) if reader == "zarr" else OwnFrames(catalogue.layout, signed)
        self._catalogue = catalogue
        self._digests: dict[int, tuple[int, ...]] = {}
        self._thread = threading.local()

    @cached_property
    def images(self) -> ImageReader | None:
        """What reads the store's images, where it has some."""
        found = open_images(self._catalogue)
        return None if found is None else ImageReader(found)

    def digests(self, shard: int) -> tuple[int, ...]:
        """The digests in a shard's done-record, which is read once."""
        found = self._digests.get(shard)
        if found is None:
            found = self._digests[shard] = self._catalogue.record(shard).digests
        return found

    def codes_buffer(self) -> Codes:
        """[h,w] uint16 of this thread."""
        if not hasattr(self._thread, "codes"):
            self._thread.codes = np.empty(self._catalogue.layout.native_size, np.uint16)
        return self._thread.codes  # type: ignore[no-any-return]

    def depth_buffer(self) -> Depth:
        """[h,w] float32 of this thread."""
        if not hasattr(self._thread, "depth"):
            self._thread.depth = np.empty(self._catalogue.layout.native_size, np.float32)
        return self._thread.depth  # type: ignore[no-any-return]
