"""Tiles on threads: each works through tiles of its own with single-threaded operations.

PyTorch's own threads share out every operation and wait for one another at its end, some sixty times a tile; here
they meet once. On two idle cores the fused head gains little by it, on cores that have other work to do it takes a
fraction of the time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Tile = tuple[int, slice]
"""Sample of the batch, and its pixels."""

Part = TypeVar("Part")


def over_tiles(work: Callable[[Sequence[Tile]], Part], tiles: Sequence[Tile], device: torch.device) -> list[Part]:
    """What `work` returns for each thread's tiles, in the threads' order.

    As many threads as PyTorch uses (`torch.get_num_threads`); one, the caller's own, on a GPU. The same number of
    threads gives each the same tiles in the same order, so that sums come out the same.
    """
    limit = torch.get_num_threads()
    count = min(limit, len(tiles)) if device.type == "cpu" else 1
    if count <= 1:
        return [work(tiles)]
    inference = torch.is_inference_mode_enabled()

    def part(first: int) -> Part:
        # A thread takes up the process's number when it first asks or computes, and only then keeps another.
        torch.get_num_threads()
        torch.set_num_threads(1)
        # modes are a thread's own, too
        with torch.inference_mode(inference), torch.no_grad():
            return work(tiles[first::count])

    try:
        return list(_threads(count, os.getpid()).map(part, range(count)))
    finally:
        torch.set_num_threads(limit)  # threads to come take up what was set last


@cache
def _threads(count: int, _process: int) -> ThreadPoolExecutor:
    """`count` threads of this process (threads do not survive a fork)."""
    return ThreadPoolExecutor(count, "fused-head")
