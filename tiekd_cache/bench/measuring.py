"""What benchmarks measure with: a process of its own, wall time, and the most memory in use."""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from tiekd_cache.errors import DeviceError, first_line


def alone(measure: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a new process; raises DeviceError where it runs out of memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(measure, *arguments).result()
        except (RuntimeError, MemoryError) as error:  # torch's, or the process was killed
            raise DeviceError(
                f"{arguments[0]} could not be measured ({first_line(error)}). Use a smaller batch."
            ) from None


def seconds_of(run: Callable[[], Any], device: torch.device) -> float:
    """How long a call takes, with what it starts on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[int]]:
    """A list that holds, after the block, how many bytes more than before it were in use at its worst moment."""
    peak = [0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak[0] = torch.cuda.max_memory_allocated(device) - before
        return
    before, done = _resident_bytes(), threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            peak[0] = max(peak[0], _resident_bytes() - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
    peak[0] = max(peak[0], _resident_bytes() - before)


def _resident_bytes() -> int:
    """Bytes of this process in memory now; where the system does not say, the most so far."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
