"""Pushers that are killed, and pushers that meet: main programs of processes of their own."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

from store_helpers import check_finished_frames, depth_maps, frame_list, in_child

from tiekd_cache.progress import no_progress_bar
from tiekd_cache.sharing import copy_store
from tiekd_cache.store.kernels import kernels
from tiekd_cache.store.objects import FolderObjects


def push(source: Path, target: Path) -> None:
    """Copy a store from folder to folder."""
    copy_store(FolderObjects(source), FolderObjects(target), jobs=2, progress=no_progress_bar)


def push_killed_at_random(source: Path, target: Path, kills: int, seed: int) -> None:
    """Push a store of ten frames in children that are killed at random moments; prints JSON counts.

    After each kill every frame that the target says it holds is compared with what was meant. A target that gets
    finished is removed and begun again, until `kills` kills have hit; the last one stays.
    """
    chance = random.Random(seed)
    frame_ids, depth = frame_list(10), depth_maps(10)
    kernels()  # loaded here once: else most kills would hit children that are still loading numba
    started = time.perf_counter()
    os.waitpid(in_child(lambda: push(source, target)), 0)
    duration = time.perf_counter() - started
    shutil.rmtree(target)
    hit = finished = before_creation = 0
    done: set[str] = set()
    while True:
        pid = in_child(lambda: push(source, target))
        if hit < kills:
            time.sleep(chance.uniform(0, duration))
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        assert status in (0, signal.SIGKILL), f"the pusher failed with status {status}"
        hit += status == signal.SIGKILL
        if not (target / "zarr.json").exists():
            before_creation += 1
            continue
        now = check_finished_frames(target, frame_ids, depth)
        assert done <= now, f"finished frames were lost: {sorted(done - now)}"
        done = now
        if len(done) == len(frame_ids):
            finished += 1
            if hit >= kills and status == 0:
                break
            shutil.rmtree(target)
            done = set()
    print(json.dumps({"hit": hit, "finished": finished, "before_creation": before_creation}))


def push_together(sources: list[Path], target: Path) -> None:
    """Push several stores to one target at the same time; fails where one of them does."""
    kernels()
    children = [in_child(lambda source=source: push(source, target)) for source in sources]  # type: ignore[misc]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)
