"""Looking at every byte of a store: `verify_store` lists what is wrong and, if asked, drops it."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tiekd_cache.errors import StoreError
from tiekd_cache.foreign import parse_json
from tiekd_cache.store.catalogue import (
    Catalogue,
    DamagedStoreError,
    open_catalogue,
    read_group,
)
from tiekd_cache.store.chunks import Damage, decode_digests
from tiekd_cache.store.codec import frame_digest
from tiekd_cache.store.layout import metadata_bytes, same_format
from tiekd_cache.store.object_path import store_path
from tiekd_cache.store.record import DoneRecord, done_shards
from tiekd_cache.store.repair import remove, require_repairable, write
from tiekd_cache.store.schema import sha256_of
from tiekd_cache.store.shard_file import ShardBytes
from tiekd_cache.store.signature import Trust, signed_by
from tiekd_cache.store.verify_images import check_images
from tiekd_cache.store.verify_notes import stray_files, unfinished
from tiekd_cache.store.whole import read_whole


class ProgressBar(Protocol):
    """What is told how many frames have been looked at since the last time."""

    def update(self, n: int, /) -> Any:
        """Add `n` frames."""


Progress = Callable[[int, str, str], AbstractContextManager[ProgressBar]]
"""Makes a bar from (total, description, unit)."""


@dataclass(frozen=True)
class VerifyReport:
    """What was found.

    Attributes:
        path: the store's folder; what `store_path` gives where it is none.
        num_frames: frames of the finished store; 0 where the metadata do not even tell that.
        frames_checked: frames that are exactly what was written.
        problems: one line each, with the file: what is damaged.
        notes: what is no damage: frames that are not there yet, files that do not belong.
        repaired: the problems that were dropped, so that the next `precompute`, `push` or `pull` brings anew what is
            missing; those that stay need the file from another copy of the store, or a new store.
    """

    path: Path
    num_frames: int
    frames_checked: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    repaired: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong, or nothing is wrong any more."""
        return set(self.problems) <= set(self.repaired)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "path": str(self.path),
            "whole": self.whole,
            "frames": self.num_frames,
            "frames_checked": self.frames_checked,
            "problems": list(self.problems),
            "notes": list(self.notes),
            "repaired": list(self.repaired),
        }


def verify_store(
    path: str | Path,
    progress: Progress | None = None,
    *,
    repair: bool = False,
    threads: int | None = None,
    trust: Trust | None = None,
) -> VerifyReport:
    """Compare everything in a store with its digests: attributes, frame list, array metadata, records, every frame.

    Args:
        path: the store's folder, `.zip` file or URL.
        progress: makes a progress bar; none is shown without it.
        repair: drop the shards that are wrong, done-record first, and wrong statistics; write Zarr metadata anew. In a
            folder or a bucket.
        threads: that check side by side, each a shard; as many as this process may use cores where None.
        trust: who must have signed it: what is not as they signed it is a problem.
    Raises:
        StoreError: there is no store, or one of a newer format; or a repair cannot be written.
        ConfigError: a repair of what can only be read.
        TrustError: it is not signed by any of these, or has shards that are not.
    """
    path = store_path(path)
    if repair:
        require_repairable(path)
    signed = signed_by(path, trust)
    try:
        catalogue = open_catalogue(path, signed)
    except DamagedStoreError as error:
        note = "nothing else was checked: without these metadata the rest has no meaning"
        return VerifyReport(path, 0, 0, (str(error),), (note,))
    problems, repaired = _check_metadata(catalogue, repair)
    whole = 0
    bar: AbstractContextManager[ProgressBar] = contextlib.nullcontext(_Silent())
    if progress is not None:
        bar = progress(catalogue.num_done(), "verify", "frame")
    with bar as shown, contextlib.closing(_check_shards(catalogue, threads)) as checked:
        for shard, found in checked:
            problems += found
            whole += 0 if found else len(catalogue.layout.positions(shard))
            if found and repair:
                try:
                    drop_shard(catalogue, shard)
                    repaired += found
                except StoreError as error:  # say so at the end, and mend the others
                    problems.append(f"shard {shard} cannot be dropped: {error}")
            shown.update(len(catalogue.layout.positions(shard)))
    for file, problem in _check_statistics(catalogue):
        problems.append(problem)
        if repair:
            remove([file], catalogue.path)
            repaired.append(problem)
    of_images, repaired_images, image_notes = check_images(catalogue, repair)
    problems += of_images
    repaired += repaired_images
    notes = [*unfinished(catalogue), *image_notes, *stray_files(catalogue)]
    return VerifyReport(path, catalogue.layout.num_frames, whole, tuple(problems), tuple(notes), tuple(repaired))


def drop_shard(catalogue: Catalogue, shard: int) -> None:
    """Forget a shard: its done-record goes first, so that no moment leaves a record without its shard."""
    layout = catalogue.layout
    remove((layout.record_file(shard), layout.shard_file(shard), layout.digest_file(shard)), layout.path)


class _Silent:
    def update(self, n: int, /) -> None:
        """Show nothing."""


def _check_metadata(catalogue: Catalogue, repair: bool) -> tuple[list[str], list[str]]:
    """(problems, those repaired) of the Zarr metadata. They follow from the attributes, which are whole."""
    group = read_group(catalogue.path)
    own = catalogue.layout.group_metadata(catalogue.schema)
    documents = {"zarr.json": {**own, "attributes": {**group["attributes"], **own["attributes"]}}}
    for name, expected in catalogue.layout.array_metadata().items():
        documents[f"{name}/zarr.json"] = expected
    problems, repaired = [], []
    for name, expected in documents.items():
        file = catalogue.path / name
        try:
            if not same_format(parse_json(catalogue.read(file)), expected):
                raise Damage("metadata are not those of format 1")
        except (Damage, ValueError) as error:
            problems.append(f"{file}: {error}")
            if repair:
                write(file, metadata_bytes(expected), catalogue.path)
                repaired.append(problems[-1])
    return problems, repaired


def _check_shards(catalogue: Catalogue, threads: int | None) -> Generator[tuple[int, list[str]], None, None]:
    """(shard, what is wrong with it) of all that are done, in order; closing it ends the threads.

    Threads suffice: hashing, decompressing and undoing the prediction leave Python's lock. A few shards more than
    threads are under way, so that a store of any size takes the memory of those.
    """
    threads = len(os.sched_getaffinity(0)) if threads is None and hasattr(os, "sched_getaffinity") else threads or 1
    under_way: deque[tuple[int, Future[list[str]]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for shard in sorted(catalogue.done):
                under_way.append((shard, pool.submit(lambda shard: list(_check_shard(catalogue, shard)), shard)))
                if len(under_way) > threads:
                    number, future = under_way.popleft()
                    yield number, future.result()
            for number, future in under_way:
                yield number, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _check_shard(catalogue: Catalogue, shard: int) -> Iterator[str]:
    """What is wrong with a shard that has a done-record."""
    layout = catalogue.layout
    try:
        record = catalogue.record(shard)
    except Damage as damage:
        yield f"{layout.record_file(shard)}: {damage}"
        return
    yield from _check_frames(catalogue, shard, record)
    file = layout.digest_file(shard)
    try:
        digests = decode_digests(catalogue.read(file), layout.shard_frames, len(record.digests))
        if tuple(digests) != record.digests:
            raise Damage("digests differ from those in the done-record")
    except Damage as damage:
        yield f"{file}: {damage}"


def _check_frames(catalogue: Catalogue, shard: int, record: DoneRecord) -> Iterator[str]:
    layout = catalogue.layout
    file = layout.shard_file(shard)
    try:
        data = read_whole(file, layout.path, layout.largest_shard)
        if len(data) != record.file_bytes:
            yield f"{file}: {len(data)} bytes, the done-record says {record.file_bytes}"
        elif hashlib.sha256(data).hexdigest() != record.file_sha256:
            yield f"{file}: sha256 differs from that in the done-record"
        opened = ShardBytes(data, layout, shard)
    except Damage as damage:
        yield f"{file}: {damage}"
        return
    codes = np.empty(layout.native_size, np.uint16)
    for place, position in enumerate(layout.positions(shard)):
        try:
            opened.codes(place, codes)
            if frame_digest(codes) != record.digests[place]:
                raise Damage("the response does not have the digest in the done-record")
        except Damage as damage:
            yield f"{file}: frame {catalogue.frame_ids[position]}: {damage}"


def _check_statistics(catalogue: Catalogue) -> Iterator[tuple[Path, str]]:
    """(file, what is wrong with it) of the statistics of finished shards; a shard need not have any."""
    there = done_shards(catalogue.layout.statistics_file(0).parent, catalogue.layout.num_shards, catalogue.path)
    for shard in sorted(catalogue.done):
        file = catalogue.layout.statistics_file(shard)
        if shard not in there:
            continue
        try:
            document = parse_json(catalogue.read(file))
            if not isinstance(document, dict):
                raise Damage("statistics are no JSON object")
            if document.pop("statistics_digest", None) != sha256_of(document):
                raise Damage("statistics do not match their own digest: they were changed")
            if (document.get("fingerprint"), document.get("shard")) != (catalogue.schema.fingerprint, shard):
                raise Damage("statistics belong to another store or shard")
        except (Damage, ValueError) as error:
            yield file, f"{file}: {error}"
