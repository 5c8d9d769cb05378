"""Writing a store where it will be shared: each shard goes from memory into the bucket, checked as `push` checks it.

No folder stands in between, so nothing is left on the disk that would have to be found again: what counts is in the
bucket, whichever machine goes on.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from tiekd_cache.errors import StoreError
from tiekd_cache.sharing.metadata import put_metadata, require_nothing_else
from tiekd_cache.sharing.shards import LoadedShard, companion_key, store_shard
from tiekd_cache.sharing.shared_store import Part, SharedStore, key_of, open_shared
from tiekd_cache.store import ImageWriter, StoreSchema, StoreWriter
from tiekd_cache.store.bucket_claims import BucketClaims
from tiekd_cache.store.chunks import encode_digests
from tiekd_cache.store.image_writer import new_images
from tiekd_cache.store.images import FOLDER, ImageCatalogue
from tiekd_cache.store.object_path import StorePlace, store_path
from tiekd_cache.store.objects import FolderObjects, MissingObject, open_objects
from tiekd_cache.store.record import DoneRecord, done_shards
from tiekd_cache.store.writer import check_frames, new_store, require_settings

Note = Callable[[str], None]


def open_writer_at(
    place: StorePlace,
    schema: StoreSchema,
    frame_ids: Sequence[str],
    *,
    shard_frames: int = 64,
    note: Note = lambda text: None,
) -> StoreWriter:
    """The writer of a new store, or of one that was begun with the same fingerprint, in a folder or a bucket.

    Args:
        place: where it is or will be; nothing else may be there.
        schema, frame_ids, shard_frames: as for `StoreWriter.open`.
        note: takes a sentence for the user, where another machine has to be waited for.
    Raises:
        ConfigError: the place can only be read.
        StoreError: something else is there, nothing of which is touched; or the store was begun with other
            settings, which are named; or it cannot be written.
    """
    objects = open_objects(place) if isinstance(place, str | Path) else place
    if isinstance(objects, FolderObjects):
        return StoreWriter.open(objects.folder, schema, frame_ids, shard_frames=shard_frames)
    path = store_path(objects)
    check_frames(path, schema, frame_ids, shard_frames)
    try:
        store = open_shared(objects)
    except MissingObject:
        require_nothing_else(objects)
        put_metadata(_files(new_store(path, schema, frame_ids, shard_frames)), objects, "these settings make")
        store = open_shared(objects)
    require_settings(store.catalogue, schema)
    return BucketWriter(store, note)


class BucketWriter(StoreWriter):
    """Writes the shards of one store in a bucket. Any number of processes may, each with a writer of its own."""

    look_again_s = 5.0

    def __init__(self, store: SharedStore, note: Note = lambda text: None) -> None:
        super().__init__(store.catalogue)
        self._shards = _BucketShards(store.responses, note)
        self._note = note

    def todo(self) -> list[int]:
        """See StoreWriter."""
        return self._shards.todo()

    def is_done(self, shard: int) -> bool:
        """See StoreWriter."""
        return self._shards.is_done(shard)

    def claim(self, shard: int) -> AbstractContextManager[bool]:
        """See StoreWriter; a holder of which nothing is known yet is looked at until it is."""
        return self._shards.claim(shard)

    def images(self) -> ImageWriter:
        """See StoreWriter."""
        objects = self._shards.part.objects
        store = open_shared(objects)
        if store.images is None:
            files = {f"{FOLDER}/{name}": data for name, data in new_images(store.catalogue).items()}
            put_metadata(_files(files), objects, "these images make")
            store = open_shared(objects)
        if store.images is None:
            raise StoreError(f"{objects.url}/{FOLDER}/zarr.json was put there and is gone: somebody removes objects")
        return BucketImageWriter(store.images, self._note)

    def _keep(self, shard: int, data: bytes, digests: Sequence[int], started: float) -> None:
        record = self._record(shard, data, digests, started)
        self._shards.put(record, data, encode_digests(digests, self._layout.shard_frames))


class BucketImageWriter(ImageWriter):
    """Writes the images beside one store's responses in a bucket, as `BucketWriter` does these."""

    def __init__(self, images: Part, note: Note = lambda text: None) -> None:
        assert isinstance(images.catalogue, ImageCatalogue)
        super().__init__(images.catalogue)
        self._shards = _BucketShards(images, note)

    def todo(self) -> list[int]:
        """See ImageWriter."""
        return self._shards.todo()

    def claim(self, shard: int) -> AbstractContextManager[bool]:
        """See ImageWriter."""
        return self._shards.claim(shard)

    def _keep(self, shard: int, data: bytes, digests: Sequence[int], intrinsics: bytes, started: float) -> None:
        self._shards.put(self._record(shard, data, digests, started), data, intrinsics)


class _BucketShards:
    """Which shards of a part are finished, which are claimed, and finishing one: the same for responses and images."""

    def __init__(self, part: Part, note: Note) -> None:
        self.part = part
        self._done = set(part.done)
        self._claims = BucketClaims(part.objects, key_of(part.layout.claim_file(0).parent), note)
        self._claims.tidy(part.done)

    def todo(self) -> list[int]:
        layout = self.part.layout
        self._done |= done_shards(layout.path / "done", layout.num_shards)
        return [shard for shard in range(layout.num_shards) if shard not in self._done]

    def is_done(self, shard: int) -> bool:
        if shard not in self._done and self.part.layout.record_file(shard).exists():
            self.todo()  # others are at work: what they have finished is not asked for one by one
        return shard in self._done

    @contextlib.contextmanager
    def claim(self, shard: int) -> Iterator[bool]:
        if self.is_done(shard):
            yield False
            return
        with self._claims.claim(key_of(self.part.layout.claim_file(shard))) as mine:
            yield mine and not self.is_done(shard)

    def put(self, record: DoneRecord, data: bytes, companion: bytes) -> None:
        loaded = LoadedShard(record, data, {companion_key(self.part, record.shard): companion}, {})
        store_shard(self.part.objects, self.part, loaded, threading.Event())
        self._done.add(record.shard)


def _files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Those that are no folders, which a bucket does not have."""
    return {name: data for name, data in files.items() if not name.endswith("/")}
