"""A store's metadata at the place where its shards will be put: begun there, or compared with what is there."""

from __future__ import annotations

from collections.abc import Mapping

from tiekd_cache.errors import ConfigError, StoreError
from tiekd_cache.foreign import parse_json
from tiekd_cache.sharing.shared_store import SharedStore, get_metadata, open_shared, read_back
from tiekd_cache.store.chunks import Damage, decode_frame_ids
from tiekd_cache.store.images import FOLDER
from tiekd_cache.store.layout import same_format
from tiekd_cache.store.objects import MissingObject, Objects
from tiekd_cache.store.signature import FILE

_OWN = ("zarr.json", "residual", "frame_id", "digest", "done", "statistics", "claims", FOLDER, FILE)
"""First parts of the keys of a store."""


def require_same(one: SharedStore, other: SharedStore) -> None:
    """Raise StoreError unless two stores have one fingerprint and the same shards; names the fields that differ."""
    differences = one.catalogue.schema.differences(other.catalogue.schema)
    for part, with_it in ((one.responses, other.responses), (one.images, other.images)):
        if part is not None and with_it is not None and part.layout.shard_frames != with_it.layout.shard_frames:
            frames = f"({part.layout.shard_frames}, now {with_it.layout.shard_frames})"
            differences.append(f"frames a shard of the {part.name} {frames}")
    if differences:
        raise StoreError(
            f"{other.url} cannot be joined with {one.url}, they differ in {'; '.join(differences)}. Only stores of one"
            " fingerprint hold the same answers: choose another target, or leave one of them out."
        )


def begin(source: SharedStore, target: Objects) -> SharedStore:
    """The store at the target, for the shards of the source: begun where there is nothing, else compared.

    Each object is put where there is none, `zarr.json` last, in the same order by everyone: of two who begin different
    stores at once, one finds the other's and stops.

    Raises:
        ConfigError: the target can only be read.
        StoreError: something else is there, nothing of which is touched; or it cannot be written.
    """
    try:
        there = open_shared(target)
    except MissingObject:
        require_nothing_else(target)
        put_metadata(source.responses.metadata(), target, source.url)
        there = open_shared(target)
    require_same(there, source)
    if source.images is not None and there.images is None:
        put_metadata(source.images.metadata(), target, source.url)
        there = open_shared(target)
        require_same(there, source)
    return there


def require_nothing_else(target: Objects) -> None:
    """Raise unless there is nothing at the target, or the beginning of a store.

    Raises:
        ConfigError: the target can only be read.
        StoreError: something else is there, or there is no such bucket.
    """
    try:
        listed = target.list()
    except ConfigError as error:
        raise ConfigError(
            f"{target.url} can only be read: a web server takes no store. Name a folder or a bucket."
        ) from error
    other = next((key for key, _ in listed if key.split("/")[0] not in _OWN), None)
    if other is not None:
        raise StoreError(
            f"{target.url} holds other things ({other}) and no store: nothing was touched. Name a place of its own for"
            " the store."
        )


def put_metadata(metadata: Mapping[str, bytes], target: Objects, origin: str) -> None:
    """Put each of these objects where there is none, in their order; `zarr.json` is the last of them.

    Args:
        origin: what they are the metadata of, for messages.
    Raises:
        StoreError: other metadata are there, or something cannot be written.
    """
    for key, data in metadata.items():
        if target.put(key, data, if_absent=True):
            read_back(target, key, data)
        elif key != "zarr.json" and not _same(key, data, get_metadata(target, key)):  # zarr.json: compared by field
            raise StoreError(
                f"{target.url} holds the beginning of another store than {origin}, they differ in {key}. Choose"
                " another place; if nobody is writing there, remove what is there."
            )


def _same(key: str, ours: bytes, theirs: bytes) -> bool:
    """Whether two metadata objects say the same, whatever compressed or spelled them."""
    if ours == theirs:
        return True
    try:
        if key.endswith("zarr.json"):
            return same_format(parse_json(ours), parse_json(theirs))
        return decode_frame_ids(ours) == decode_frame_ids(theirs)
    except (Damage, ValueError):
        return False
