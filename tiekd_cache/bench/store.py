"""Bytes and times of every way to keep depth maps, measured side by side in one run."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tiekd_cache.bench.coders import Coder, all_coders
from tiekd_cache.bench.maps import BenchMap, Depth

BURST = 6
"""Frames of a turn."""


@dataclass(frozen=True)
class BenchRow:
    """One way on the maps of one teacher, per frame.

    Attributes:
        maps: their name.
        coder: the way's name.
        num_bytes: mean size in bytes.
        encode_ms, decode_ms: CPU time in memory, milliseconds, median of the repeats.
        read_ms: CPU time of reading a frame by its number, in random order, from files in the page cache, to float32
            metres at the picture's size.
        max_error_m: largest difference to the teacher's answer at the picture's size, metres.
        bytes_ratio, encode_ratio, decode_ratio, read_ratio: to the first way, PNG16 by Pillow.
    """

    maps: str
    coder: str
    num_bytes: float
    encode_ms: float
    decode_ms: float
    read_ms: float
    max_error_m: float
    bytes_ratio: float
    encode_ratio: float
    decode_ratio: float
    read_ratio: float

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)


@dataclass
class _Measured:
    num_bytes: float
    max_error_m: float
    encode_ms: list[float] = field(default_factory=list)
    decode_ms: list[float] = field(default_factory=list)
    read_ms: list[float] = field(default_factory=list)


def bench_store(
    teachers: Sequence[BenchMap],
    *,
    repeats: int = 9,
    progress: Callable[[int, str, str], AbstractContextManager[Any]] | None = None,
) -> list[BenchRow]:
    """Measure every way on every teacher's maps.

    In each repeat all ways take turns, so that a machine that slows down slows all of them; a turn is a burst of
    random frames, as a data loader reads them. Times are CPU time of this process: the disk does not count.

    Args:
        teachers: their maps.
        repeats: of which the median is taken, >= 1.
        progress: makes a progress bar from (total, description, unit).
    Raises:
        ConfigError: Pillow is not installed.
    """
    rows = []
    for maps in teachers:
        coders = all_coders(maps)
        rows += _ratios(maps.name, coders, _measure(maps, coders, repeats, progress))
    return rows


def _measure(
    maps: BenchMap,
    coders: Sequence[Coder],
    repeats: int,
    progress: Callable[[int, str, str], AbstractContextManager[Any]] | None,
) -> list[_Measured]:
    expected = maps.at_image_size()
    found: list[_Measured] = []
    order = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="tiekd-bench-") as folder:
        for number, coder in enumerate(coders):
            place = Path(folder) / str(number)
            place.mkdir()
            coder.write(place)
            found.append(_answers(coder, expected))
        with contextlib.nullcontext() if progress is None else progress(repeats, f"bench {maps.name}", "repeat") as bar:
            for _ in range(repeats):
                frames = order.integers(0, len(expected), BURST).tolist()
                for coder, measured in zip(coders, found, strict=True):
                    _turn(coder, measured, frames)
                if bar is not None:
                    bar.update(1)
    return found


def _answers(coder: Coder, expected: Depth) -> _Measured:
    """Size and error over all frames; what compiles or fills caches at its first use has done so then."""
    num_bytes, errors = [], []
    for i, depth in enumerate(expected):
        data = coder.encode(i)
        num_bytes.append(coder.num_bytes(data))
        for response in (coder.decode(data), coder.read(i)):
            errors.append(float(np.abs(response.astype(np.float64) - depth).max()))
    return _Measured(statistics.fmean(num_bytes), max(errors))


def _turn(coder: Coder, measured: _Measured, frames: Sequence[int]) -> None:
    """Some frames there and back; adds the mean times."""
    data = [coder.encode(i) for i in frames]
    measured.encode_ms.append(_mean_ms(coder.encode, frames))
    measured.decode_ms.append(_mean_ms(coder.decode, data))
    measured.read_ms.append(_mean_ms(coder.read, frames))


def _mean_ms(work: Callable[[Any], Any], arguments: Sequence[Any]) -> float:
    """CPU time of one, in milliseconds; each result is let go before the next."""
    started = time.process_time_ns()
    for argument in arguments:
        work(argument)
    return (time.process_time_ns() - started) / len(arguments) / 1e6


def _ratios(name: str, coders: Sequence[Coder], measured: Sequence[_Measured]) -> list[BenchRow]:
    numbers = [
        (
            found.num_bytes,
            statistics.median(found.encode_ms),
            statistics.median(found.decode_ms),
            statistics.median(found.read_ms),
        )
        for found in measured
    ]
    reference = [max(value, 1e-9) for value in numbers[0]]
    return [
        BenchRow(name, coder.name, *values, found.max_error_m, *(v / r for v, r in zip(values, reference, strict=True)))
        for coder, found, values in zip(coders, measured, numbers, strict=True)
    ]
