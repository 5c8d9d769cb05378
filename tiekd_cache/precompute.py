"""Stage one: the teacher looks at every frame once, and what it says goes into the store.

One function turns a shard number into a verified shard; whoever hands out the numbers (this loop, another
process on the same store) needs no coordinator. What stopped half-way is not there; the next start makes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from tiekd_cache.data.frame import DepthMap, Frame, FrameSource
from tiekd_cache.device import describe_device
from tiekd_cache.errors import DataError, RangeError
from tiekd_cache.filling import fill_store, frames_to_make
from tiekd_cache.progress import ProgressFactory, progress_bar
from tiekd_cache.statistics import ShardStatistics, read_statistics, shard_statistics
from tiekd_cache.store import StoreSchema, StoreWriter, open_store
from tiekd_cache.teachers import Teacher
from tiekd_cache.teachers.base import Resize, TeacherDepth

MIN_DEPTH_M = 1e-3
"""Nearest depth of the KITTI and NYU protocols, metres."""

CLAMP_TOLERANCE = 1.05
"""A teacher's own clamp may hide 5 % beyond its range (BTS says up to 80.8 m), not a wrong unit."""


@dataclass(frozen=True)
class PrecomputeConfig:
    """Settings of stage one.

    Attributes:
        batch_size: frames a forward pass (twice that with flip averaging).
        flip_average: average with the mirrored image's answer; None = as the teacher's kind suggests.
        max_depth: metres; a response beyond it stops the run; None = the data set's own (80 for KITTI).
        clip: cut responses to `max_depth` instead of stopping.
        shard_frames: frames a shard: what a kill can cost, and what one file holds.
        step: metres; what a response is rounded to. None = 1/64 m, and 1/512 m where max_depth is at most 16 m.
    """

    batch_size: int = 4
    flip_average: bool | None = None
    max_depth: float | None = None
    clip: bool = False
    shard_frames: int = 64
    step: float | None = None

    def rules(self, teacher: Teacher, source: FrameSource) -> AnswerRules:
        """What was left to the teacher and to the data, decided."""
        return AnswerRules(
            batch_size=self.batch_size,
            flip_average=teacher.flip_average if self.flip_average is None else self.flip_average,
            max_depth=source.max_depth if self.max_depth is None else self.max_depth,
            clip=self.clip,
        )


@dataclass(frozen=True)
class AnswerRules:
    """How frames are asked about: the settings of `PrecomputeConfig` with nothing left open; metres."""

    batch_size: int
    flip_average: bool
    max_depth: float
    clip: bool


@dataclass(frozen=True)
class PrecomputeReport:
    """What a run of stage one did.

    Attributes:
        store: where the responses are.
        frames: responses in the finished store.
        made: of these, how many this run computed.
        skipped: (frame_id, reason) of frames that the teacher cannot answer.
        seconds: wall time.
        warning: one line where the responses disagree with ground truth as a wrong unit would.
    """

    store: Path
    frames: int
    made: int
    skipped: tuple[tuple[str, str], ...]
    seconds: float
    warning: str | None = None


def precompute(
    teacher: Teacher,
    source: FrameSource,
    store_path: Path,
    config: PrecomputeConfig,
    *,
    progress: ProgressFactory = progress_bar,
    note: Callable[[str], None] = lambda text: None,
) -> PrecomputeReport:
    """Answers every frame of the source that the store does not hold yet.

    Args:
        progress: makes the progress bar.
        note: takes sentences for the user (what was skipped, what is waited for).
    Raises:
        RangeError: the teacher said NaN, an infinite, a negative or an out-of-range depth; names the frame.
        StoreError: the store belongs to other settings, or cannot be written.
        DataError: a frame cannot be read, or the teacher can answer none.
    """
    started = time.monotonic()
    answerable, skipped = split_answerable(teacher, source)
    if not answerable:
        raise DataError(f"Teacher {teacher.name} can answer none of the {len(skipped)} frames: {skipped[0][1]}.")
    schema = build_schema(teacher, source, answerable, skipped, config)
    writer = StoreWriter.open(store_path, schema, answerable, shard_frames=config.shard_frames)
    missing = frames_to_make(writer)
    with progress(len(answerable), f"precompute {teacher.name}", "frame", len(answerable) - missing) as bar:

        def answer_shard(shard: int, frame_ids: Sequence[str]) -> tuple[DepthMap, ShardStatistics]:
            depth = answer_frames(teacher, source, frame_ids, config, bar.update)
            return depth, shard_statistics(schema, shard, frame_ids, depth, source)

        made = fill_store(writer, answer_shard, note)
    frames = len(open_store(store_path))
    warning = read_statistics(store_path).unit_warning(schema.teacher)
    return PrecomputeReport(store_path, frames, made, tuple(skipped), time.monotonic() - started, warning)


def split_answerable(teacher: Teacher, source: FrameSource) -> tuple[list[str], list[tuple[str, str]]]:
    """(frame ids that the teacher can answer, (frame id, reason) of the others)."""
    answerable: list[str] = []
    skipped: list[tuple[str, str]] = []
    for frame_id in source.frame_ids:
        reason = teacher.cannot_answer(source, frame_id)
        if reason is None:
            answerable.append(frame_id)
        else:
            skipped.append((frame_id, reason))
    return answerable, skipped


def answer_frames(
    teacher: Teacher,
    source: FrameSource,
    frame_ids: Sequence[str],
    config: PrecomputeConfig,
    advance: Callable[[int], object] = lambda count: None,
) -> DepthMap:
    """[n,h,w] float32 metres at the teacher's own resolution: what a shard of these frames holds."""
    rules = config.rules(teacher, source)
    batches = [frame_ids[i : i + config.batch_size] for i in range(0, len(frame_ids), config.batch_size)]
    answers = []
    for frames in _read_ahead(teacher, source, batches):
        answers.append(_answer_batch(teacher, frames, rules).depth[:, 0].cpu().numpy())
        advance(len(frames))
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
    first = _answer_batch(teacher, [_load(teacher, source, frame_ids[0])], rules)
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
            "preprocessing": dict(teacher.preprocessing),
            "flip_average": rules.flip_average,
            "image_size": list(source.image_size),
        },
        max_depth=rules.max_depth,
        min_depth=MIN_DEPTH_M,
        step=config.step,
        native_size=(int(first.depth.shape[-2]), int(first.depth.shape[-1])),
        resize=None if first.resize is None else _resize_json(first.resize),
        clamp=_clamp_of(teacher, rules),
        dataset={"name": source.name, "split": source.split},
        frame_ids=frame_ids,
        skipped=skipped,
        created_by={"torch": torch.__version__, "device": describe_device(teacher.device)},
    )


def _answer_batch(teacher: Teacher, frames: Sequence[Frame], rules: AnswerRules) -> TeacherDepth:
    said = teacher.predict_frames(frames)
    depth = _checked(said.depth, teacher, frames, rules)
    if rules.flip_average:
        flipped = _checked(teacher.predict_frames([frame.mirrored() for frame in frames]).depth, teacher, frames, rules)
        depth = (depth + flipped.flip(-1)) / 2
    return TeacherDepth(depth, said.resize)


def _checked(depth: torch.Tensor, teacher: Teacher, frames: Sequence[Frame], rules: AnswerRules) -> torch.Tensor:
    """The depth, clamped where the teacher's protocol or --clip says so; raises RangeError naming the frame."""
    clamp = _clamp_of(teacher, rules)
    limit = rules.max_depth if clamp is None else clamp[1] * CLAMP_TOLERANCE
    for frame, answer in zip(frames, depth, strict=True):
        low, high = float(answer.min()), float(answer.max())
        if not np.isfinite(low + high):
            raise RangeError(
                f"Teacher {teacher.name} said a depth that is not finite (frame {frame.frame_id}): responses must be "
                "metres. Nothing of this shard was written; check the weights and the image."
            )
        if low < 0:
            raise RangeError(
                f"Teacher {teacher.name} said a depth of {low:.4g} m (frame {frame.frame_id}): depth cannot be "
                "negative. Nothing of this shard was written; check that the teacher predicts metric depth."
            )
        if high > limit and not rules.clip:
            raise RangeError(
                f"Teacher depth {high:.1f} m exceeds the store limit of {rules.max_depth:g} m (frame "
                f"{frame.frame_id}, teacher {teacher.name}). Pass --max-depth {int(np.ceil(high))}, or --clip."
            )
    if clamp is None:
        return depth
    clamped = depth.clamp(*clamp)
    # 0 means "missing" unless the teacher's own protocol lifts it to the minimum.
    return clamped if teacher.clamps_to is not None else torch.where(depth > 0, clamped, depth)


def _clamp_of(teacher: Teacher, rules: AnswerRules) -> tuple[float, float] | None:
    if teacher.clamps_to is not None:
        return max(MIN_DEPTH_M, teacher.clamps_to[0]), min(rules.max_depth, teacher.clamps_to[1])
    return (MIN_DEPTH_M, rules.max_depth) if rules.clip else None


def _load(teacher: Teacher, source: FrameSource, frame_id: str) -> Frame:
    frame = source.load(frame_id)
    return replace(frame, gt_depth=source.lidar_depth(frame_id)) if teacher.needs_lidar else frame


def _read_ahead(teacher: Teacher, source: FrameSource, batches: Sequence[Sequence[str]]) -> Iterator[list[Frame]]:
    """The batches' frames; the next batch is decoded while the teacher works on this one."""

    def load(batch: Sequence[str]) -> list[Frame]:
        return [_load(teacher, source, frame_id) for frame_id in batch]

    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead = pool.submit(load, batches[0])
        for following in batches[1:]:
            current, ahead = ahead, pool.submit(load, following)
            yield current.result()
        yield ahead.result()


def _resize_json(resize: Resize) -> dict[str, object]:
    return {"size": list(resize.size), "mode": resize.mode, "align_corners": resize.align_corners}
