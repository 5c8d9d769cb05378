"""What must hold of an object before the cache keeps it, and of a small one whenever it is taken from the cache."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tiekd_cache.errors import StoreError
from tiekd_cache.foreign import parse_json
from tiekd_cache.store.catalogue import layout_of
from tiekd_cache.store.chunks import Damage, without_crc
from tiekd_cache.store.images import ImageLayout, image_layout
from tiekd_cache.store.layout import Layout
from tiekd_cache.store.record import DoneRecord
from tiekd_cache.store.schema import JsonObject, StoreSchema
from tiekd_cache.store.signature import FILE as SIGNATURE
from tiekd_cache.store.signature import StoreSignature

_SHARD = re.compile(r"(?:residual/c/(\d+)/0/0|images/image/c/(\d+)/0/0/0)")
_RECORD = re.compile(r"(?:images/)?done/(\d+)\.json")
_CHECKSUMMED = re.compile(r"frame_id/c/\d+|images/intrinsics/c/\d+/0/0")
ATTRIBUTES = ("zarr.json", "images/zarr.json", SIGNATURE)


@dataclass(frozen=True)
class ShardKey:
    """A shard by the key of its object.

    Attributes:
        shard: its number.
        images: whether it holds images.
    """

    shard: int
    images: bool

    @classmethod
    def of(cls, key: str) -> ShardKey | None:
        """The shard that an object is; None where it is none."""
        match = _SHARD.fullmatch(key)
        return None if match is None else cls(int(match[1] or match[2]), match[1] is None)

    @classmethod
    def of_record(cls, key: str) -> ShardKey | None:
        """The shard whose done-record an object is; None where it is none."""
        match = _RECORD.fullmatch(key)
        return None if match is None else cls(int(match[1]), key.startswith("images/"))

    @property
    def key(self) -> str:
        """The key of its object."""
        return f"images/image/c/{self.shard}/0/0/0" if self.images else f"residual/c/{self.shard}/0/0"

    @property
    def record(self) -> str:
        """The key of its done-record."""
        return f"{'images/' if self.images else ''}done/{self.shard:05d}.json"


def is_small(key: str) -> bool:
    """Whether an object is kept and is no shard: attributes, signature, frame list, done-records, intrinsics."""
    return key in ATTRIBUTES or any(part.fullmatch(key) for part in (_RECORD, _CHECKSUMMED))


def check_small(key: str, data: bytes) -> None:
    """Raise Damage where a small object is torn or was changed, as far as it tells by itself."""
    if match := _RECORD.fullmatch(key):
        if DoneRecord.from_bytes(data).shard != int(match[1]):
            raise Damage("done-record is that of another shard")
    elif _CHECKSUMMED.fullmatch(key):
        without_crc(data)
    elif key == SIGNATURE:
        StoreSignature.from_bytes(data)
    else:
        parse_attributes(data)


def parse_attributes(data: bytes) -> JsonObject:
    """A group's `zarr.json`; raises Damage where it is no JSON object with attributes."""
    try:
        group = parse_json(data)
    except ValueError as error:
        raise Damage(f"metadata are no JSON ({error})") from error
    if not isinstance(group, dict) or not isinstance(group.get("attributes"), dict):
        raise Damage("metadata have no attributes")
    return group


def read_schema(data: bytes) -> tuple[StoreSchema, Layout]:
    """What a store's `zarr.json` says, and its shards; the layout's path is of no place.

    Raises:
        Damage: it is not that of a store of format 1, or was changed.
    """
    group = parse_attributes(data)
    try:
        schema = StoreSchema.from_attributes(group["attributes"])
    except StoreError as error:
        raise Damage(str(error)) from error
    return schema, layout_of(Path(), group, schema)


def shards_of(images: bytes, store: Layout, schema: StoreSchema) -> tuple[ImageLayout, str]:
    """The shards of a store's images, and the fingerprint that their done-records have.

    Args:
        images: the `zarr.json` of the images.
        store: the shards of the responses.
        schema: of the store.
    Raises:
        Damage: they are not of format 1.
    """
    group = parse_attributes(images)
    try:
        shard_frames = group["consolidated_metadata"]["metadata"]["image"]["chunk_grid"]["configuration"][
            "chunk_shape"
        ][0]
        fingerprint = group["attributes"]["fingerprint"]
    except (KeyError, IndexError, TypeError) as error:
        raise Damage("metadata of the images are missing") from error
    return image_layout(Path(), store, schema, shard_frames), fingerprint
