"""Training samples a second: the loader against decoding the pictures alone, and against a folder of PNG files.

The ways take turns, so that a machine that slows down slows all of them; medians are compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from tiekd_cache.bench.maps import MAX_DEPTH, MIN_DEPTH, make_maps
from tiekd_cache.data.frame import FrameSource
from tiekd_cache.data.normalize import normalize
from tiekd_cache.data.transforms import TrainTransform
from tiekd_cache.dataset import Batch, Position, ResponseDataset, StepBatches, collate, start_worker
from tiekd_cache.image_filling import fill_images
from tiekd_cache.progress import ProgressFactory, progress_bar
from tiekd_cache.store import ImageWriter, ResponseStore, StoreSchema, StoreWriter, open_store
from tiekd_cache.store_frames import StoreFrames

DECODING = "pictures decoded, nothing else"
_PNG_COUNTS_PER_M = 256.0


@dataclass(frozen=True)
class LoaderRow:
    """One way to training samples.

    Attributes:
        way: in words.
        workers: loader processes.
        samples: how many, each time.
        samples_per_second: the median over the repeats.
        ratio: of that to `DECODING`'s.
    """

    way: str
    workers: int
    samples: int
    samples_per_second: float
    ratio: float

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class LoaderSettings:
    """What is loaded, and how.

    Attributes:
        samples: of one turn of one way.
        batch_size: samples a batch.
        workers: loader processes; 0 = in this one.
        crop: (height, width) of the samples, pixels.
        device: where the batches go.
    """

    samples: int = 128
    batch_size: int = 16
    workers: int = 0
    crop: tuple[int, int] = (352, 704)
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable


def made_up_store(source: FrameSource, path: Path, *, images: bool = True) -> ResponseStore:
    """A new store at `path` with dense responses, streets with a network's errors, and each frame's image if wanted."""
    depth = make_maps(source.image_size, frames=4)[0].native
    ids = list(source.frame_ids)
    schema = StoreSchema.build(
        teacher={"name": "made-up", "digest": "", "architecture": "none", "weights": "none", "trained": False},
        input={
            "crop": source.crop,
            "image_size": list(source.image_size),
            "flip_average": False,
            "preprocessing": {},
        },
        native_size=source.image_size,
        min_depth=MIN_DEPTH,
        max_depth=MAX_DEPTH,
        dataset={"name": source.name, "split": source.split},
        frame_ids=ids,
    )
    writer = StoreWriter.open(path, schema, ids)
    for shard in writer.todo():
        chosen = [ids.index(frame_id) % len(depth) for frame_id in writer.frames_of(shard)]
        writer.write_shard(shard, depth[chosen])
    if images:
        fill_images(ImageWriter.open(path), source, range(writer.num_shards))
    return open_store(path)


def bench_loader(
    source: FrameSource,
    store: ResponseStore,
    settings: LoaderSettings,
    folder: Path,
    *,
    repeats: int = 5,
    progress: ProgressFactory = progress_bar,
) -> list[LoaderRow]:
    """Samples a second of each way, from files that the system has in memory, each with the same augmentation.

    A batch counts when it is on the device as a training step takes it, processes' start included. OpenCV has one
    thread a process, as in training.

    Args:
        source: pictures; the store must answer each of its frames.
        store: where it has their images, too, loading from it alone is one of the ways.
        folder: empty; holds the PNG files while it runs.
    """
    transform = TrainTransform(settings.crop, min(110, source.image_size[0] - 1))
    ours = ResponseDataset(source, [store], transform, seed=0)
    ways: dict[str, Callable[[], None]] = {
        "the loader": _Way(ours, settings, collate),
        DECODING: _Way(_Decoding(source), settings, _nothing),
        "PNG16 beside the pictures": _Way(_PngFolder(source, store, transform, folder), settings, _stacked),
    }
    if all(map(store.has_image, source.frame_ids)):
        alone = ResponseDataset(StoreFrames(store, source.frame_ids), [store], transform, seed=0)
        ways["the loader, images from the store"] = _Way(alone, settings, collate)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with _one_opencv_thread(), progress((repeats + 1) * len(ways), "bench loader", "run") as bar:
        for repeat in range(repeats + 1):
            for way, run in ways.items():
                started = time.perf_counter()
                run()
                if repeat:  # the first turn brings files and compiled code into memory
                    seconds[way].append(time.perf_counter() - started)
                bar.update(1)
    decoding, count = median(seconds[DECODING]), settings.samples
    return [
        LoaderRow(way, settings.workers, count, count / median(times), decoding / median(times))
        for way, times in seconds.items()
    ]


class _Way:
    """Loads the samples of one turn with a dataset."""

    def __init__(self, dataset: Dataset[Any], settings: LoaderSettings, put_together: Callable[[Any], Any]) -> None:
        self._settings = settings
        frames = len(dataset)  # type: ignore[arg-type]
        self._loader = DataLoader(
            dataset,
            batch_sampler=StepBatches(frames, settings.batch_size, 0, settings.samples // settings.batch_size, seed=0),
            collate_fn=put_together,
            num_workers=settings.workers,
            pin_memory=settings.device.type == "cuda",
            worker_init_fn=start_worker,
        )

    def __call__(self) -> None:
        for batch in self._loader:
            if isinstance(batch, Batch):
                batch.to(self._settings.device)
            else:
                for tensor in batch:
                    tensor.to(self._settings.device, non_blocking=True)
        if self._settings.device.type == "cuda":
            torch.cuda.synchronize(self._settings.device)


class _Decoding(Dataset[None]):
    """Reads and decodes the pictures, and drops them."""

    def __init__(self, source: FrameSource) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source.frame_ids)

    def __getitem__(self, position: Position) -> None:
        self._source.load(self._source.frame_ids[position[1]])


class _PngFolder(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """What a training script does: picture and 16-bit PNG decoded, augmented, made float in the loader process."""

    def __init__(self, source: FrameSource, store: ResponseStore, transform: TrainTransform, folder: Path) -> None:
        self._source, self._transform, self._folder = source, transform, folder
        for number, frame_id in enumerate(source.frame_ids):
            cv2.imwrite(self._file(number), (store[frame_id] * _PNG_COUNTS_PER_M).astype(np.uint16))

    def _file(self, number: int) -> str:
        return str(self._folder / f"{number:06d}.png")

    def __len__(self) -> int:
        return len(self._source.frame_ids)

    def __getitem__(self, position: Position) -> tuple[torch.Tensor, torch.Tensor]:
        image = self._source.load(self._source.frame_ids[position[1]]).image
        counts: Any = cv2.imread(self._file(position[1]), cv2.IMREAD_UNCHANGED)
        depth = counts.astype(np.float32) / np.float32(_PNG_COUNTS_PER_M)
        image, depth, _ = self._transform(image, depth, None, np.random.default_rng(position))
        return normalize(torch.from_numpy(image)), torch.from_numpy(depth)[None]


def _stacked(samples: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    images, depths = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(depths)


def _nothing(samples: list[None]) -> tuple[torch.Tensor, ...]:
    return ()


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
