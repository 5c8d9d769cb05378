"""Reading a store by frame id: `open_store` and `ResponseStore`.

A response is returned only if its integers have the digest that was recorded when it was written. A store opens once
in each process, at its first use there: threads share it, forked and spawned workers open their own files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tiekd_cache.errors import ConfigError, FrameNotFoundError, ShapeError, StoreError
from tiekd_cache.store.batches import read_batch
from tiekd_cache.store.cache import DEFAULT_LIMIT_BYTES, through_cache
from tiekd_cache.store.catalogue import Catalogue, damaged, open_catalogue
from tiekd_cache.store.chunks import Damage
from tiekd_cache.store.codec import Depth, frame_digest
from tiekd_cache.store.images import Image, ImageReader, Intrinsics
from tiekd_cache.store.info import StoreInfo
from tiekd_cache.store.kernels import kernels
from tiekd_cache.store.object_path import StorePlace, is_network, read_again, store_path
from tiekd_cache.store.process import Process, ReaderName
from tiekd_cache.store.refusals import not_found, refuse_other_records, refuse_unfinished
from tiekd_cache.store.resize import resize_bilinear
from tiekd_cache.store.schema import StoreSchema
from tiekd_cache.store.signature import Signed, Trust, signed_by


def open_store(
    path: StorePlace,
    *,
    allow_partial: bool = False,
    reader: ReaderName = "local",
    cache_dir: str | Path | None = None,
    cache_bytes: int = DEFAULT_LIMIT_BYTES,
    trust: Trust | None = None,
) -> ResponseStore:
    """The responses of a teacher, by frame id.

    Args:
        path: folder of the store, a `.zip` file with one, a URL (`s3://`, `gs://`, `az://`, `https://`), or objects.
        allow_partial: open a store that is not finished, too; it then holds the frames that are.
        reader: "local" reads the files itself; "zarr" goes through zarr-python and gives the same arrays, slower, and
            from folders only.
        cache_dir: folder in which what is read over a network is kept; see `CachedObjects`.
        cache_bytes: that the shards in it may take.
        trust: who must have signed the store (`Signers.read`): all that is read of it must be what they signed.
    Raises:
        ConfigError: no such kind of place, or what reads it is not installed.
        StoreError: there is no store, it is not finished, damaged, or of a newer format; says which and what to do.
        TrustError: it is not signed by any of these, or has shards that are not.
    """
    place = path if cache_dir is None else through_cache(path, cache_dir, cache_bytes)
    return ResponseStore(place, allow_partial=allow_partial, reader=reader, trust=trust)


class ResponseStore:
    """`store[frame_id]` is a teacher's depth; `len`, `in` and iteration go over the frames that are finished.

    Attributes:
        signed: what a trusted signer has signed of it; None where no signature was asked for.

    Pickled, it is its path or URL: whoever unpickles it opens it anew, and only a store with the same fingerprint, and
    as it was signed where that was asked for.
    """

    def __init__(
        self,
        path: StorePlace,
        *,
        allow_partial: bool = False,
        reader: ReaderName = "local",
        trust: Trust | None = None,
    ) -> None:
        if reader == "zarr" and trust is not None:
            raise ConfigError("zarr-python compares nothing with a signature: leave reader='zarr' or trust out")
        place = store_path(path)
        self._set_up(place, allow_partial, reader, None, signed_by(place, trust))
        catalogue = self._open()
        if catalogue.signed is not None:
            refuse_other_records(catalogue)

    def _set_up(
        self, path: Path, allow_partial: bool, reader: ReaderName, fingerprint: str | None, signed: Signed | None
    ) -> None:
        self._path, self._allow_partial, self._reader = path, allow_partial, reader
        self._fingerprint, self.signed = fingerprint, signed
        self._catalogue: Catalogue | None = None
        self._frame_ids: Sequence[str] = ()
        self._info: StoreInfo | None = None
        self._process: Process | None = None

    def __getstate__(self) -> tuple[Path, bool, ReaderName, str | None, Signed | None]:
        return self._path, self._allow_partial, self._reader, self._fingerprint, self.signed

    def __setstate__(self, state: tuple[Path, bool, ReaderName, str | None, Signed | None]) -> None:
        self._set_up(*state)

    def __getitem__(self, frame_id: str) -> Depth:
        """[H,W] float32, metres at image size, 0 = missing: what the teacher said, to half a step.

        Raises:
            FrameNotFoundError: the store has no response to this frame.
            StoreError: what is in the files is not what was written.
        """
        position = self._locate(frame_id)
        depth = np.empty(self.schema.image_size, np.float32)
        self._read_into(position, depth)
        return depth

    def read(self, frame_ids: Sequence[str], *, threads: int = 1, out: Depth | None = None) -> Depth:
        """[n,H,W] float32: `store[frame_id]` of each, in the order given, read in the order in which they are stored.

        Args:
            frame_ids: any number, repeats allowed.
            threads: that read side by side; over a network, requests that are under way at a time.
            out: [n,H,W] float32, contiguous, to fill and return: fresh memory costs a quarter of reading.
        Raises:
            FrameNotFoundError: the store has no response to one of the frames; nothing is read then.
            StoreError: what is in the files is not what was written.
            ShapeError: `out` is not of that shape and type.
        """
        positions = [self._locate(frame_id) for frame_id in frame_ids]
        depth = np.empty((len(positions), *self.schema.image_size), np.float32) if out is None else out
        if depth.shape != (len(positions), *self.schema.image_size) or depth.dtype != np.float32:
            raise ShapeError(
                f"{len(positions)} frames of {self._path} are float32 {[len(positions), *self.schema.image_size]}; "
                f"`out` is {depth.dtype} {list(depth.shape)}"
            )
        read_batch(self._read_into, positions, depth, threads=threads)
        return depth

    def image(self, frame_id: str) -> Image:
        """[H,W,3] uint8 RGB: the image that the teacher saw, to the bit; of a store made `--with-images`.

        Raises:
            FrameNotFoundError: the store has no response to this frame, or no image of it.
            StoreError: what is in the files is not what was written.
        """
        position = self._locate(frame_id)
        return self._images_with(position).image(position)

    def intrinsics(self, frame_id: str) -> Intrinsics:
        """[3,3] float64, pixels, of `image(frame_id)`; raises as that."""
        position = self._locate(frame_id)
        return self._images_with(position).intrinsics(position)

    def has_image(self, frame_id: str) -> bool:
        """Whether the store has an image of a frame that it answers; looks at no file of it."""
        images, position = self._opened().images, self._open().position(frame_id)
        return images is not None and position is not None and frame_id in self and images.has(position)

    def native(self, frame_id: str) -> Depth:
        """[h,w] float32, metres at the teacher's own resolution, 0 = missing; raises as `store[frame_id]`."""
        position = self._locate(frame_id)
        depth = np.empty(self.schema.native_size, np.float32)
        self._native_into(position, depth)
        return depth

    def __len__(self) -> int:
        return len(self.frame_ids)

    def __contains__(self, frame_id: object) -> bool:
        catalogue = self._open()
        position = catalogue.position(frame_id) if isinstance(frame_id, str) else None
        return position is not None and catalogue.is_done(position)

    def __iter__(self) -> Iterator[str]:
        return iter(self.frame_ids)

    def __repr__(self) -> str:
        return f"ResponseStore({str(self._path)!r}, {len(self)} frames)"

    @property
    def frame_ids(self) -> Sequence[str]:
        """Ids of the frames that were finished when the store was opened, in order."""
        self._open()
        return self._frame_ids

    @property
    def schema(self) -> StoreSchema:
        """What the store says of itself."""
        return self._open().schema

    @property
    def info(self) -> StoreInfo:
        """The store in numbers, as of its opening; asks for the sizes of its files at the first use."""
        if self._info is None:
            self._info = StoreInfo.of(self._open())
        return self._info

    @property
    def over_network(self) -> bool:
        """Whether it is read over a network: processes that read it then must be spawned, not forked."""
        return is_network(self._path)

    def _open(self) -> Catalogue:
        if self._catalogue is None:
            catalogue = open_catalogue(self._path, self.signed)
            if self._fingerprint not in (None, catalogue.schema.fingerprint):
                raise StoreError(
                    f"Store {self._path} was replaced by another (fingerprint {catalogue.schema.fingerprint[:12]}, was"
                    f" {str(self._fingerprint)[:12]}) while it was in use: start again with the store that is meant"
                )
            if not self._allow_partial:
                refuse_unfinished(catalogue)
            self._fingerprint = catalogue.schema.fingerprint
            self._frame_ids = catalogue.done_frame_ids()
            self._catalogue = catalogue
        return self._catalogue

    def _locate(self, frame_id: str) -> int:
        """The frame's position; raises FrameNotFoundError where it has no response."""
        catalogue = self._open()
        position = catalogue.position(frame_id)
        if position is None or not catalogue.is_done(position):
            raise not_found(catalogue, frame_id, position)
        return position

    def _read_into(self, position: int, depth: Depth) -> None:
        """Fill depth [H,W] with the frame at a position, at image size; junk where this raises."""
        resize = self.schema.depth["resize"]
        if resize is None:
            self._native_into(position, depth)
            return
        native = self._opened().depth_buffer()
        self._native_into(position, native)
        resize_bilinear(native, self.schema.image_size, resize["align_corners"], out=depth)

    def _native_into(self, position: int, depth: Depth) -> None:
        """Fill depth [h,w] with the frame at a position, its integers compared with their digest."""
        catalogue, process = self._open(), self._opened()
        shard, place = catalogue.shard_of(position)
        try:
            digest = process.digests(shard)[place]
        except Damage as damage:
            frame_id = catalogue.frame_ids[position]
            raise damaged(self._path, catalogue.layout.record_file(shard), damage, frame_id) from damage

        def decode() -> None:
            codes = process.codes_buffer()
            process.frames.residual(shard, place, codes)
            kernels().decode(codes, depth, catalogue.schema.step, catalogue.schema.min_depth)
            if frame_digest(codes) != digest:
                raise Damage("the response does not have the digest in its done-record")

        try:
            read_again(lambda: catalogue.layout.shard_file(shard), decode)
        except Damage as damage:
            frame_id = catalogue.frame_ids[position]
            raise damaged(self._path, catalogue.layout.shard_file(shard), damage, frame_id) from damage

    def _images_with(self, position: int) -> ImageReader:
        """What reads images, the one of the frame at a position among them."""
        images, catalogue = self._opened().images, self._open()
        if images is None or not images.has(position):
            raise FrameNotFoundError(
                f"Store {self._path} has no image of frame {catalogue.frame_ids[position]}. Run the same `tiekd-cache"
                " precompute` with --with-images, it adds what is not there; or read the images from the data set."
            )
        return images

    def _opened(self) -> Process:
        process = self._process
        if process is None or process.pid != os.getpid():  # a forked child shares no file and no lock
            process = self._process = Process(self._open(), self._reader)
        return process
