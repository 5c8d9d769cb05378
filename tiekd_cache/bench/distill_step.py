"""A training step: from the store with the fused head, with the released formulas, and with the teacher online.

Every measurement has a process of its own; the ways take turns, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from tiekd_cache.bench.dpm_head import released_formulas
from tiekd_cache.bench.measuring import alone, peak_memory, seconds_of
from tiekd_cache.data.frame import DepthMap, FrameSource
from tiekd_cache.data.kitti import KittiFrames
from tiekd_cache.dataset import StepBatches
from tiekd_cache.device import describe_device, resolve_device
from tiekd_cache.distill_config import DistillConfig
from tiekd_cache.losses.objective import Objective
from tiekd_cache.precompute import PrecomputeConfig, answer_frames, build_schema
from tiekd_cache.progress import ProgressFactory, progress_bar
from tiekd_cache.ranks import Ranks
from tiekd_cache.store import open_store
from tiekd_cache.store.resize import resize_bilinear
from tiekd_cache.teachers import Teacher, load_teacher
from tiekd_cache.training_module import TrainingModule
from tiekd_cache.training_parts import TrainingParts, build_parts
from tiekd_cache.training_step import training_step

CACHED, RELEASED, ONLINE = "from the store", "from the store, released formulas", "teacher online"
WAYS = (CACHED, RELEASED, ONLINE)


@dataclass(frozen=True)
class StepRow:
    """One way to take a training step, reading and decoding of its samples included.

    Attributes:
        way: one of `WAYS`.
        device: in words.
        seconds: of a step, the median.
        peak_mb: most memory beyond what was in use before the first step, in 1e6 bytes, the median.
        time_ratio, memory_ratio: of these to `CACHED`'s.
    """

    way: str
    device: str
    seconds: float
    peak_mb: float
    time_ratio: float
    memory_ratio: float

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)


class OnlineTeacher:
    """A teacher in a store's place: asked about each frame when its response is wanted.

    What it says goes through stage one's averaging, clamping and resizing, and through no rounding to a step: it is
    what a store's responses are compared with.

    Args:
        teacher: any; asked without flip averaging, which would cost it twice.
        source: the frames.
        batch_size: frames that it is asked about together.
    """

    over_network = False

    def __init__(self, teacher: Teacher, source: FrameSource, batch_size: int = 1) -> None:
        self._teacher, self._source = teacher, source
        self._config = PrecomputeConfig(flip_average=False, batch_size=batch_size)
        self.schema = build_schema(teacher, source, source.frame_ids, [], self._config)

    def read(self, frame_ids: Sequence[str], *, threads: int = 1, out: DepthMap | None = None) -> DepthMap:
        """[n,H,W] float32 metres, as `ResponseStore.read`; `threads` is of no effect."""
        native = answer_frames(self._teacher, self._source, list(frame_ids), self._config)
        return np.stack([self._at_image_size(depth) for depth in native], out=out)

    def _at_image_size(self, native: DepthMap) -> DepthMap:
        resize = self.schema.depth["resize"]
        if resize is None:
            return native
        return resize_bilinear(native, self.schema.image_size, resize["align_corners"])


def bench_step(
    config: DistillConfig,
    kitti: Path,
    store: Path,
    teacher: str,
    *,
    device: str = "auto",
    steps: int = 3,
    repeats: int = 3,
    progress: ProgressFactory = progress_bar,
) -> list[StepRow]:
    """A row a way.

    Args:
        config: of stage two; student, crop, batch size, loss and precision are taken from it.
        kitti: the data; its training split is shown.
        store: answers its frames.
        teacher: a network's name, which is asked online with random weights.
        steps: measured in each process, after one that is not.
    Raises:
        DeviceError: a way does not fit into memory.
    """
    measured: dict[str, list[tuple[float, int]]] = {way: [] for way in WAYS}
    with progress(repeats * len(WAYS), "bench step", "run") as bar:
        for _ in range(repeats):
            for way, outcomes in measured.items():
                outcomes.append(alone(measure_step, way, config, kitti, store, teacher, device, steps))
                bar.update(1)
    seconds = {way: median(s for s, _ in outcomes) for way, outcomes in measured.items()}
    peaks = {way: median(p for _, p in outcomes) for way, outcomes in measured.items()}
    where = describe_device(resolve_device(device))
    return [
        StepRow(way, where, seconds[way], peaks[way] / 1e6, seconds[way] / seconds[CACHED], peaks[way] / peaks[CACHED])
        for way in WAYS
    ]


def measure_step(
    way: str, config: DistillConfig, kitti: Path, store: Path, teacher: str, device: str, steps: int
) -> tuple[float, int]:
    """(median seconds of a step, peak bytes beyond what was in use before the first one), in this process."""
    chosen = resolve_device(device)
    source = KittiFrames.open(kitti, None, purpose="train")
    parts = build_parts(config, source, [open_store(store)], chosen)
    if way == ONLINE:
        loaded = load_teacher(teacher, weights="random:0", device=device)
        parts.dataset.stores = [OnlineTeacher(loaded, source, config.train.batch_size)]  # type: ignore[list-item]
    elif way == RELEASED:
        use_released_formulas(parts)
    parts.student.train()
    order = iter(StepBatches(len(source.frame_ids), config.train.batch_size, 0, steps + 1, config.train.seed))
    taken: list[float] = []

    def step() -> None:
        batch = parts.dataset.__getitems__(next(order)).to(chosen)
        training_step(parts, [batch], len(taken) + 1, config.optimiser.grad_clip, Ranks(device=chosen))

    with peak_memory(chosen) as peak:
        for _ in range(steps + 1):
            taken.append(seconds_of(step, chosen))
    return median(taken[1:]), peak[0]


def use_released_formulas(parts: TrainingParts) -> None:
    """Let a run's objective make logits and DPMs in full, as the release does, and everything else as before."""
    assert isinstance(parts.module, TrainingModule)
    ours = parts.objective
    parts.module.objective = ReleasedObjective(ours.weights, ours.target, scale=ours.scale, output=ours.output)


class ReleasedObjective(Objective):
    """The objective of one teacher with the released formulas in the place of the fused head."""

    def _student_output(
        self,
        features: torch.Tensor,
        head: nn.Module,
        teacher_depth: torch.Tensor,
        present: torch.Tensor,
        shares: tuple[float, ...],
        rows_cut: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits = head(features[:, :, rows_cut:])
        return released_formulas(logits, teacher_depth, self.target.bins, self.target.sigma)
