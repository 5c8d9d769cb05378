"""Asking a teacher about frames: decoding ahead, a forward pass a batch, and the check of what it says."""

from __future__ import annotations

import contextlib
import functools
import sys
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from tiekd_cache.data.frame import DepthMap, Frame, FrameSource
from tiekd_cache.errors import ConfigError, RangeError, ShapeError, TiekdError
from tiekd_cache.teachers import Resize, Teacher
from tiekd_cache.teachers.base import FrameBatch, TeacherDepth

MIN_DEPTH_M = 1e-3
"""Nearest depth of the KITTI and NYU protocols, metres."""

CLAMP_TOLERANCE = 1.05
"""A teacher's own clamp may hide 5 % beyond its range (BTS says up to 80.8 m), not a wrong unit."""

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What a teacher may compute in, by the names that a user types."""


@dataclass(frozen=True)
class AnswerRules:
    """How frames are asked about, with nothing left open; depths in metres.

    Attributes:
        batch_size: frames a forward pass, mirror images not counted.
        flip_average: average with the mirrored image's answer.
        max_depth: a response beyond it is an error.
        clip: cut responses to `max_depth` instead.
        precision: a key of `PRECISIONS`.
        workers: threads that decode ahead.
    """

    batch_size: int
    flip_average: bool
    max_depth: float
    clip: bool
    precision: str = "float32"
    workers: int = 1

    def clamp_of(self, teacher: Teacher) -> tuple[float, float] | None:
        """(min, max) metres that the teacher's answers are clamped to; None where they are not."""
        if teacher.clamps_to is not None:
            return max(MIN_DEPTH_M, teacher.clamps_to[0]), min(self.max_depth, teacher.clamps_to[1])
        return (MIN_DEPTH_M, self.max_depth) if self.clip else None


@dataclass(frozen=True)
class Answer:
    """What a teacher said of a batch, perhaps still on its way from the device.

    Attributes:
        depth: [B,1,h,w] float32, metres, on the host: clamped and averaged.
        extremes: [2,B] float32, metres, on the host: the least and the greatest that was said before clamping.
        resize: as in `TeacherDepth`.
        arrived: of a CUDA device: what tells that both are there.
    """

    depth: torch.Tensor
    extremes: torch.Tensor
    resize: Resize | None
    arrived: torch.cuda.Event | None

    def checked(self, teacher: Teacher, frame_ids: Sequence[str], rules: AnswerRules) -> DepthMap:
        """[B,h,w] float32, metres, once it is there.

        Raises:
            RangeError: NaN, infinite, negative or too far; names the frame.
        """
        if self.arrived is not None:
            self.arrived.synchronize()
        for frame_id, low, high in zip(frame_ids, *self.extremes.tolist(), strict=True):
            _check(low, high, teacher, frame_id, rules)
        depth: DepthMap = self.depth[:, 0].numpy()
        return depth


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


def load_frame(teacher: Teacher, source: FrameSource, frame_id: str) -> Frame:
    """A frame with what the teacher needs to answer it; raises DataError where it cannot be read."""
    frame = source.load(frame_id)
    return replace(frame, gt_depth=source.lidar_depth(frame_id)) if teacher.needs_lidar else frame


def load_batch(teacher: Teacher, source: FrameSource, frame_ids: Sequence[str], rules: AnswerRules) -> FrameBatch:
    """What the teacher is asked at once: the frames and, with flip averaging, then their mirror images."""
    frames = [load_frame(teacher, source, frame_id) for frame_id in frame_ids]
    if rules.flip_average:
        frames += [frame.mirrored() for frame in frames]
    return FrameBatch(frames, pin=teacher.device.type == "cuda")


def forward_passes(teacher: Teacher, batch: FrameBatch, rules: AnswerRules) -> Sequence[FrameBatch]:
    """A batch of `load_batch`, in the parts that go through the teacher one after another.

    On a CPU mirror images have a pass of their own, since small passes are the faster ones there; on a GPU, large ones.
    """
    return batch.halves() if rules.flip_average and teacher.device.type == "cpu" else (batch,)


def ask(teacher: Teacher, batch: FrameBatch, rules: AnswerRules) -> Answer:
    """What the teacher says of a batch of `load_batch`; on CUDA it returns before the device has finished."""
    said = [predict(teacher, part, rules.precision) for part in forward_passes(teacher, batch, rules)]
    depth = torch.cat([part.depth for part in said])
    extremes = torch.stack([depth.flatten(1).amin(1), depth.flatten(1).amax(1)])
    depth = _clamped(depth, teacher, rules)
    if rules.flip_average:
        straight, flipped = depth.chunk(2)
        depth = (straight + flipped.flip(-1)) / 2
        # NaN stays NaN in both
        extremes = torch.stack([extremes[0].view(2, -1).amin(0), extremes[1].view(2, -1).amax(0)])
    if depth.device.type != "cuda":
        return Answer(depth.cpu(), extremes.cpu(), said[0].resize, None)
    on_host = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in (depth, extremes)]
    for to, tensor in zip(on_host, (depth, extremes), strict=True):
        to.copy_(tensor, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(depth.device))
    return Answer(on_host[0], on_host[1], said[0].resize, arrived)


def answer_batches(
    teacher: Teacher, source: FrameSource, batches: Iterable[Sequence[str]], rules: AnswerRules
) -> Generator[DepthMap, None, None]:
    """[B,h,w] float32 metres at native size for each batch of frame ids, in order.

    `rules.workers` threads decode the next batches; on CUDA, the device has the next batch before this one is awaited.
    Closed early or stopped by an error, it leaves no thread behind.

    Raises:
        DataError: a frame cannot be read.
        RangeError: the teacher said something that is no depth in range.
    """
    in_flight: deque[tuple[Sequence[str], Answer]] = deque()
    behind = 1 if teacher.device.type == "cuda" else 0
    load = functools.partial(load_batch, teacher, source, rules=rules)
    with contextlib.closing(_read_ahead(load, batches, rules.workers)) as loaded:
        for frame_ids, batch in loaded:
            in_flight.append((frame_ids, ask(teacher, batch, rules)))
            while len(in_flight) > behind:
                asked, answer = in_flight.popleft()
                yield answer.checked(teacher, asked, rules)
    for asked, answer in in_flight:
        yield answer.checked(teacher, asked, rules)


def _read_ahead(
    load: Callable[[Sequence[str]], FrameBatch], batches: Iterable[Sequence[str]], workers: int
) -> Generator[tuple[Sequence[str], FrameBatch], None, None]:
    """(frame ids, batch) in order, at most `workers` batches ahead of what is taken."""
    ahead: deque[tuple[Sequence[str], Future[FrameBatch]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for frame_ids in batches:
            ahead.append((frame_ids, pool.submit(load, frame_ids)))
            if len(ahead) > workers:
                asked, loaded = ahead.popleft()
                yield asked, loaded.result()
        while ahead:
            asked, loaded = ahead.popleft()
            yield asked, loaded.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def compute(teacher: Teacher, batch: FrameBatch, precision: str) -> TeacherDepth:
    """The forward pass alone: raises whatever the teacher does, and looks at nothing that it says."""
    if precision == "float32":
        return teacher.predict_frames(batch)
    with torch.autocast(teacher.device.type, PRECISIONS[precision]):
        return teacher.predict_frames(batch)


def predict(teacher: Teacher, batch: FrameBatch, precision: str) -> TeacherDepth:
    """What the teacher says of a batch, computed in a precision of `PRECISIONS`; depth [B,1,h,w] metres.

    Raises:
        ConfigError: a teacher of the user's own raised something, or gave no `TeacherDepth`.
        ShapeError: what it said is not one map a frame.
    """
    try:
        said = compute(teacher, batch, precision)
    except TiekdError:
        raise
    except Exception as error:  # the user's code may raise anything; ours keeps its traceback
        if type(teacher).__module__.partition(".")[0] == "tiekd_cache":
            raise
        raise ConfigError(_failure(teacher, batch, error)) from error
    if not isinstance(said, TeacherDepth):
        raise ConfigError(
            f"Teacher {teacher.name} gave a {type(said).__name__}, not a tiekd_cache.teachers.TeacherDepth."
        )
    if len(said.depth) != len(batch) or 0 in said.depth.shape:
        raise ShapeError(
            f"Teacher {teacher.name} gave depth {list(said.depth.shape)} for {len(batch)} images (from frame "
            f"{batch[0].frame_id}): it must be [{len(batch)},1,h,w], a map for each."
        )
    return TeacherDepth(said.depth.to(torch.float32), said.resize) if precision != "float32" else said


def _failure(teacher: Teacher, batch: FrameBatch, error: Exception) -> str:
    """One line on what a teacher's own code raised, and where."""
    words = str(error).strip().split("\n", 1)[0].rstrip(".")
    own_file = getattr(sys.modules.get(type(teacher).__module__), "__file__", None)
    places = traceback.extract_tb(error.__traceback__)
    place = [place for place in places if place.filename == own_file][-1:] or places[-1:]
    return (
        f"Teacher {teacher.name} failed at frame {batch[0].frame_id}: {type(error).__name__}: {words} "
        f"({place[0].filename}:{place[0].lineno}). Mend it there."
    )


def _clamped(depth: torch.Tensor, teacher: Teacher, rules: AnswerRules) -> torch.Tensor:
    clamp = rules.clamp_of(teacher)
    if clamp is None:
        return depth
    clamped = depth.clamp(*clamp)
    # 0 means "missing" unless the teacher's own protocol lifts it to the minimum.
    return clamped if teacher.clamps_to is not None else torch.where(depth > 0, clamped, depth)


def _check(low: float, high: float, teacher: Teacher, frame_id: str, rules: AnswerRules) -> None:
    """Raise RangeError, naming the frame, unless a map that reaches from low to high, metres, may be kept."""
    clamp = rules.clamp_of(teacher)
    limit = rules.max_depth if clamp is None else clamp[1] * CLAMP_TOLERANCE
    if not np.isfinite(low + high):
        half = " fp16 overflows beyond 65504: try --precision bf16 or float32." if rules.precision == "fp16" else ""
        raise RangeError(
            f"Teacher {teacher.name} said a depth that is not finite (frame {frame_id}): responses must be "
            f"metres. Nothing of this shard was written; check the weights and the image.{half}"
        )
    if low < 0:
        raise RangeError(
            f"Teacher {teacher.name} said a depth of {low:.4g} m (frame {frame_id}): depth cannot be "
            "negative. Nothing of this shard was written; check that the teacher predicts metric depth."
        )
    if high > limit and not rules.clip:
        raise RangeError(
            f"Teacher depth {high:.1f} m exceeds the store limit of {rules.max_depth:g} m (frame "
            f"{frame_id}, teacher {teacher.name}). Pass --max-depth {int(np.ceil(high))}, or --clip."
        )


def in_batches(frame_ids: Sequence[str], batch_size: int) -> list[Sequence[str]]:
    """The frames in their order, `batch_size` at a time; the last batch has what is left."""
    return [frame_ids[i : i + batch_size] for i in range(0, len(frame_ids), batch_size)]
