"""Copying stores by whole shards (`push`, `pull`) and joining partial ones (`merge`): what to do, and doing it.

What is there with its done-record is skipped, so any stop costs the shards under way and the same call goes on. What
cannot be copied because the source is damaged is said at the end, when the rest is safe.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from tiekd_cache.errors import DataError, StoreError
from tiekd_cache.openssh import Signers
from tiekd_cache.progress import ProgressFactory, progress_bar
from tiekd_cache.sharing.metadata import begin, require_same
from tiekd_cache.sharing.shards import ConflictError, load_shard, store_shard
from tiekd_cache.sharing.shared_store import Part, SharedStore, open_shared
from tiekd_cache.sharing.signatures import carry_signature
from tiekd_cache.store.catalogue import DamagedStoreError
from tiekd_cache.store.objects import MissingObject, Objects

Note = Callable[[str], None]


@dataclass(frozen=True)
class ShareReport:
    """What a copy or a merge did.

    Attributes:
        target: where the store is now.
        frames: responses there now.
        store_frames: responses of the finished store.
        sent: shards, of responses and of images, that this call put there.
        there_before: shards of what was asked for that were there already.
        missing: shards of what was asked for whose responses or images no source has finished.
        num_bytes: of the frames that were sent.
        seconds: wall time.
        notes: one line each: what was left behind because it is damaged and no part of the answers, or a signature
            that does not hold for what is there now.
    """

    target: str
    frames: int
    store_frames: int
    sent: int
    there_before: int
    missing: int
    num_bytes: int
    seconds: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Task:
    """A shard to be copied, from the first of these sources whose copy is whole."""

    shard: int
    sources: tuple[Part, ...]
    num_bytes: int


def copy_store(
    source: Objects,
    target: Objects,
    *,
    frame_ids: Sequence[str] | None = None,
    jobs: int = 4,
    trust: Signers | None = None,
    progress: ProgressFactory = progress_bar,
    note: Note = lambda text: None,
) -> ShareReport:
    """Copy the finished shards of a store to another place, which may hold a part of the same store.

    Args:
        frame_ids: copy only the shards that hold these; all where None.
        jobs: shards under way at once; each takes its size twice in memory.
        trust: who must have signed the source; nothing is written that they did not sign.
        progress: makes the progress bar, in bytes.
        note: takes sentences for the user.
    Raises:
        ConfigError: the target can only be read, or is the source.
        DataError: the store has none of the frames, or lacks some without saying why.
        StoreError: there is no store at the source, the target holds another one, a shard of the source is damaged
            (the others are copied first), or something cannot be read or written.
        TrustError: the source is not signed by any of these, or has shards that are not.
    """
    return _share([open_shared(source, trust)], target, frame_ids, jobs, progress, note, compare=False)


def merge_stores(
    sources: Sequence[Objects],
    target: Objects,
    *,
    jobs: int = 4,
    progress: ProgressFactory = progress_bar,
    note: Note = lambda text: None,
) -> ShareReport:
    """Join partial stores of one fingerprint at the target, which may be one of them, or hold a part already.

    Args:
        sources: at least one; a shard that several have is taken from the first whose copy is whole.
        jobs, progress, note: as for `copy_store`.
    Raises:
        ConflictError: two of them hold different responses in one shard; nothing was written.
        StoreError: they differ in a field of the fingerprint, which is named; nothing was written; or as `copy_store`.
    """
    opened = [open_shared(objects) for objects in sources]
    for other in opened[1:]:
        require_same(opened[0], other)
    return _share(opened, target, None, jobs, progress, note, compare=True)


def _share(
    sources: Sequence[SharedStore],
    target: Objects,
    frame_ids: Sequence[str] | None,
    jobs: int,
    progress: ProgressFactory,
    note: Note,
    *,
    compare: bool,
) -> ShareReport:
    started = time.monotonic()
    positions = _positions(sources[0], frame_ids, note)
    with ThreadPoolExecutor(jobs) as pool:
        if compare:
            _require_no_conflict([*sources, *_already_at(target, sources)], pool)
        sources = [store for store in sources if store.url.rstrip("/") != target.url.rstrip("/")]
        if not sources:
            raise StoreError(f"{target.url} is the source and the target: there is nothing to do. Name another target.")
        there = begin(next((store for store in sources if store.images), sources[0]), target)
        tasks, before, missing = _plan(sources, there, positions)
        sent, notes = _run(tasks, target, pool, progress)
        after = open_shared(target)
        notes += carry_signature(sources, after)
        catalogue = after.catalogue
    return ShareReport(
        target=target.url,
        frames=catalogue.num_done(),
        store_frames=catalogue.layout.num_frames,
        sent=len(sent),
        there_before=before,
        missing=missing,
        num_bytes=sum(task.num_bytes for task in sent),
        seconds=round(time.monotonic() - started, 3),
        notes=tuple(notes),
    )


def _positions(store: SharedStore, frame_ids: Sequence[str] | None, note: Note) -> Sequence[int]:
    """Positions of the frames that are asked for."""
    if frame_ids is None:
        return range(store.catalogue.layout.num_frames)
    places = {frame_id: store.catalogue.position(frame_id) for frame_id in frame_ids}
    dataset = store.catalogue.schema.dataset
    skipped = {item["frame_id"] for item in dataset["skipped"]}
    without = [frame_id for frame_id, place in places.items() if place is None and frame_id in skipped]
    unknown = [frame_id for frame_id, place in places.items() if place is None and frame_id not in skipped]
    found = [place for place in places.values() if place is not None]
    if unknown or not found:
        raise DataError(
            f"{len(unknown)} of {len(places)} frames are not in the frame list of {store.url}"
            f" ({(unknown or without)[0]}); it is of {dataset['split']} and holds frames like"
            f" {store.catalogue.frame_ids[0]}. Ask for frames that it has."
        )
    if without:
        note(f"{len(without)} frames have no response in this store, its maker left them out ({without[0]})")
    return found


def _already_at(target: Objects, sources: Sequence[SharedStore]) -> list[SharedStore]:
    """The store at the target, where there is one that is none of the sources."""
    if any(store.url.rstrip("/") == target.url.rstrip("/") for store in sources):
        return []
    try:
        there = open_shared(target)
    except MissingObject:
        return []
    require_same(there, sources[0])
    return [there]


def _require_no_conflict(stores: Sequence[SharedStore], pool: ThreadPoolExecutor) -> None:
    """Raise ConflictError where two of the stores hold different frames in one shard."""
    for is_images in (False, True):
        parts = [part for store in stores for part in store.parts if part.is_images == is_images]
        first: dict[int, Part] = {}
        pairs = []
        for part in parts:
            for shard in sorted(part.done):
                if first.setdefault(shard, part) is not part:
                    pairs.append((shard, first[shard], part))

        def differ(pair: tuple[int, Part, Part]) -> bool:
            shard, one, other = pair
            return one.record(shard).digests != other.record(shard).digests

        conflicts = [pair for pair, other in zip(pairs, pool.map(differ, pairs), strict=True) if other]
        if conflicts:
            _, one, other = conflicts[0]
            shards = ", ".join(str(shard) for shard, *_ in conflicts[:10])
            raise ConflictError(
                f"{other.objects.url} and {one.objects.url} hold different {one.name} in {len(conflicts)} shards"
                f" ({shards}{', …' if len(conflicts) > 10 else ''}), though they have one fingerprint: nothing was"
                " merged. Leave one of them out; `tiekd-cache verify --against-teacher` tells what the teacher says."
            )


def _plan(sources: Sequence[SharedStore], there: SharedStore, positions: Sequence[int]) -> tuple[list[_Task], int, int]:
    """(what is to be copied, shards that are there, shards that no source has finished, each counted once)."""
    tasks: list[_Task] = []
    before = 0
    missing: set[int] = set()
    for part in there.parts:
        wanted = part.shards_of(positions)
        todo = [shard for shard in wanted if shard not in part.done]
        having = [own for store in sources for own in store.parts if own.is_images == part.is_images]
        sizes: dict[int, int] = {}
        for own in having:
            sizes = {**own.sizes([shard for shard in todo if shard in own.done]), **sizes}
        for shard in todo:
            holders = tuple(own for own in having if shard in own.done)
            if holders:
                tasks.append(_Task(shard, holders, sizes[shard]))
            else:
                missing.add(shard)
        before += len(wanted) - len(todo)
    return tasks, before, len(missing)


def _run(
    tasks: Sequence[_Task], target: Objects, pool: ThreadPoolExecutor, progress: ProgressFactory
) -> tuple[list[_Task], list[str]]:
    """(those that this call copied, notes); the first error other than a damaged source stops the rest."""
    stop = threading.Event()
    sent: list[_Task] = []
    notes: list[str] = []
    damages: list[str] = []
    with progress(sum(task.num_bytes for task in tasks), "copy", "B") as bar:
        futures = {pool.submit(_copy, task, target, stop): task for task in tasks}
        try:
            for future in as_completed(futures):
                try:
                    mine, left_out = future.result()
                except DamagedStoreError as error:
                    damages.append(str(error))
                    continue
                notes += left_out
                sent += [futures[future]] if mine else []
                bar.update(futures[future].num_bytes)
        finally:
            stop.set()
            for future in futures:
                future.cancel()
    if damages:
        more = f" Nor were {len(damages) - 1} other shards." if len(damages) > 1 else ""
        raise DamagedStoreError(f"{damages[0]}{more} Everything else that was asked for is at {target.url}.")
    return sent, notes


def _copy(task: _Task, target: Objects, stop: threading.Event) -> tuple[bool, list[str]]:
    """(whether this call finished the shard at the target, notes); raises as `load_shard` and `store_shard`."""
    if stop.is_set():
        return False, []
    for number, source in enumerate(task.sources, start=1):
        try:
            loaded = load_shard(source, task.shard)
        except DamagedStoreError:
            if number == len(task.sources):
                raise
            continue  # another one may have it whole
        return store_shard(target, source, loaded, stop), [loaded.left_out] if loaded.left_out else []
    return False, []
