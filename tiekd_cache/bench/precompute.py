"""Stage one's speed against the network alone, and against the plain loop that it replaces.

The ways take turns, so that a machine that slows down slows all of them; medians are compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch

from tiekd_cache.answering import PRECISIONS, forward_passes, load_batch, load_frame, predict
from tiekd_cache.data.frame import DepthMap, Frame, FrameSource
from tiekd_cache.data.normalize import normalize
from tiekd_cache.device import describe_device
from tiekd_cache.errors import ConfigError
from tiekd_cache.precompute import PrecomputeConfig, make_shards, open_writer
from tiekd_cache.progress import ProgressFactory, progress_bar
from tiekd_cache.teachers import Teacher
from tiekd_cache.teachers.base import FrameBatch

BARE = "forward passes alone"


@dataclass(frozen=True)
class SpeedRow:
    """One way to answer frames.

    Attributes:
        way: in words.
        device: in words.
        frames: how many, each time.
        frames_per_second: the median over the repeats.
        ratio: of that to `BARE`'s.
    """

    way: str
    device: str
    frames: int
    frames_per_second: float
    ratio: float

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)


class RepeatedFrames:
    """`count` frames of a source, which come again and again where it has fewer: see `FrameSource`."""

    def __init__(self, source: FrameSource, count: int) -> None:
        self.name, self.split, self.crop = source.name, source.split, source.crop
        self.image_size, self.max_depth = source.image_size, source.max_depth
        self._source = source
        self._there = {f"{i:06d}/{source.frame_ids[i % len(source.frame_ids)]}": i for i in range(count)}
        self.frame_ids = list(self._there)

    def _id(self, frame_id: str) -> str:
        return self._source.frame_ids[self._there[frame_id] % len(self._source.frame_ids)]

    def load(self, frame_id: str, *, with_gt: bool = False) -> Frame:
        """See FrameSource."""
        return replace(self._source.load(self._id(frame_id), with_gt=with_gt), frame_id=frame_id)

    def lidar_depth(self, frame_id: str) -> DepthMap | None:
        """See FrameSource."""
        return self._source.lidar_depth(self._id(frame_id))

    def has_lidar(self, frame_id: str) -> bool:
        """See FrameSource."""
        return self._source.has_lidar(self._id(frame_id))

    def has_gt(self, frame_id: str) -> bool:
        """See FrameSource."""
        return self._source.has_gt(self._id(frame_id))


def bench_precompute(
    teacher: Teacher,
    source: FrameSource,
    config: PrecomputeConfig,
    folder: Path,
    *,
    repeats: int = 3,
    progress: ProgressFactory = progress_bar,
) -> list[SpeedRow]:
    """Frames a second of the forward passes alone, of stage one, and of a loop that asks one image at a time.

    All three average with mirror images where `config` says so and compute in its precision. A pass over the first
    batch warms up before anything is measured.

    Args:
        source: read from disk in each repeat; the system will have it in memory.
        folder: empty; holds stores and PNG files while it runs.
    Raises:
        ConfigError: the teacher is no network.
        And what `precompute` raises.
    """
    if not teacher.networks:
        raise ConfigError(f"Teacher {teacher.name} is no network: there is no forward pass to compare with.")
    ways: dict[str, Callable[[], None]] = {
        # first, since it puts the network's weights into the layout asked for
        "stage one": _StageOne(teacher, source, config, folder / "bench.zarr"),
        BARE: _Bare(teacher, source, config),
        "one by one, PNG16": _OneByOne(teacher, source, config, folder / "png"),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with progress(repeats * len(ways), "bench precompute", "run") as bar:
        for _ in range(repeats):
            for way, run in ways.items():
                _synchronise(teacher)
                started = time.perf_counter()
                run()
                _synchronise(teacher)
                seconds[way].append(time.perf_counter() - started)
                bar.update(1)
    bare, count = median(seconds[BARE]), len(source.frame_ids)
    where = describe_device(teacher.device)
    return [SpeedRow(way, where, count, count / median(times), bare / median(times)) for way, times in seconds.items()]


class _Bare:
    """Forward passes over images that are on the device and normalised already; the answers are dropped."""

    def __init__(self, teacher: Teacher, source: FrameSource, config: PrecomputeConfig) -> None:
        self._teacher, self._precision, ids = teacher, config.precision, source.frame_ids
        rules = config.rules(teacher, source)
        frames = (ids[i : i + rules.batch_size] for i in range(0, len(ids), rules.batch_size))
        batches = (load_batch(teacher, source, some, rules) for some in frames)
        self._passes = [_on_device(teacher, one) for batch in batches for one in forward_passes(teacher, batch, rules)]
        self._ask(*self._passes[0])

    def _ask(self, images: torch.Tensor, focal_px: torch.Tensor) -> None:
        half = self._precision != "float32"
        with torch.autocast(self._teacher.device.type, PRECISIONS[self._precision] if half else None, enabled=half):
            self._teacher.predict_images(images, focal_px)

    def __call__(self) -> None:
        for images, focal_px in self._passes:
            self._ask(images, focal_px)


class _StageOne:
    """Stage one into a new store; looking at the data and the network's resolution is not measured."""

    def __init__(self, teacher: Teacher, source: FrameSource, config: PrecomputeConfig, store: Path) -> None:
        self._given, self._store = (teacher, source, config), store
        self._writer = open_writer(teacher, source, store, config)

    def __call__(self) -> None:
        for record in (self._store / "done").iterdir():
            record.unlink()  # an empty store again
        make_shards(self._writer, *self._given, range(self._writer.num_shards))


class _OneByOne:
    """What a script does: load an image, ask, ask about its mirror image, write a PNG of 1/256 m, go on."""

    def __init__(self, teacher: Teacher, source: FrameSource, config: PrecomputeConfig, folder: Path) -> None:
        self._teacher, self._source, self._folder, self._precision = teacher, source, folder, config.precision
        self._flip = config.rules(teacher, source).flip_average
        folder.mkdir()

    def __call__(self) -> None:
        for number, frame_id in enumerate(self._source.frame_ids):
            frame = load_frame(self._teacher, self._source, frame_id)
            depth = predict(self._teacher, FrameBatch([frame]), self._precision).at_image_size()
            if self._flip:
                said = predict(self._teacher, FrameBatch([frame.mirrored()]), self._precision).at_image_size()
                depth = (depth + said.flip(-1)) / 2
            counts = (depth[0, 0].cpu().numpy() * 256).clip(0, 65535).astype(np.uint16)
            cv2.imwrite(str(self._folder / f"{number:06d}.png"), counts)


def _on_device(teacher: Teacher, batch: FrameBatch) -> tuple[torch.Tensor, torch.Tensor]:
    focal_px: Sequence[float] = [frame.focal_px for frame in batch]
    return normalize(batch.images.to(teacher.device)), torch.tensor(focal_px, dtype=torch.float32)


def _synchronise(teacher: Teacher) -> None:
    if teacher.device.type == "cuda":
        torch.cuda.synchronize(teacher.device)
