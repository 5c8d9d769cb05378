"""Frames a second from a store at a URL, with several requests in flight, against the same store in a local folder.

The ways take turns, so that a machine that slows down slows all of them; medians are compared.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tiekd_cache.errors import ConfigError
from tiekd_cache.progress import ProgressFactory, progress_bar
from tiekd_cache.store import ResponseStore, open_store
from tiekd_cache.store.codec import Depth

BATCH = 32
"""Frames that are asked for at a time."""

LOCAL, CACHED = "the local folder", "the cache, epoch two"


@dataclass(frozen=True)
class RemoteRow:
    """One way to a store's responses.

    Attributes:
        way: `LOCAL`, `CACHED`, or the URL.
        in_flight: threads that read, so requests that wait for an answer at a time.
        frames: how many, each time.
        frames_per_second: the median over the repeats.
        ratio: to the local folder with as many threads, the median of the ratios within a repeat; None where no local
            folder was given.
    """

    way: str
    in_flight: int
    frames: int
    frames_per_second: float
    ratio: float | None

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)


def bench_remote(
    url: str,
    *,
    local: Path | None = None,
    cache_dir: Path | None = None,
    in_flight: Sequence[int] = (1, 4, 16),
    frames: int = 128,
    repeats: int = 9,
    progress: ProgressFactory = progress_bar,
) -> list[RemoteRow]:
    """Frames a second of each way: the same random frames, in another order each time, to float32 metres.

    The first turn is not counted: it opens connections, reads the shards' indexes, brings files into memory and fills
    the cache.

    Args:
        url: of the store; any other place that `open_store` knows will do.
        local: folder of the same store.
        cache_dir: where a cache of the URL is, or comes to be; without, none is measured.
        in_flight: how many threads read.
        frames: of one turn; at most those of the store.
        repeats: of which the median is taken, >= 1.
    Raises:
        ConfigError: the local store is another one, or lacks frames.
        StoreError: a store cannot be opened or read.
    """
    stores = {} if local is None else {LOCAL: open_store(local)}
    stores[url] = open_store(url)
    if cache_dir is not None:
        stores[CACHED] = open_store(url, cache_dir=cache_dir)
    _check_same(stores)
    rng = np.random.default_rng(0)
    frame_ids = stores[url].frame_ids
    chosen = [frame_ids[i] for i in rng.permutation(len(frame_ids))[:frames].tolist()]
    out = np.empty((min(BATCH, len(chosen)), *stores[url].schema.image_size), np.float32)
    seconds: dict[tuple[str, int], list[float]] = {(way, threads): [] for threads in in_flight for way in stores}
    with progress((repeats + 1) * len(seconds), "bench remote", "run") as bar:
        for repeat in range(repeats + 1):
            rng.shuffle(chosen)
            for way, threads in list(seconds)[:: 1 if repeat % 2 else -1]:  # so that none always comes after another
                started = time.perf_counter()
                _read(stores[way], chosen, threads, out)
                if repeat:
                    seconds[way, threads].append(time.perf_counter() - started)
                bar.update(1)
    return [
        RemoteRow(way, threads, len(chosen), len(chosen) / median(times), _ratio(seconds.get((LOCAL, threads)), times))
        for (way, threads), times in seconds.items()
    ]


def _ratio(local: list[float] | None, times: list[float]) -> float | None:
    """How many times as fast as the local folder; what slows one repeat down slows both."""
    return None if local is None else median(a / b for a, b in zip(local, times, strict=True))


def _read(store: ResponseStore, frame_ids: Sequence[str], threads: int, out: Depth) -> None:
    """Read the frames batch by batch, as a loader does; nothing of them is kept."""
    for start in range(0, len(frame_ids), BATCH):
        batch = frame_ids[start : start + BATCH]
        store.read(batch, threads=threads, out=out[: len(batch)])


def _check_same(stores: Mapping[str, ResponseStore]) -> None:
    (name, first), *others = stores.items()
    for other_name, other in others:
        if other.schema.fingerprint != first.schema.fingerprint:
            raise ConfigError(
                f"{other_name} and {name} are different stores (fingerprints {other.schema.fingerprint[:12]} and"
                f" {first.schema.fingerprint[:12]}): name a copy of the store at the URL."
            )
