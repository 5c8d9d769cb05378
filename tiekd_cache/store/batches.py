"""Reading many frames in the order in which they lie in the files, by one thread or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tiekd_cache.store.codec import Depth


def read_batch(
    read_into: Callable[[int, Depth], None], positions: Sequence[int], depth: Depth, *, threads: int = 1
) -> None:
    """Fill depth[i] with the frame at positions[i], for all i.

    The frames are read by ascending position, so that each shard is opened once and its chunks come one after the
    other from the disk. Each thread has a run of them; they wait for each other, and the first error is raised.

    Args:
        read_into: fills an array [H,W] with the frame at a position; called from several threads at once.
        positions: in the frame list.
        depth: [len(positions),H,W] float32.
        threads: at least 1; more than frames are not started.
    """
    order = np.argsort(np.asarray(positions, np.int64), kind="stable")

    def read_run(run: Sequence[int]) -> None:
        for i in run:
            read_into(positions[i], depth[i])

    threads = min(threads, len(positions))
    if threads <= 1:
        read_run(order.tolist())
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(read_run, [run.tolist() for run in np.array_split(order, threads)]):
            pass
