"""Opening a store: attributes, frame list and done-records, checked. What the writer, reader and verify begin with."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tiekd_cache.errors import StoreError
from tiekd_cache.foreign import SMALL_BYTES, parse_json
from tiekd_cache.store.chunks import MAX_FRAME_LIST_BYTES, Damage, NotAsSigned, decode_frame_ids
from tiekd_cache.store.layout import Layout, same_format
from tiekd_cache.store.object_path import name_in, read_again
from tiekd_cache.store.record import DoneRecord, done_shards
from tiekd_cache.store.repair import is_repairable
from tiekd_cache.store.schema import FORMAT, JsonObject, StoreSchema, frames_digest
from tiekd_cache.store.signature import Signed
from tiekd_cache.store.whole import read_whole, unless_absent


@dataclass(frozen=True)
class Catalogue:
    """A store as its metadata describe it. Immutable, so threads and forked processes share it.

    Attributes:
        layout: where its files are.
        schema: its attributes.
        frame_ids: every frame of the finished store, in order.
        done: numbers of the shards that were finished when it was opened.
        signed: what everything in it must be; None where no signature was asked for.
    """

    layout: Layout
    schema: StoreSchema
    frame_ids: Sequence[str]
    done: frozenset[int]
    signed: Signed | None = None

    @property
    def path(self) -> Path:
        """The store's folder."""
        return self.layout.path

    def position(self, frame_id: str) -> int | None:
        """The frame's place in the frame list, or None; the first call builds a dictionary."""
        return self._positions.get(frame_id)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return dict(zip(self.frame_ids, range(len(self.frame_ids)), strict=True))

    def shard_of(self, position: int) -> tuple[int, int]:
        """(shard, place in the shard) of a position in the frame list."""
        return divmod(position, self.layout.shard_frames)

    def is_done(self, position: int) -> bool:
        """Whether the frame at a position was finished when the store was opened."""
        return self.shard_of(position)[0] in self.done

    def num_done(self) -> int:
        """Frames of finished shards."""
        return sum(len(self.layout.positions(shard)) for shard in self.done)

    def done_frame_ids(self) -> Sequence[str]:
        """Ids of the frames of finished shards, in order."""
        if len(self.done) == self.layout.num_shards:
            return self.frame_ids
        return [self.frame_ids[position] for shard in sorted(self.done) for position in self.layout.positions(shard)]

    def record(self, shard: int) -> DoneRecord:
        """The done-record of a shard, checked.

        Raises:
            Damage: it is missing, was changed, is not as signed, or belongs to another shard or store.
        """
        record = DoneRecord.from_bytes(self.read(self.layout.record_file(shard)))
        record.check(self.schema.fingerprint, shard, self.layout.positions(shard))
        return record

    def read(self, file: Path, at_most: int = SMALL_BYTES) -> bytes:
        """All of a file of the store that is no shard, as signed; raises Damage as `read_whole`, and NotAsSigned."""
        return _read_signed(self.path, file, self.signed, at_most)

    def read_optional(self, file: Path) -> bytes | None:
        """As `read`, of a file that the store may lack; None where it does, see `take_for_absent`."""
        return unless_absent(self.path, file, lambda: self.read(file))


class DamagedStoreError(StoreError):
    """Something in a store is not what was written there."""


def damaged(path: Path, file: Path, reason: object, frame_id: str | None = None) -> DamagedStoreError:
    """The error for what is not as it was written: what, which file, which frame, and what to do."""
    frame = "" if frame_id is None else f", frame {frame_id}"
    then = "then with --repair, then the same `precompute`, `push` or `pull` again."
    if not is_repairable(path):
        then = "and tell whoever made it, or take another copy: here it can only be read."
    remedy = f"run `tiekd-cache verify {path}` for all of it, {then}"
    if isinstance(reason, NotAsSigned):
        remedy = "copy the store again from whoever signed it, and do not use this one."
    elif file == path / "zarr.json" or (path / "frame_id") in file.parents:
        remedy = (
            "attributes and frame list cannot be made again from the rest: take the file from another copy of the"
            " store, or make the store anew."
        )
    return DamagedStoreError(
        f"Store {path} is damaged: {reason} ({file}{frame}). What differs from its record is never returned; {remedy}"
    )


def _read_signed(store: Path, file: Path, signed: Signed | None, at_most: int = SMALL_BYTES) -> bytes:
    if signed is None:
        return read_whole(file, store, at_most)
    manifest = signed.manifest

    def read() -> bytes:
        data = read_whole(file, store, at_most)
        manifest.check(name_in(store, file), data)
        return data

    return read_again(lambda: file, read)  # a cache may hold this file of a store with the same answers


def local_path(path: str | Path) -> Path:
    """The path of a folder to write to as an absolute one, which another working directory does not change.

    Raises:
        StoreError: it is a URL.
    """
    if "://" in str(path):
        raise StoreError(f"{path} is a URL: this works on a folder. Name one; `push` brings it to the URL")
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 - resolve() would follow links


def is_store(path: Path) -> bool:
    """Whether the folder calls itself a tiekd-cache store of any format, or has the parts of one."""
    try:
        if _format_of(parse_json(read_whole(path / "zarr.json", path))) is not None:
            return True
    except (Damage, ValueError):
        pass  # its parts may still tell a damaged store from something else
    return all((path / part).is_dir() for part in ("residual", "frame_id", "digest", "done"))


def open_catalogue(path: Path, signed: Signed | None = None) -> Catalogue:
    """A store's metadata, every digest compared; one file for the attributes, one for each 65536 frames.

    Args:
        path: what `store_path` gives.
        signed: what they must be, too.
    Raises:
        StoreError: there is no store, it is of a newer format, or its metadata were changed; TrustError where it has
            shards that are not signed.
    """
    group = read_group(path, signed)
    try:
        schema = StoreSchema.from_attributes(group["attributes"])
    except StoreError as error:
        raise damaged(path, path / "zarr.json", error) from error
    try:
        layout = layout_of(path, group, schema)
    except Damage as damage:
        raise damaged(path, path / "zarr.json", damage) from damage
    frame_ids = _read_frame_ids(layout, schema, signed)  # first: as many frames as they declare there are then
    try:
        done = done_shards(path / "done", layout.num_shards)
    except OSError as error:
        raise damaged(path, path / "done", f"done-records cannot be listed ({error.strerror})") from error
    if signed is not None:
        signed.require_names(path, (name_in(path, layout.record_file(shard)) for shard in done))
    return Catalogue(layout, schema, frame_ids, done, signed)


def read_group(path: Path, signed: Signed | None = None) -> JsonObject:
    """The group's `zarr.json`, of format 1; the attributes are not looked at further.

    Args:
        signed: what it must be.
    Raises:
        StoreError: there is none, it is no store's, or a newer tiekd-cache wrote it.
    """
    file = path / "zarr.json"
    if not path.exists():
        raise StoreError(f"There is no store at {path}: check the path, or make it with `tiekd-cache precompute`")
    if not is_store(path):
        raise StoreError(f"{path} is no tiekd-cache store ({file} names no format 'tiekd-cache/…'): check the path")
    try:
        group = parse_json(_read_signed(path, file, signed))
    except NotAsSigned as reason:
        raise damaged(path, file, reason) from reason
    except (Damage, ValueError) as error:
        raise damaged(path, file, f"metadata cannot be read ({error})") from error
    found = _format_of(group)
    if found is None:
        raise damaged(path, file, "the attributes name no format 'tiekd-cache/…'")
    if found != FORMAT:
        raise StoreError(
            f"Store {path} has format {found!r} ({file}); this version reads {FORMAT!r}: a newer tiekd-cache reads it,"
            " `pip install --upgrade tiekd-cache`"
        )
    return group  # type: ignore[no-any-return]


def layout_of(path: Path, group: JsonObject, schema: StoreSchema) -> Layout:
    """Where the files are, from the arrays' metadata in the group.

    Raises:
        Damage: the metadata are not those of format 1 for these attributes.
    """
    try:
        arrays = group["consolidated_metadata"]["metadata"]
        shard_frames = arrays["residual"]["chunk_grid"]["configuration"]["chunk_shape"][0]
    except (KeyError, IndexError, TypeError) as error:
        raise Damage("metadata of the arrays are missing") from error
    if type(shard_frames) is not int:
        raise Damage(f"shards of {shard_frames!r} frames make no sense")
    layout = Layout(path, schema.num_frames, schema.native_size, shard_frames)
    if problem := layout.problem():
        raise Damage(problem)
    if not same_format(arrays, layout.array_metadata()):
        raise Damage("metadata of the arrays are not those of format 1: they were changed")
    return layout


def _format_of(group: Any) -> str | None:
    attributes = group.get("attributes") if isinstance(group, dict) else None
    found = attributes.get("format") if isinstance(attributes, dict) else None
    return found if isinstance(found, str) and re.fullmatch(r"tiekd-cache/\d+", found) else None


def _read_frame_ids(layout: Layout, schema: StoreSchema, signed: Signed | None) -> list[str]:
    frame_ids: list[str] = []
    left = MAX_FRAME_LIST_BYTES
    for chunk in range(-(-layout.num_frames // layout.frame_id_chunk)):
        file = layout.frame_id_file(chunk)
        try:
            found = decode_frame_ids(_read_signed(layout.path, file, signed), left)
        except Damage as damage:
            raise damaged(layout.path, file, damage) from damage
        frame_ids += found
        left -= sum(map(len, found))
    del frame_ids[layout.num_frames :]
    if len(frame_ids) != layout.num_frames or frames_digest(frame_ids) != schema.dataset["frames_digest"]:
        reason = "the frame list does not match its digest in the attributes: it was changed"
        raise damaged(layout.path, layout.frame_id_file(0), reason)
    return frame_ids
