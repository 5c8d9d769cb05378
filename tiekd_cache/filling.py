"""Making the shards of a store that are not there yet, beside any other process that does the same.

Whoever knows how to answer a shard's frames (a teacher, a folder of files) hands that in; claims, waiting for
others and the statistics are the same for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tiekd_cache.data.frame import DepthMap
from tiekd_cache.statistics import ShardStatistics, write_statistics
from tiekd_cache.store import StoreWriter

MakeShard = Callable[[int, Sequence[str]], tuple[DepthMap, ShardStatistics | None]]
"""(shard, its frame ids) -> [n,h,w] float32 metres at native size, and its statistics where there are any."""


def frames_to_make(writer: StoreWriter) -> int:
    """Frames of the shards that are not finished now."""
    return sum(len(writer.frames_of(shard)) for shard in writer.todo())


def fill_store(writer: StoreWriter, make_shard: MakeShard, note: Callable[[str], None] = lambda text: None) -> int:
    """Makes every shard that is not finished; returns how many frames this call made.

    Args:
        note: takes sentences for the user (what is waited for).
    Raises:
        Whatever `make_shard` and `StoreWriter.write_shard` raise; finished shards stay.
    """
    made = 0
    todo = writer.todo()
    while todo:
        busy = 0
        for shard in todo:
            with writer.claim(shard) as mine:
                if not mine:
                    busy += 1
                    continue
                frame_ids = writer.frames_of(shard)
                depth, statistics = make_shard(shard, frame_ids)
                if statistics is not None:
                    write_statistics(writer.path, statistics)
                writer.write_shard(shard, depth)
                made += len(frame_ids)
        todo = writer.todo()
        if todo and busy == len(todo):
            note(f"{len(todo)} shards are being made by another process: waiting for it (Ctrl-C is safe).")
            _wait_for_others(writer, len(todo))
            todo = writer.todo()
    return made


def _wait_for_others(writer: StoreWriter, num_todo: int) -> None:
    """Returns when a shard was finished or given up by the process that had claimed it."""
    while len(todo := writer.todo()) == num_todo:
        for shard in todo:
            with writer.claim(shard) as free:
                if free:
                    return
        time.sleep(0.5)
