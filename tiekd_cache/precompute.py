"""Stage one: the teacher looks at every frame once, and what it says goes into the store.

One function turns a shard number into a verified shard; whoever hands out the numbers (this loop, another
process on the same store, a cluster's scheduler) needs no coordinator. What stopped half-way is not there; the next
start makes it.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tiekd_cache.answering import (
    MIN_DEPTH_M,
    answer_batches,
    ask,
    in_batches,
    load_batch,
    split_answerable,
)
from tiekd_cache.data.frame import DepthMap, FrameSource
from tiekd_cache.device import describe_device
from tiekd_cache.errors import DataError
from tiekd_cache.filling import Claim, Pieces, fill_store, frames_to_make
from tiekd_cache.image_filling import fill_images
from tiekd_cache.launch import Launch, ShardRange
from tiekd_cache.precompute_config import PrecomputeConfig
from tiekd_cache.progress import ProgressFactory, progress_bar
from tiekd_cache.sharing.bucket_writer import open_writer_at
from tiekd_cache.speed import check_precision, compile_networks, lay_out, precision_difference
from tiekd_cache.statistics import ShardStatistics, read_statistics, shard_statistics
from tiekd_cache.store import StoreSchema, StoreWriter
from tiekd_cache.store.object_path import StorePlace
from tiekd_cache.teachers import Teacher

__all__ = [
    "PrecomputeConfig",
    "PrecomputeReport",
    "answer_frames",
    "build_schema",
    "make_shard",
    "make_shards",
    "open_writer",
    "precompute",
    "warm_up",
]


@dataclass(frozen=True)
class PrecomputeReport:
    """What a run of stage one did.

    Attributes:
        store: where the responses are.
        frames: responses in the store now.
        store_frames: responses of the finished store: more than `frames` where only some shards were to be made.
        made: of these, how many this run computed.
        skipped: (frame_id, reason) of frames that the teacher cannot answer.
        seconds: wall time.
        warning: one line where the responses disagree with ground truth as a wrong unit would.
    """

    store: StorePlace
    frames: int
    store_frames: int
    made: int
    skipped: tuple[tuple[str, str], ...]
    seconds: float
    warning: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the store is finished."""
        return self.frames == self.store_frames


def precompute(
    teacher: Teacher,
    source: FrameSource,
    store_path: StorePlace,
    config: PrecomputeConfig,
    *,
    shards: ShardRange | None = None,
    launch: Launch | None = None,
    progress: ProgressFactory = progress_bar,
    note: Callable[[str], None] = lambda text: None,
    check: Callable[[StoreSchema], None] = lambda schema: None,
) -> PrecomputeReport:
    """Answers every frame of the source that the store does not hold yet.

    Args:
        shards: make only these, and do not wait for what other processes are making.
        launch: this process's place among others that do the same; decides which shards it tries first.
        progress: makes the progress bar.
        note: takes sentences for the user (what was skipped, what is waited for).
        check: sees the store's attributes before anything is written, and may raise.
    Raises:
        ConfigError: a setting is unknown, `shards` lie beyond the store, or it can only be read; or `compile` fails.
        DeviceError: the device does not compute in the precision.
        RangeError: the teacher said NaN, an infinite, a negative or an out-of-range depth; names the frame.
        StoreError: the store belongs to other settings, or cannot be written.
        DataError: a frame cannot be read, or the teacher can answer none.
    """
    started = time.monotonic()
    writer = open_writer(teacher, source, store_path, config, check, note)
    if writer.shard_frames != config.shard_frames:
        note(f"The store has shards of {writer.shard_frames} frames, as it was begun, not of {config.shard_frames}.")
    chosen = range(writer.num_shards) if shards is None else shards.of(writer.num_shards)
    missing = frames_to_make(writer, chosen)
    if missing:
        warm_up(teacher, source, writer.frames_of(chosen[0]), config, note)
    total = sum(len(writer.frames_of(shard)) for shard in chosen)
    with progress(total, f"precompute {teacher.name}", "frame", total - missing) as bar:
        order = (Launch() if launch is None else launch).order(chosen)
        wait = shards is None
        made = make_shards(writer, teacher, source, config, order, wait=wait, advance=bar.update, note=note)
    schema = writer.schema
    return PrecomputeReport(
        store=store_path,
        frames=schema.num_frames - frames_to_make(writer),
        store_frames=schema.num_frames,
        made=made,
        skipped=tuple((one["frame_id"], one["reason"]) for one in schema.dataset["skipped"]),
        seconds=time.monotonic() - started,
        warning=read_statistics(store_path).unit_warning(schema.teacher),
    )


def open_writer(
    teacher: Teacher,
    source: FrameSource,
    store_path: StorePlace,
    config: PrecomputeConfig,
    check: Callable[[StoreSchema], None] = lambda schema: None,
    note: Callable[[str], None] = lambda text: None,
) -> StoreWriter:
    """The writer of the store that these settings make; begins the store where it is not there yet.

    Raises:
        As `precompute`.
    """
    answerable, skipped = split_answerable(teacher, source)
    if not answerable:
        raise DataError(f"Teacher {teacher.name} can answer none of the {len(skipped)} frames: {skipped[0][1]}.")
    check_precision(config.precision, teacher.device)
    lay_out(teacher, config.channels_last, config.precision)
    schema = build_schema(teacher, source, answerable, skipped, config)
    check(schema)
    return open_writer_at(store_path, schema, answerable, shard_frames=config.shard_frames, note=note)


def make_shard(writer: StoreWriter, teacher: Teacher, source: FrameSource, config: PrecomputeConfig, shard: int) -> int:
    """Makes one shard of a store, written, read back and recorded as done, unless it is there or in other hands.

    The unit of work for any launcher: it may be called for any shard, any number of times, by any process.

    Args:
        writer: of `open_writer` with the same teacher, source and config.
        shard: 0 to `writer.num_shards` - 1.
    Returns:
        How many frames it made: 0 where there was nothing to do.
    Raises:
        As `precompute`.
    """
    return make_shards(writer, teacher, source, config, [shard])


def make_shards(
    writer: StoreWriter,
    teacher: Teacher,
    source: FrameSource,
    config: PrecomputeConfig,
    shards: Sequence[int],
    *,
    wait: bool = False,
    advance: Callable[[int], object] = lambda count: None,
    note: Callable[[str], None] = lambda text: None,
) -> int:
    """`make_shard` for several: decodes, asks and writes at the same time, across them; returns the frames made.

    Args:
        shards: their numbers, in the order in which they are tried.
        wait: whether to stay until those that other processes are making are there, too.
        advance: is told how many more frames were answered.
        note: takes sentences for the user.
    """
    rules = config.rules(teacher, source)
    if config.with_images:
        fill_images(writer.images(), source, shards, workers=rules.workers, note=note)

    def answer(claims: Iterator[Claim]) -> Pieces:
        asked: deque[Claim] = deque()

        def batches() -> Iterator[Sequence[str]]:
            for claim in claims:
                for batch in in_batches(claim.frame_ids, rules.batch_size):
                    asked.append(claim)
                    yield batch

        with contextlib.closing(answer_batches(teacher, source, batches(), rules)) as answers:
            for depth in answers:
                yield asked.popleft(), depth

    def look(shard: int, frame_ids: Sequence[str], depth: DepthMap) -> ShardStatistics:
        return shard_statistics(writer.schema, shard, frame_ids, depth, source)

    return fill_store(writer, answer, look, shards=shards, wait=wait, advance=advance, note=note)


def warm_up(
    teacher: Teacher,
    source: FrameSource,
    frame_ids: Sequence[str],
    config: PrecomputeConfig,
    note: Callable[[str], None],
) -> None:
    """What costs a forward pass over the first of some frames, where asked for: the precision's effect; compiling."""
    rules = config.rules(teacher, source)
    if config.precision == "float32" and not config.compile:
        return
    batch = load_batch(teacher, source, frame_ids[: rules.batch_size], rules)
    if config.precision != "float32":
        note(precision_difference(teacher, batch, config.precision))
    if config.compile:
        compile_networks(teacher, batch, rules)


def answer_frames(
    teacher: Teacher,
    source: FrameSource,
    frame_ids: Sequence[str],
    config: PrecomputeConfig,
    advance: Callable[[int], object] = lambda count: None,
) -> DepthMap:
    """[n,h,w] float32 metres at the teacher's own resolution: what a shard of these frames holds."""
    rules = config.rules(teacher, source)
    answers = []
    for depth in answer_batches(teacher, source, in_batches(frame_ids, rules.batch_size), rules):
        answers.append(depth)
        advance(len(depth))
    return np.concatenate(answers)


def build_schema(
    teacher: Teacher,
    source: FrameSource,
    frame_ids: Sequence[str],
    skipped: Sequence[tuple[str, str]],
    config: PrecomputeConfig,
) -> StoreSchema:
    """The attributes of the store; asks the teacher about one frame to learn its own resolution."""
    rules = config.rules(teacher, source)
    first = ask(teacher, load_batch(teacher, source, frame_ids[:1], rules), rules)
    native_size = first.checked(teacher, frame_ids[:1], rules).shape[1:]
    precision = {} if config.precision == "float32" else {"precision": config.precision}
    return StoreSchema.build(
        teacher={
            "name": teacher.name,
            "digest": teacher.digest,
            "architecture": teacher.architecture,
            "weights": teacher.weights_source,
            "trained": teacher.trained,
        },
        input={
            "crop": source.crop,
            "preprocessing": {**teacher.preprocessing, **precision},
            "flip_average": rules.flip_average,
            "image_size": list(source.image_size),
        },
        max_depth=rules.max_depth,
        min_depth=MIN_DEPTH_M,
        step=config.step,
        native_size=(native_size[0], native_size[1]),
        resize=None if first.resize is None else first.resize.to_json(),
        clamp=rules.clamp_of(teacher),
        dataset={"name": source.name, "split": source.split},
        frame_ids=frame_ids,
        skipped=skipped,
        created_by={
            "torch": torch.__version__,
            "device": describe_device(teacher.device),
            "batch_size": rules.batch_size,
        },
    )
