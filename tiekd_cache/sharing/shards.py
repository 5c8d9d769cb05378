"""One shard from one place to another: checked before it is sent, read back after, its done-record last.

Two writers of one shard cannot harm each other: no done-record is ever written for bytes that another writer may still
replace. In a folder the claim that `precompute` uses keeps them apart. In a bucket frames are put where there are none,
and whoever finds other bytes there finishes these instead of its own. That they are a shard of this store it sees in
the frames, where they are its own, or else in their announcement: the done-record that their writer has put aside,
under the digest of the bytes, before them.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tiekd_cache.errors import StoreError
from tiekd_cache.sharing.shared_store import Part, damaged, get_metadata, key_of, read_back
from tiekd_cache.statistics import statistics_of
from tiekd_cache.store.chunks import Damage, decode_digests, encode_digests, without_crc
from tiekd_cache.store.claims import claim_shard
from tiekd_cache.store.images import FOLDER, ImageCatalogue, ImageLayout
from tiekd_cache.store.objects import FolderObjects, MissingObject, Objects, OversizedObject
from tiekd_cache.store.record import DoneRecord
from tiekd_cache.store.shard_check import check_frames, check_shard

RETRY_S = 0.2
"""How long to wait before looking again at a shard that another process is making."""


class ConflictError(StoreError):
    """Two stores of one fingerprint hold different responses in one shard."""


@dataclass(frozen=True)
class LoadedShard:
    """A shard in memory, every frame compared with its digest.

    Attributes:
        record: its done-record.
        data: its frames.
        companions: what lies beside them and belongs to them, by key: their digests, or their intrinsics.
        statistics: the same of its statistics; empty where it has none.
        left_out: one line where statistics are damaged: they are no part of the answers, and stay behind.
    """

    record: DoneRecord
    data: bytes
    companions: dict[str, bytes]
    statistics: dict[str, bytes]
    left_out: str | None = None


def load_shard(part: Part, shard: int) -> LoadedShard:
    """All of a finished shard.

    Raises:
        DamagedStoreError: something of it is missing or not what was written; names the key.
        RemoteError: it cannot be had.
    """
    record = part.record(shard)
    objects, key = part.objects, part.shard_key(shard)
    try:
        size = objects.size(key)
        if size != record.file_bytes or size > part.layout.largest_shard:
            raise Damage(f"{size} bytes, the done-record says {record.file_bytes}")
        data = objects.get(key, size)
        check_shard(data, part.layout, record)
        file = _companion_file(part, shard)
        key = key_of(file)
        beside = part.get(file)
        _check_companion(part, record, beside)
    except Damage as damage:
        raise damaged(objects.url, key, f"shard {shard}: {damage}") from damage
    except MissingObject as error:
        raise damaged(objects.url, key, f"shard {shard}: object is missing") from error
    statistics, left_out = _statistics(part, shard)
    return LoadedShard(record, data, {key: beside}, statistics, left_out)


def store_shard(target: Objects, part: Part, loaded: LoadedShard, stop: threading.Event) -> bool:
    """Put a shard at the target, unless it has it or gets it from somebody else meanwhile.

    Args:
        target: holds the part's metadata already.
        stop: when set, waiting for another process ends.
    Returns:
        Whether it was this call that finished it.
    Raises:
        ConflictError: there are bytes without a record that are no shard of this store, or not known to be one.
        StoreError: it cannot be written, or reads back differently.
    """
    shard = loaded.record.shard
    while True:
        with _claimed(target, part, shard) as mine:
            if mine:
                try:
                    return _store(target, part, loaded, alone=isinstance(target, FolderObjects))
                except ConflictError:
                    if not _is_there(target, part, shard):  # finished meanwhile: then it is there, as any other
                        raise
        if _is_there(target, part, shard) or stop.wait(RETRY_S):
            return False


def _store(target: Objects, part: Part, loaded: LoadedShard, *, alone: bool) -> bool:
    record, companions, key = loaded.record, loaded.companions, part.shard_key(loaded.record.shard)
    announced = [] if alone else [_announcement(part, record.shard, record.file_sha256)]
    for name in announced:
        target.put(name, record.to_bytes())
    if target.put(key, loaded.data, if_absent=True):
        read_back(target, key, loaded.data)
    else:
        try:
            record = _taken_over(target, part, loaded, alone=alone)
        except ConflictError:
            _withdraw(target, announced)
            raise
        announced += [] if alone else [_announcement(part, record.shard, record.file_sha256)]
        if not part.is_images:
            companions = {name: encode_digests(record.digests, part.layout.shard_frames) for name in companions}
    for name, data in companions.items():
        if not target.put(name, data, if_absent=True) and target.get(name) != data:
            if part.is_images and not alone:
                raise _other(target, part, record.shard, name)
            target.put(name, data)  # whoever comes here has the same frames, and would write the same digests
        read_back(target, name, data)
    for name, data in loaded.statistics.items():
        target.put(name, data, if_absent=True)
    finished = target.put(part.record_key(record.shard), record.to_bytes(), if_absent=True)
    _withdraw(target, announced)
    return finished


def _withdraw(target: Objects, announced: Sequence[str]) -> None:
    """Remove announcements that are of no use any more; where that fails they are in nobody's way."""
    with contextlib.suppress(StoreError):
        for key in announced:
            target.delete(key)


def _taken_over(target: Objects, part: Part, loaded: LoadedShard, *, alone: bool) -> DoneRecord:
    """The record of bytes that an interrupted writer left, or another one is about to finish.

    Under a claim nobody is, and what does not hold our frames is replaced.
    """
    record, key = loaded.record, part.shard_key(loaded.record.shard)
    try:
        found = target.get(key, part.layout.largest_shard)
        found_sha256 = hashlib.sha256(found).hexdigest()
        if found != loaded.data:
            theirs = None if alone else _announced(target, part, record.shard, found_sha256)
            record = record if theirs is None else theirs
            check_frames(found, part.layout, record)
        return replace(record, file_bytes=len(found), file_sha256=found_sha256)
    except (Damage, MissingObject, OversizedObject) as error:
        if not alone:
            raise _other(target, part, record.shard, key) from error
    target.put(key, loaded.data)
    read_back(target, key, loaded.data)
    return record


def _announcement(part: Part, shard: int, file_sha256: str) -> str:
    """Key of the done-record that a writer puts aside before it puts these bytes of a shard."""
    claim = key_of(part.layout.claim_file(shard))
    return f"{claim.removesuffix('.lock')}-{file_sha256}.json"


def _announced(target: Objects, part: Part, shard: int, file_sha256: str) -> DoneRecord | None:
    """The record that was announced for these bytes; None where there is none. Raises Damage where it is not ours."""
    try:
        record = DoneRecord.from_bytes(get_metadata(target, _announcement(part, shard, file_sha256)))
    except MissingObject:
        return None
    record.check(part.fingerprint, shard, part.layout.positions(shard))
    return record


def _other(target: Objects, part: Part, shard: int, key: str) -> ConflictError:
    return ConflictError(
        f"{target.url} has other {part.name} in shard {shard}, without a done-record ({key}): another writer is at work"
        " there, or was interrupted. Give the same command again when it has finished; if nobody writes there, remove"
        " that object first."
    )


@contextlib.contextmanager
def _claimed(target: Objects, part: Part, shard: int) -> Iterator[bool]:
    """Yields whether the shard is ours to write: in a folder the claim that `precompute` takes as well."""
    if isinstance(target, FolderObjects):
        folder = target.folder / FOLDER if part.is_images else target.folder
        with claim_shard(replace(part.layout, path=folder), shard) as mine:
            yield mine
    else:
        yield not _is_there(target, part, shard)


def _is_there(target: Objects, part: Part, shard: int) -> bool:
    try:
        target.size(part.record_key(shard))
    except MissingObject:
        return False
    return True


def companion_key(part: Part, shard: int) -> str:
    """Key of what lies beside a shard and belongs to it: the digests of its frames, or the intrinsics of its images."""
    return key_of(_companion_file(part, shard))


def _companion_file(part: Part, shard: int) -> Path:
    layout = part.layout
    return layout.intrinsics_file(shard) if isinstance(layout, ImageLayout) else layout.digest_file(shard)


def _check_companion(part: Part, record: DoneRecord, data: bytes) -> None:
    """Raise Damage unless the digests are those of the record, or the intrinsics are whole."""
    frames = part.layout.shard_frames
    if part.is_images:
        if len(without_crc(data)) != 72 * frames:
            raise Damage(f"intrinsics are not those of {frames} frames")
    elif tuple(decode_digests(data, frames, len(record.digests))) != record.digests:
        raise Damage("digests differ from those in the done-record")


def _statistics(part: Part, shard: int) -> tuple[dict[str, bytes], str | None]:
    """(statistics of a shard by key, one line where they are damaged); images have none."""
    if isinstance(part.catalogue, ImageCatalogue):
        return {}, None
    try:
        found = statistics_of(part.catalogue, shard)
    except Damage as damage:
        return {}, f"statistics of shard {shard} of {part.objects.url} were left out: {damage}"
    return {} if found is None else {key_of(part.layout.statistics_file(shard)): found[0]}, None
