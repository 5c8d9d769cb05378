"""Writing a store by whole shards: nothing counts until it was written, synced, read back and recorded as done."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from tiekd_cache.errors import RangeError, ShapeError, StoreError
from tiekd_cache.store.catalogue import Catalogue, is_store, local_path, open_catalogue
from tiekd_cache.store.chunks import Damage, encode_chunk, encode_digests, encode_frame_ids, pack_shard
from tiekd_cache.store.claims import claim_shard
from tiekd_cache.store.codec import Codes, Depth, find_invalid, frame_digest
from tiekd_cache.store.durable import create_folder, make_folders, remove_file, write_file
from tiekd_cache.store.image_writer import ImageWriter
from tiekd_cache.store.kernels import kernels
from tiekd_cache.store.layout import Layout, metadata_bytes
from tiekd_cache.store.record import DoneRecord, done_shards
from tiekd_cache.store.schema import StoreSchema, frames_digest
from tiekd_cache.store.shard_file import ShardFile


class StoreWriter:
    """Writes the shards of one store. Any number of processes may, each with a writer of its own.

    Attributes:
        path: the store's folder.
        schema: its attributes.
        look_again_s: seconds until it is worth while to ask again what other processes have done.
    """

    look_again_s = 0.5

    def __init__(self, catalogue: Catalogue) -> None:
        self.path = catalogue.path
        self.schema = catalogue.schema
        self._layout = catalogue.layout
        self._frame_ids = catalogue.frame_ids

    @classmethod
    def open(
        cls, path: str | Path, schema: StoreSchema, frame_ids: Sequence[str], *, shard_frames: int = 64
    ) -> StoreWriter:
        """The writer of a new store, or of one that was begun with the same fingerprint.

        Args:
            path: a folder that does not exist, is empty, or is such a store.
            schema: describes exactly these frames (`StoreSchema.build`).
            frame_ids: every frame that the finished store will hold, in order.
            shard_frames: frames a shard in a new store; one that was begun keeps its own.
        Raises:
            StoreError: something else is there, nothing of which is touched; or the store was begun with other
                settings, which are named; or it cannot be written.
        """
        path = local_path(path)
        check_frames(path, schema, frame_ids, shard_frames)
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            create_folder(path, new_store(path, schema, frame_ids, shard_frames))  # False: somebody was first
        if not is_store(path):
            raise StoreError(f"{path} exists and is no tiekd-cache store: nothing was touched; choose another --store")
        catalogue = open_catalogue(path)
        require_settings(catalogue, schema)
        return cls(catalogue)

    @property
    def shard_frames(self) -> int:
        """Frames a shard, those of the last one apart."""
        return self._layout.shard_frames

    @property
    def num_shards(self) -> int:
        """Shards of the finished store."""
        return self._layout.num_shards

    def todo(self) -> list[int]:
        """Numbers of the shards that are not finished now, ascending."""
        done = done_shards(self.path / "done", self.num_shards)
        return [shard for shard in range(self.num_shards) if shard not in done]

    def frames_of(self, shard: int) -> Sequence[str]:
        """Frame ids of a shard, in order."""
        positions = self._layout.positions(shard)
        return self._frame_ids[positions.start : positions.stop]

    def is_done(self, shard: int) -> bool:
        """Whether the shard is finished now."""
        return self._layout.record_file(shard).exists()

    def claim(self, shard: int) -> AbstractContextManager[bool]:
        """Gives True where the shard is ours to make until the block ends; see `claim_shard`."""
        return claim_shard(self._layout, shard)

    def write_shard(self, shard: int, teacher_depth: Depth) -> None:
        """Store the responses of a whole shard; when this returns, they are on the disk and were read back.

        A shard that is finished already is left as it is.

        Args:
            shard: its number.
            teacher_depth: [n,h,w] float32, metres at native size, in the order of `frames_of`; 0 = missing.
        Raises:
            ShapeError: other frames, another size or type than the schema says.
            RangeError: NaN, infinite, negative or outside the schema's range; names frame and pixel.
            StoreError: the disk is full or refuses, or gives back something else. The store stays as it was.
        """
        started = time.monotonic()
        frame_ids = self.frames_of(shard)
        expected = (len(frame_ids), *self.schema.native_size)
        if teacher_depth.shape != expected or teacher_depth.dtype != np.float32:
            raise ShapeError(
                f"Shard {shard} of {self.path} takes float32 {list(expected)}, not {teacher_depth.dtype}"
                f" {list(teacher_depth.shape)}: give every frame of `frames_of({shard})` at the schema's native size"
            )
        if self.is_done(shard):
            return
        digests, chunks = [], []
        for frame_id, depth in zip(frame_ids, teacher_depth, strict=True):
            codes, residual = self._encode(frame_id, depth)
            digests.append(frame_digest(codes))
            chunks.append(encode_chunk(residual))
        self._keep(shard, pack_shard(chunks, self._layout.shard_frames), digests, started)

    def images(self) -> ImageWriter:
        """The writer of the images beside the responses; begins them where they are not.

        Raises:
            StoreError: as `ImageWriter.open`.
        """
        return ImageWriter.open(self.path)

    def _keep(self, shard: int, data: bytes, digests: Sequence[int], started: float) -> None:
        """Write an encoded shard, read it back, and record it as done."""
        self._write(self._layout.shard_file(shard), data)
        self._read_back(shard, digests)
        self._write(self._layout.digest_file(shard), encode_digests(digests, self._layout.shard_frames))
        self._write(self._layout.record_file(shard), self._record(shard, data, digests, started).to_bytes())

    def _record(self, shard: int, data: bytes, digests: Sequence[int], started: float) -> DoneRecord:
        positions = self._layout.positions(shard)
        return DoneRecord.of(self.schema.fingerprint, shard, positions, digests, data, started)

    def _encode(self, frame_id: str, depth: Depth) -> tuple[Codes, Codes]:
        schema = self.schema
        try:
            return kernels().encode(depth, schema.step, schema.min_depth, schema.max_depth)
        except RangeError as error:
            found = find_invalid(depth, schema.min_depth, schema.max_depth)
            if found is None:
                raise
            (row, column), reason = found
            raise RangeError(
                f"Teacher depth {reason} at row {row}, column {column} (frame {frame_id}, teacher"
                f" {schema.teacher['name']}, store {self.path}). Responses must be metres within the store's range, 0 ="
                " missing; nothing of this shard was written. Check the weights, or give another --max-depth or --clip."
            ) from error

    def _write(self, file: Path, data: bytes) -> None:
        make_folders(file.parent, self.path)
        write_file(file, data)

    def _read_back(self, shard: int, digests: Sequence[int]) -> None:
        file = self._layout.shard_file(shard)
        codes = np.empty(self.schema.native_size, np.uint16)
        try:
            written = ShardFile(self._layout, shard)
            with contextlib.closing(written):
                written.drop_page_cache()
                for place, digest in enumerate(digests):
                    written.codes(place, codes)
                    if frame_digest(codes) != digest:
                        raise Damage(f"frame {place} of the shard has another digest")
        except Damage as damage:
            remove_file(file)
            raise StoreError(
                f"Shard {shard} was written and reads back differently: {damage} ({file}). It was removed, the store is"
                " as it was before. The disk or the memory is faulty: check them, then run the same command again."
            ) from damage


def check_frames(path: Path, schema: StoreSchema, frame_ids: Sequence[str], shard_frames: int) -> None:
    """Raise StoreError unless a new store at the path can hold these frames, and the schema describes them."""
    if not frame_ids or shard_frames < 1:
        raise StoreError(f"Store {path} cannot hold {len(frame_ids)} frames in shards of {shard_frames}: give some")
    if problem := Layout(path, len(frame_ids), schema.native_size, shard_frames).problem():
        raise StoreError(f"Store {path} cannot be made: {problem}")
    if len(set(frame_ids)) != len(frame_ids):
        twice = Counter(frame_ids).most_common(1)[0][0]
        raise StoreError(f"Frame {twice} stands twice in the frame list of store {path}: name each frame once")
    odd = next((frame_id for frame_id in frame_ids if not frame_id or "\n" in frame_id), None)
    if odd is not None:
        raise StoreError(f"Frame id {odd!r} of store {path} is empty or has a line break: give it a name")
    if (schema.num_frames, schema.dataset["frames_digest"]) != (len(frame_ids), frames_digest(frame_ids)):
        raise StoreError(f"The schema of store {path} describes other frames: build it from the same {len(frame_ids)}")


def require_settings(catalogue: Catalogue, schema: StoreSchema) -> None:
    """Raise StoreError unless a store has the fingerprint of the schema; names the fields that differ."""
    differences = catalogue.schema.differences(schema)
    if differences:
        raise StoreError(
            f"Store {catalogue.path} was begun with other settings: {'; '.join(differences)}. Choose another --store,"
            " use the settings it was begun with, or remove it."
        )


def new_store(path: Path, schema: StoreSchema, frame_ids: Sequence[str], shard_frames: int) -> dict[str, bytes]:
    """Every file of an empty store by its name in it, `zarr.json` last; names of empty folders end in `/`."""
    layout = Layout(path, len(frame_ids), schema.native_size, shard_frames)
    files = {"done/": b"", "claims/": b"", "residual/c/": b"", "digest/c/": b""}
    for name, metadata in layout.array_metadata().items():
        files[f"{name}/zarr.json"] = metadata_bytes(metadata)
    for number, chunk in enumerate(encode_frame_ids(frame_ids, layout.frame_id_chunk)):
        files[f"frame_id/c/{number}"] = chunk
    files["zarr.json"] = metadata_bytes(layout.group_metadata(schema))
    return files
