"""A store as objects: its metadata, read and checked from wherever it lies, and the keys of everything in it.

Keys are made here from the layout. What a listing says is only compared with them, so no name that somebody else chose
is ever written to.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiekd_cache.errors import ConfigError, StoreError
from tiekd_cache.store.catalogue import DamagedStoreError, layout_of
from tiekd_cache.store.chunks import Damage, decode_frame_ids
from tiekd_cache.store.images import FOLDER, ImageLayout, group_document
from tiekd_cache.store.layout import Layout, same_format
from tiekd_cache.store.objects import MissingObject, Objects
from tiekd_cache.store.record import DoneRecord
from tiekd_cache.store.schema import FORMAT, JsonObject, StoreSchema, frames_digest

METADATA_LIMIT_BYTES = 64 * 1024 * 1024
"""The largest metadata object that is read: a frame list's chunk of 65,536 long ids takes a tenth of it."""


@dataclass(frozen=True)
class Part:
    """What is shared by whole shards: the responses of a store, or its images.

    Attributes:
        layout: of relative paths, so that what it gives are keys.
        fingerprint: what its done-records must name.
        metadata: its metadata objects by key, in the order in which they are to be written: the last one makes a
            store of the others.
        is_images: whether it is the images.
    """

    layout: Layout
    fingerprint: str
    metadata: dict[str, bytes]
    is_images: bool

    @property
    def name(self) -> str:
        """For messages."""
        return "images" if self.is_images else "responses"

    def record_key(self, shard: int) -> str:
        """Key of a shard's done-record."""
        return self.layout.record_file(shard).as_posix()

    def shard_key(self, shard: int) -> str:
        """Key of a shard's frames."""
        return self.layout.shard_file(shard).as_posix()

    def shards_of(self, positions: Iterable[int]) -> list[int]:
        """The shards that hold the frames at these positions, ascending."""
        return sorted({position // self.layout.shard_frames for position in positions})


@dataclass(frozen=True)
class SharedStore:
    """A store's metadata, checked.

    Attributes:
        objects: where it lies.
        schema: its attributes.
        frame_ids: every frame of the finished store, in order.
        responses: keys and metadata of its responses.
        images: the same of its images; None where it has none.
    """

    objects: Objects
    schema: StoreSchema
    frame_ids: Sequence[str]
    responses: Part
    images: Part | None

    @property
    def url(self) -> str:
        """Where it lies, for messages."""
        return self.objects.url

    @property
    def parts(self) -> list[Part]:
        """Images first, as stage one writes them: a shard with responses never lacks images that exist."""
        return [part for part in (self.images, self.responses) if part is not None]

    def record(self, part: Part, shard: int) -> DoneRecord:
        """The done-record of a shard, checked.

        Raises:
            MissingObject: the shard is not finished.
            DamagedStoreError: the record was changed, or belongs to another shard or store.
        """
        key = part.record_key(shard)
        try:
            record = DoneRecord.from_bytes(get_metadata(self.objects, key))
            record.check(part.fingerprint, shard, part.layout.positions(shard))
        except Damage as damage:
            raise damaged(self.url, key, damage) from damage
        return record

    def finished(self, part: Part, shards: Sequence[int], pool: Executor) -> dict[int, int]:
        """Those of the shards that have a done-record, with the bytes of their frames; a missing file counts as 0.

        Where nothing can be listed (a web server) each record is asked for.

        Raises:
            StoreError: the store cannot be read.
        """
        try:
            listed = dict(self.objects.list((part.layout.path / "done").as_posix()))
            files = dict(self.objects.list(part.shard_key(0).partition("/c/")[0]))
        except ConfigError:
            found = pool.map(lambda shard: self._bytes_of(part, shard), shards)
            return {shard: count for shard, count in zip(shards, found, strict=True) if count is not None}
        done = [shard for shard in shards if part.record_key(shard) in listed]
        return {shard: files.get(part.shard_key(shard), 0) for shard in done}

    def _bytes_of(self, part: Part, shard: int) -> int | None:
        try:
            return self.record(part, shard).file_bytes
        except MissingObject:
            return None


def open_shared(objects: Objects) -> SharedStore:
    """The store at a place.

    Raises:
        MissingObject: there is none.
        DamagedStoreError: its metadata are not what was written.
        StoreError: it is no store, or one of a newer format.
    """
    try:
        data = get_metadata(objects, "zarr.json")
    except MissingObject as error:
        raise MissingObject(f"There is no store at {objects.url}: it has no zarr.json. Check the address.") from error
    group = _json(objects.url, "zarr.json", data)
    attributes = group.get("attributes")
    if not isinstance(attributes, dict) or attributes.get("format") != FORMAT:
        found = attributes.get("format") if isinstance(attributes, dict) else None
        raise StoreError(
            f"{objects.url} is no store of {FORMAT!r} (its zarr.json says {found!r}): check the address; a newer format"
            " needs a newer tiekd-cache"
        )
    try:
        schema = StoreSchema.from_attributes(attributes)
        layout = layout_of(Path(), group, schema)
    except (StoreError, Damage) as error:
        raise damaged(objects.url, "zarr.json", error) from error
    metadata = _array_metadata(objects, layout)
    frame_ids = _read_frame_ids(objects, layout, schema, metadata)
    metadata["zarr.json"] = data
    responses = Part(layout, schema.fingerprint, metadata, is_images=False)
    return SharedStore(objects, schema, frame_ids, responses, _open_images(objects, layout, schema))


def get_metadata(objects: Objects, key: str) -> bytes:
    """A small object; its size is looked at before memory is taken.

    Raises:
        MissingObject: it is not there.
        DamagedStoreError: it is far too large to be what its key says.
    """
    size = objects.size(key)
    if size > METADATA_LIMIT_BYTES:
        raise damaged(objects.url, key, f"{size} bytes are too many for metadata")
    return objects.get(key)


def damaged(url: str, key: str, reason: object) -> DamagedStoreError:
    """The error for what is not as it was written: what, which object, and what to do."""
    return DamagedStoreError(
        f"Store {url} is damaged: {reason} ({key}). What is damaged is never copied; have `tiekd-cache verify`"
        " look at the store where it was made."
    )


def _json(url: str, key: str, data: bytes) -> JsonObject:
    try:
        document: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise damaged(url, key, f"metadata cannot be read ({error})") from error
    if not isinstance(document, dict):
        raise damaged(url, key, "metadata are no JSON object")
    return document


def _array_metadata(objects: Objects, layout: Layout) -> dict[str, bytes]:
    """The `zarr.json` of each array by key, compared with what the format says."""
    metadata = {}
    for name, expected in layout.array_metadata().items():
        key = (layout.path / name / "zarr.json").as_posix()
        try:
            metadata[key] = get_metadata(objects, key)
        except MissingObject as error:
            raise damaged(objects.url, key, "file is missing") from error
        if not same_format(_json(objects.url, key, metadata[key]), expected):
            raise damaged(objects.url, key, "metadata are not those of format 1")
    return metadata


def _read_frame_ids(objects: Objects, layout: Layout, schema: StoreSchema, metadata: dict[str, bytes]) -> list[str]:
    """The frame list; its chunks are added to the metadata."""
    frame_ids: list[str] = []
    for chunk in range(-(-layout.num_frames // layout.frame_id_chunk)):
        key = layout.frame_id_file(chunk).as_posix()
        try:
            metadata[key] = get_metadata(objects, key)
            frame_ids += decode_frame_ids(metadata[key])
        except MissingObject as error:
            raise damaged(objects.url, key, "file is missing") from error
        except Damage as damage:
            raise damaged(objects.url, key, damage) from damage
    del frame_ids[layout.num_frames :]
    if len(frame_ids) != layout.num_frames or frames_digest(frame_ids) != schema.dataset["frames_digest"]:
        raise damaged(objects.url, "frame_id", "the frame list does not match its digest in the attributes")
    return frame_ids


def _open_images(objects: Objects, store: Layout, schema: StoreSchema) -> Part | None:
    key = f"{FOLDER}/zarr.json"
    try:
        data = get_metadata(objects, key)
    except MissingObject:
        return None
    group = _json(objects.url, key, data)
    try:
        arrays = group["consolidated_metadata"]["metadata"]
        shard_frames = arrays["image"]["chunk_grid"]["configuration"]["chunk_shape"][0]
    except (KeyError, IndexError, TypeError) as error:
        raise damaged(objects.url, key, "metadata of the arrays are missing") from error
    if type(shard_frames) is not int or shard_frames < 1:
        raise damaged(objects.url, key, f"shards of {shard_frames!r} frames make no sense")
    layout = ImageLayout(Path(FOLDER), store.num_frames, schema.image_size, shard_frames)
    attributes = group_document(layout, schema)["attributes"]
    found = group.get("attributes")
    if not isinstance(found, dict) or any(found.get(name) != value for name, value in attributes.items()):
        raise damaged(objects.url, key, "the attributes are not those of this store's frames")
    if not same_format(arrays, layout.array_metadata()):
        raise damaged(objects.url, key, "metadata of the arrays are not those of format 1")
    metadata = _array_metadata(objects, layout)
    metadata[key] = data
    return Part(layout, attributes["fingerprint"], metadata, is_images=True)
