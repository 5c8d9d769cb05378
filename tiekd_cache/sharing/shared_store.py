"""A store as objects: its metadata, read and checked from wherever it lies, and the keys of everything in it.

Keys are made here from the layout. What a listing says is only compared with them, so no name that somebody else chose
is ever written to.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tiekd_cache.errors import StoreError
from tiekd_cache.foreign import parse_json
from tiekd_cache.store.catalogue import Catalogue, DamagedStoreError, open_catalogue
from tiekd_cache.store.chunks import Damage, decode_frame_ids
from tiekd_cache.store.images import ImageCatalogue, open_images
from tiekd_cache.store.layout import Layout, same_format
from tiekd_cache.store.object_path import ObjectPath, as_object, as_path, sizes_of
from tiekd_cache.store.objects import MissingObject, Objects, OversizedObject
from tiekd_cache.store.record import DoneRecord
from tiekd_cache.store.signature import Trust, signed_by


@dataclass(frozen=True)
class Part:
    """What is shared by whole shards: the responses of a store, or its images.

    Attributes:
        objects: of the store.
        catalogue: what its metadata say.
    """

    objects: Objects
    catalogue: Catalogue | ImageCatalogue

    @property
    def is_images(self) -> bool:
        """Whether it is the images."""
        return isinstance(self.catalogue, ImageCatalogue)

    @property
    def name(self) -> str:
        """For messages."""
        return "images" if self.is_images else "responses"

    @property
    def layout(self) -> Layout:
        """Where its files are."""
        return self.catalogue.layout

    @property
    def fingerprint(self) -> str:
        """What its done-records must name."""
        catalogue = self.catalogue
        return catalogue.fingerprint if isinstance(catalogue, ImageCatalogue) else catalogue.schema.fingerprint

    @property
    def done(self) -> frozenset[int]:
        """The shards that were finished when the store was opened."""
        return self.catalogue.done

    def record_key(self, shard: int) -> str:
        """Key of a shard's done-record."""
        return key_of(self.layout.record_file(shard))

    def shard_key(self, shard: int) -> str:
        """Key of a shard's frames."""
        return key_of(self.layout.shard_file(shard))

    def shards_of(self, positions: Iterable[int]) -> list[int]:
        """The shards that hold the frames at these positions, ascending."""
        return sorted({position // self.layout.shard_frames for position in positions})

    def sizes(self, shards: list[int]) -> dict[int, int]:
        """Bytes of the frames of these shards; 0 where there are none."""
        return dict(zip(shards, sizes_of([self.layout.shard_file(shard) for shard in shards]), strict=True))

    def get(self, file: Path) -> bytes:
        """As `Catalogue.read`."""
        return (self.catalogue.store if isinstance(self.catalogue, ImageCatalogue) else self.catalogue).read(file)

    def record(self, shard: int) -> DoneRecord:
        """The done-record of a finished shard, checked.

        Raises:
            DamagedStoreError: it is missing, was changed, or belongs to another shard or store.
        """
        try:
            return self.catalogue.record(shard)
        except Damage as reason:
            raise damaged(self.objects.url, self.record_key(shard), reason) from reason

    def metadata(self) -> dict[str, bytes]:
        """Its metadata objects by key, checked, in the order in which they are to be written: `zarr.json` last.

        Raises:
            DamagedStoreError: one is missing or not what was written.
        """
        layout = self.layout
        arrays = {layout.path / name / "zarr.json": kind for name, kind in layout.array_metadata().items()}
        chunks = [] if self.is_images else range(-(-layout.num_frames // layout.frame_id_chunk))
        metadata = {}
        for file in [*arrays, *map(layout.frame_id_file, chunks), layout.path / "zarr.json"]:
            try:
                data = metadata[key_of(file)] = self.get(file)
                if file in arrays and not same_format(parse_json(data), arrays[file]):
                    raise Damage("metadata are not those of format 1")
                if file.name != "zarr.json":
                    decode_frame_ids(data)
            except (Damage, ValueError) as reason:
                raise damaged(self.objects.url, key_of(file), reason) from reason
        return metadata


@dataclass(frozen=True)
class SharedStore:
    """A store's metadata, checked.

    Attributes:
        objects: where it lies.
        catalogue: what its metadata say.
        responses: its responses.
        images: its images; None where it has none.
    """

    objects: Objects
    catalogue: Catalogue
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


def open_shared(objects: Objects, trust: Trust | None = None) -> SharedStore:
    """The store at a place.

    Args:
        trust: who must have signed it.
    Raises:
        MissingObject: there is none.
        DamagedStoreError: its metadata, or those of its images, are not what was written: who writes shards or copies
            them must not take images for absent that are there.
        TrustError: it is not signed by any of these, or has shards that are not.
        StoreError: it is no store, or one of a newer format.
    """
    try:
        objects.size("zarr.json")
    except MissingObject as error:
        raise MissingObject(f"There is no store at {objects.url}: it has no zarr.json. Check the address.") from error
    path = as_path(ObjectPath(objects))
    catalogue = open_catalogue(path, signed_by(path, trust))
    images = open_images(catalogue)
    return SharedStore(objects, catalogue, Part(objects, catalogue), None if images is None else Part(objects, images))


def key_of(path: Path) -> str:
    """The key that a path of an `open_shared` store stands for."""
    return as_object(path).key


def get_metadata(objects: Objects, key: str) -> bytes:
    """A small object.

    Raises:
        MissingObject: it is not there.
        DamagedStoreError: it is far too large to be what its key says, and was not read.
    """
    try:
        return objects.get(key)
    except OversizedObject as error:
        raise damaged(objects.url, key, error) from error


def read_back(target: Objects, key: str, data: bytes) -> None:
    """Raise StoreError unless an object that was written is what was written."""
    try:
        same = target.get(key, len(data)) == data
    except OversizedObject:
        same = False
    if not same:
        raise StoreError(
            f"{key} was written to {target.url} and reads back differently. The disk, the memory or the network is"
            " faulty: check them, remove that object, then give the same command again."
        )


def damaged(url: str, key: str, reason: object) -> DamagedStoreError:
    """The error for what is not as it was written: what, which object, and what to do."""
    return DamagedStoreError(
        f"Store {url} is damaged: {reason} ({key}). What is damaged is never copied; have `tiekd-cache verify` look at"
        " the store where it was made."
    )
