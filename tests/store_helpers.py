"""Small stores for tests: schemas, depth maps that a network could have said, a finished store of them."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tiekd_cache.store import StoreSchema, StoreWriter, open_store
from tiekd_cache.store.kernels import kernels

Depth = npt.NDArray[np.float32]

NATIVE_SIZE = (12, 20)
IMAGE_SIZE = (24, 40)
MIN_DEPTH, MAX_DEPTH = 1e-3, 80.0
HALF_STEP = 1 / 128


def frame_list(count: int) -> list[str]:
    """`count` frame ids in KITTI's form."""
    return [f"2011_09_26_drive_{i // 4:04d}_sync/image_02/{i:010d}" for i in range(count)]


def depth_maps(count: int, size: tuple[int, int] = NATIVE_SIZE, seed: int = 0) -> Depth:
    """[count,h,w] metres: a road that recedes, boxes, noise, and some missing pixels in every third map."""
    rng = np.random.default_rng(seed)
    rows = np.linspace(70, 4, size[0], dtype=np.float32)[None, :, None]
    depth = np.repeat(np.repeat(rows, count, axis=0), size[1], axis=2)
    for i in range(count):
        top, left = rng.integers(0, max(1, size[0] - 3)), rng.integers(0, max(1, size[1] - 3))
        depth[i, top : top + 3, left : left + 3] = rng.uniform(2, 60)
    depth *= rng.normal(1, 0.01, depth.shape)
    depth = np.clip(depth, MIN_DEPTH, MAX_DEPTH).astype(np.float32)
    depth[::3, :2, :3] = 0
    return depth


def build_schema(frame_ids: Sequence[str], **changes: Any) -> StoreSchema:
    """A schema of full-resolution maps; `changes` replace arguments of `StoreSchema.build`."""
    arguments: dict[str, Any] = {
        "teacher": {
            "name": "formula",
            "digest": "0" * 64,
            "architecture": "formula_v1",
            "weights": "none",
            "trained": True,
        },
        "input": {
            "crop": "kb 352x1216",
            "image_size": NATIVE_SIZE,
            "flip_average": True,
            "preprocessing": {"mean": (0.485, 0.456, 0.406)},
        },
        "native_size": NATIVE_SIZE,
        "min_depth": MIN_DEPTH,
        "max_depth": MAX_DEPTH,
        "clamp": (MIN_DEPTH, MAX_DEPTH),
        "dataset": {"name": "kitti", "split": "splits/eigen_train.txt"},
        "frame_ids": frame_ids,
    }
    return StoreSchema.build(**{**arguments, **changes})


def half_resolution_schema(frame_ids: Sequence[str], align_corners: bool = True) -> StoreSchema:
    """A schema of maps at half the image's size."""
    images = {"crop": "none", "image_size": IMAGE_SIZE, "flip_average": False, "preprocessing": {}}
    resize = {"size": IMAGE_SIZE, "mode": "bilinear", "align_corners": align_corners}
    return build_schema(frame_ids, input=images, resize=resize)


def write_all(writer: StoreWriter, depth: Depth) -> None:
    """Write every shard that is not finished from the maps of all frames."""
    first = 0
    todo = set(writer.todo())
    for shard in range(writer.num_shards):
        count = len(writer.frames_of(shard))
        if shard in todo:
            with writer.claim(shard) as mine:
                if mine:
                    writer.write_shard(shard, depth[first : first + count])
        first += count


def make_store(path: Path, count: int = 10, shard_frames: int = 4, **changes: Any) -> Depth:
    """A finished store of `depth_maps(count)` at `path`; returns the maps."""
    frame_ids = frame_list(count)
    depth = depth_maps(count)
    write_all(StoreWriter.open(path, build_schema(frame_ids, **changes), frame_ids, shard_frames=shard_frames), depth)
    return depth


def all_files(path: Path) -> list[Path]:
    """Every file of a store that is not empty, sorted."""
    return sorted(file for file in path.rglob("*") if file.is_file() and file.stat().st_size)


def open_writer(path: Path, **changes: Any) -> StoreWriter:
    """The writer of ten frames in shards of four."""
    frame_ids = frame_list(10)
    return StoreWriter.open(path, build_schema(frame_ids, **changes), frame_ids, shard_frames=4)


def files_of(path: Path) -> dict[str, bytes]:
    """Contents of every file below a folder."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def arrays_of(path: Path) -> dict[str, list[Any]]:
    """All three arrays, as zarr-python reads them."""
    import zarr

    group: Any = zarr.open_group(path, mode="r")
    return {name: group[name][:].tolist() for name in ("residual", "frame_id", "digest")}


def start_helper(call: str, module: str = "store_helpers") -> subprocess.Popen[str]:
    """A process of its own that calls a function of this or another module; `call` is Python, with `Path` at hand."""
    code = f"import {module}; from pathlib import Path; {module}.{call}"
    folders = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": folders, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)


def in_child(work: Callable[[], Any]) -> int:
    """Fork, do `work` in the child, and return the child's pid at once; a failing child prints why and exits with 1."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def write_killed_at_random(path: Path, kills: int, seed: int) -> None:
    """Write a store in children that are killed at random moments, and check it after each kill; prints JSON counts.

    Runs as the main program of a process without threads, so that forking is safe. A store that gets finished is
    compared with what was meant, removed, and begun again, until `kills` kills have hit; the last one stays.
    """
    chance = random.Random(seed)
    frame_ids, depth = frame_list(10), depth_maps(10)

    def write() -> None:
        write_all(StoreWriter.open(path, build_schema(frame_ids), frame_ids, shard_frames=2), depth)

    kernels()  # loaded here once: else most kills would hit children that are still loading numba
    started = time.perf_counter()
    os.waitpid(in_child(write), 0)
    duration = time.perf_counter() - started
    shutil.rmtree(path)
    hit = finished = before_creation = 0
    done: set[str] = set()
    while True:
        pid = in_child(write)
        if hit < kills:
            time.sleep(chance.uniform(0, duration))
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        assert status in (0, signal.SIGKILL), f"the writer failed with status {status}"
        hit += status == signal.SIGKILL
        if not path.exists():
            before_creation += 1
            continue
        now = check_finished_frames(path, frame_ids, depth)
        assert done <= now, f"finished frames were lost: {sorted(done - now)}"
        done = now
        if len(done) == len(frame_ids):
            finished += 1
            if hit >= kills and status == 0:
                break
            shutil.rmtree(path)
            done = set()
    print(json.dumps({"hit": hit, "finished": finished, "before_creation": before_creation}))


def write_until_killed_in_mid_write(path: Path, max_bytes: int) -> None:
    """Write flat maps (a short shard, a longer record) until a file passes `max_bytes`, where the kernel kills us."""
    frame_ids = frame_list(10)
    writer = StoreWriter.open(path, build_schema(frame_ids), frame_ids, shard_frames=4)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
    write_all(writer, np.full((10, *NATIVE_SIZE), 20.0, np.float32))


def check_finished_frames(path: Path, frame_ids: Sequence[str], depth: Depth) -> set[str]:
    """The frames that the store says it holds, each of them read and compared with what was meant."""
    store = open_store(path, allow_partial=True)
    for frame_id in store:
        error = np.abs(store[frame_id] - depth[frame_ids.index(frame_id)]).max()
        assert error <= HALF_STEP, f"{frame_id} is off by {error} m"
    return set(store)


def write_beside_others(path: Path, start: Path) -> None:
    """Wait for the file `start`, then write what nobody else writes until the store is finished; prints our shards.

    One of two: neither finishes its first shard before the other has one as well.
    """
    frame_ids, depth = frame_list(40), depth_maps(40)
    print("ready", flush=True)
    while not start.exists():
        time.sleep(0.001)
    writer = StoreWriter.open(path, build_schema(frame_ids), frame_ids, shard_frames=2)
    mine = []
    while todo := writer.todo():
        for shard in todo:
            with writer.claim(shard) as free:
                if free:
                    start.with_name(f"working.{os.getpid()}").touch()
                    while len(list(start.parent.glob("working.*"))) < 2:
                        time.sleep(0.001)
                    writer.write_shard(shard, depth[2 * shard : 2 * shard + 2])
                    mine.append(shard)
    print(json.dumps(mine), flush=True)
