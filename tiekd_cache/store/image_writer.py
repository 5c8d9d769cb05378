"""Writing the images of a store by whole shards, as the responses are: written, synced, read back, recorded as done."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiekd_cache.errors import ShapeError, StoreError
from tiekd_cache.store.catalogue import Catalogue, local_path, open_catalogue
from tiekd_cache.store.chunks import Damage, pack_shard, with_crc
from tiekd_cache.store.claims import claim_shard
from tiekd_cache.store.durable import create_folder, make_folders, remove_file, write_file
from tiekd_cache.store.images import (
    FOLDER,
    Image,
    ImageCatalogue,
    Intrinsics,
    decode_image,
    encode_image,
    group_document,
    image_digest,
    image_layout,
    open_images,
)
from tiekd_cache.store.layout import metadata_bytes
from tiekd_cache.store.record import DoneRecord, done_shards
from tiekd_cache.store.shard_file import ShardFile


@dataclass(frozen=True)
class EncodedImage:
    """An image as it will lie in a shard; made by any thread.

    Attributes:
        chunk: its bytes.
        digest: of its pixels.
        intrinsics: [3,3] float64, pixels.
    """

    chunk: bytes
    digest: int
    intrinsics: Intrinsics


class ImageWriter:
    """Writes the images beside one store's responses. Any number of processes may, each with a writer of its own."""

    def __init__(self, catalogue: ImageCatalogue) -> None:
        self.path = catalogue.store.path
        self._catalogue, self._layout = catalogue, catalogue.layout

    @classmethod
    def open(cls, path: str | Path) -> ImageWriter:
        """The writer of the images of a store that is there; begins them where they are not.

        Raises:
            StoreError: there is no store, it cannot hold images, or the images in it are another's.
        """
        store = open_catalogue(local_path(path))
        if (catalogue := open_images(store)) is None:
            create_folder(store.path / FOLDER, new_images(store))  # False: somebody was first
            catalogue = open_images(store)
        if catalogue is None:
            raise StoreError(f"{store.path / FOLDER} is there and holds no images: remove it, then run the same again")
        return cls(catalogue)

    def todo(self) -> list[int]:
        """Numbers of the shards whose images are not finished now, ascending."""
        done = done_shards(self._layout.path / "done", self._layout.num_shards)
        return [shard for shard in range(self._layout.num_shards) if shard not in done]

    def frames_of(self, shard: int) -> Sequence[str]:
        """Frame ids of a shard, in order."""
        positions = self._layout.positions(shard)
        return self._catalogue.store.frame_ids[positions.start : positions.stop]

    def claim(self, shard: int) -> AbstractContextManager[bool]:
        """As `StoreWriter.claim`, for the images of a shard."""
        return claim_shard(self._layout, shard)

    def encode(self, frame_id: str, image: Image, intrinsics: Intrinsics) -> EncodedImage:
        """An image [H,W,3] uint8 with its intrinsics [3,3], encoded.

        Raises:
            ShapeError: it is not of the size that the store's responses have.
        """
        if image.shape != (*self._layout.native_size, 3) or image.dtype != np.uint8:
            raise ShapeError(
                f"Image of frame {frame_id} is {image.dtype} {list(image.shape)}; the images of {self.path} are uint8"
                f" {[*self._layout.native_size, 3]}"
            )
        return EncodedImage(encode_image(image), image_digest(image), np.asarray(intrinsics, np.float64))

    def write_shard(self, shard: int, images: Sequence[EncodedImage]) -> None:
        """Store the images of a whole shard, in the order of `frames_of`; a shard that is finished stays as it is.

        Raises:
            ShapeError: they are not as many as the shard's frames.
            StoreError: the disk is full or refuses, or gives back something else. The store stays as it was.
        """
        started = time.monotonic()
        layout = self._layout
        if len(images) != len(self.frames_of(shard)):
            raise ShapeError(f"{len(images)} images for the {len(self.frames_of(shard))} frames of shard {shard}")
        if layout.record_file(shard).exists():
            return
        data = pack_shard([image.chunk for image in images], layout.shard_frames)
        matrices = np.zeros((layout.shard_frames, 3, 3), "<f8")
        matrices[: len(images)] = [image.intrinsics for image in images]
        self._keep(shard, data, [image.digest for image in images], with_crc(matrices.tobytes()), started)

    def _keep(self, shard: int, data: bytes, digests: Sequence[int], intrinsics: bytes, started: float) -> None:
        """Write an encoded shard, read it back, and record it as done."""
        self._write(self._layout.shard_file(shard), data)
        self._read_back(shard, digests)
        self._write(self._layout.intrinsics_file(shard), intrinsics)
        self._write(self._layout.record_file(shard), self._record(shard, data, digests, started).to_bytes())

    def _record(self, shard: int, data: bytes, digests: Sequence[int], started: float) -> DoneRecord:
        positions = self._layout.positions(shard)
        return DoneRecord.of(self._catalogue.fingerprint, shard, positions, digests, data, started)

    def _write(self, file: Path, data: bytes) -> None:
        make_folders(file.parent, self.path)
        write_file(file, data)

    def _read_back(self, shard: int, digests: Sequence[int]) -> None:
        file = self._layout.shard_file(shard)
        try:
            with contextlib.closing(ShardFile(self._layout, shard)) as written:
                written.drop_page_cache()
                for place, digest in enumerate(digests):
                    if image_digest(decode_image(written.chunk(place), self._layout.native_size)) != digest:
                        raise Damage(f"image {place} of the shard has another digest")
        except Damage as damage:
            remove_file(file)
            raise StoreError(
                f"Images of shard {shard} were written and read back differently: {damage} ({file}). They were removed."
                " The disk or the memory is faulty: check them, then run the same command again."
            ) from damage


def new_images(store: Catalogue) -> dict[str, bytes]:
    """Every file of an empty `images/` by its name in it, `zarr.json` last; names of empty folders end in `/`.

    Raises:
        StoreError: shards of so many images would be larger than a shard may be.
    """
    try:
        layout = image_layout(store.path / FOLDER, store.layout, store.schema, store.layout.shard_frames)
    except Damage as damage:
        raise StoreError(f"Store {store.path} cannot hold images: {damage}, in a store of its own") from damage
    files = {"done/": b"", "claims/": b""}
    for name, metadata in layout.array_metadata().items():
        files[f"{name}/zarr.json"] = metadata_bytes(metadata)
    files["zarr.json"] = metadata_bytes(group_document(layout, store.schema))
    return files
