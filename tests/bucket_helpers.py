"""Stage one into a bucket, killed at random moments: the main program of a process of its own."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
from fakes import FormulaTeacher, MemoryFrames
from store_helpers import in_child

from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.store import open_store
from tiekd_cache.store.kernels import kernels
from tiekd_cache.store.objects import open_objects

SOURCE = MemoryFrames(24)
CONFIG = PrecomputeConfig(batch_size=2, shard_frames=2, with_images=True)


def finished_frames(url: str, local: Path, said: Path) -> None:
    """Compare whatever the store at the URL says it holds with the local one; writes the frames' ids to a file."""
    if not [key for key, _ in open_objects(url).list() if key == "zarr.json"]:
        said.write_text("null")
        return
    store, whole = open_store(url, allow_partial=True), open_store(local)
    for frame_id in store:
        assert np.array_equal(store.native(frame_id), whole.native(frame_id)), frame_id
        assert np.array_equal(store.image(frame_id), whole.image(frame_id)), frame_id
    said.write_text(json.dumps(list(store)))


def precompute_killed_at_random(url: str, local: Path, kills: int, seed: int) -> None:
    """Precompute in children that are killed at random moments, until `kills` kills left a store that is begun.

    After each one, every frame that the store says it holds is compared with the local store. A store that gets
    finished before is left, and the next one begun beside it; the last one is finished. Prints JSON: its URL, counts.
    """
    chance, said = random.Random(seed), local.parent / "said.json"
    kernels()  # loaded here once; this process itself must not use the network, since it forks

    def run(child: object) -> int:
        return os.waitpid(in_child(child), 0)[1]  # type: ignore[arg-type]

    started = time.perf_counter()
    assert run(lambda: precompute(FormulaTeacher(), SOURCE, f"{url}/whole.zarr", CONFIG)) == 0
    duration = time.perf_counter() - started
    hit = finished = 0
    done: set[str] = set()
    while True:
        place = f"{url}/{finished}.zarr"
        pid = in_child(lambda place=place: precompute(FormulaTeacher(), SOURCE, place, CONFIG))  # type: ignore[misc]
        if hit < kills:
            time.sleep(chance.uniform(0, duration))
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        assert status in (0, signal.SIGKILL), f"it failed with status {status}"
        assert run(lambda place=place: finished_frames(place, local, said)) == 0  # type: ignore[misc]
        found = json.loads(said.read_text())
        assert done <= set(found or ()), f"finished frames were lost: {sorted(done - set(found or ()))}"
        hit += status == signal.SIGKILL and found is not None
        done = set(found or ())
        if status == 0:
            if hit >= kills:
                break
            finished, done = finished + 1, set()
    print(json.dumps({"url": place, "hit": hit, "finished": finished}))
