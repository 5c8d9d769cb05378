"""Stage one by several processes, as launchers start them: a killed rank costs its unfinished shards and no more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fakes import FormulaTeacher, MemoryFrames

from tiekd_cache.data.synthetic_kitti import write_synthetic_kitti
from tiekd_cache.launch import ShardRange
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.store import open_store, verify_store

ROOT = Path(__file__).resolve().parents[1]
FRAMES = 200
CONFIG = PrecomputeConfig(batch_size=4, shard_frames=8, workers=2)


def work(store: Path, victim: int) -> None:
    """What each rank does; the victim kills itself when three shards are finished. Imported by the ranks."""
    from tiekd_cache.launch import Launch

    launch = Launch.from_environment()

    class Teacher(FormulaTeacher):
        def predict_frames(self, frames):  # type: ignore[no-untyped-def]
            if launch.rank == victim and len(list((store / "done").glob("*.json"))) >= 3:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.02)
            return super().predict_frames(frames)

    # nobody finishes before the last one has begun
    (store.parent / f"ready.{launch.rank}").touch()
    while len(list(store.parent.glob("ready.*"))) < launch.world_size:
        time.sleep(0.01)
    report = precompute(Teacher(), MemoryFrames(FRAMES), store, CONFIG, launch=launch)
    sys.stdout.write(f"rank {launch.rank} made {report.made} of {report.frames}\n")


def torchrun(ranks: int, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`torchrun` with so many processes, to its end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=150, check=False
    )


def ranks_at_work(store: Path, victim: int, cwd: Path) -> subprocess.CompletedProcess[str]:
    script = cwd / "work.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom test_precompute_processes import work\n"
        "work(Path(sys.argv[1]), int(sys.argv[2]))\n"
    )
    return torchrun(4, str(script), str(store), str(victim), cwd=cwd)


@pytest.mark.slow
def test_a_killed_rank_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    store = tmp_path / "ranks.zarr"
    killed = ranks_at_work(store, 1, tmp_path)
    assert killed.returncode != 0
    assert "SIGKILL" in killed.stderr
    partial = open_store(store, allow_partial=True)
    assert 0 < len(partial) < FRAMES
    again = ranks_at_work(store, -1, tmp_path)
    assert again.returncode == 0, again.stderr
    made = [int(line.split()[3]) for line in again.stdout.splitlines() if line.startswith("rank")]
    assert sum(made) == FRAMES - len(partial)
    assert len(made) == 4
    precompute(FormulaTeacher(), MemoryFrames(FRAMES), tmp_path / "alone.zarr", CONFIG)
    assert verify_store(store).problems == ()
    one, many = open_store(tmp_path / "alone.zarr"), open_store(store)
    assert list(one) == list(many)
    assert one.info.schema.fingerprint == many.info.schema.fingerprint
    assert all(np.array_equal(one.native(frame_id), many.native(frame_id)) for frame_id in one)


@pytest.mark.slow
def test_torchrun_runs_the_command_and_one_rank_speaks(tmp_path: Path) -> None:
    write_synthetic_kitti(tmp_path / "data" / "kitti", train_frames=4, test_frames=1)
    command = ["-m", "tiekd_cache", "precompute", "--teacher", "lidar", "--shard-frames", "1", "--json"]
    done = torchrun(2, *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"responses": 4') == 1
    assert done.stderr.count("Next: ") == 1
    assert done.stderr.count("Data: ") == 1
    assert verify_store(tmp_path / "stores" / "lidar.zarr").problems == ()


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16"}, "3/16"),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "1", "PARTS": "16"}, "7/16"),
    ],
)
def test_a_slurm_job_makes_its_part_alone_too(tmp_path: Path, given: dict[str, str], part: str) -> None:
    stand_in = tmp_path / "tiekd-cache"
    stand_in.write_text('#!/bin/sh\necho "$@"\n')
    stand_in.chmod(0o755)
    script = [ROOT / "pipelines" / "slurm_precompute.sh", "--teacher", "bts"]
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = subprocess.run(["bash", *script], env=path | given, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["precompute", "--teacher", "bts", "--workers", "6", "--shard-range", part]
    ShardRange.parse(part)


@pytest.mark.slow
def test_ray_makes_the_same_store(tmp_path: Path) -> None:
    pytest.importorskip("ray.data", reason="Ray Data is not installed")
    write_synthetic_kitti(tmp_path / "data" / "kitti", train_frames=4, test_frames=1)

    def on_ray(*options: str) -> subprocess.CompletedProcess[str]:
        script = [sys.executable, str(ROOT / "pipelines" / "ray_precompute.py"), "--teacher", "lidar"]
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        memory = {"RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(100 * 2**20)}
        environment = {**os.environ, **memory, "PYTHONPATH": paths}
        return subprocess.run(
            [*script, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=150, check=False
        )

    def only_error(failed: subprocess.CompletedProcess[str]) -> str:
        assert failed.returncode == 1, failed.stderr
        [line] = [line for line in failed.stderr.splitlines() if line.startswith("Error: ")]
        return line

    settings = ["--shard-frames", "1", "--step", "1/32"]
    done = on_ray("--store", "ray.zarr", "--actors", "2", *settings)
    assert done.returncode == 0, done.stderr
    assert "4 frames made" in done.stdout
    assert verify_store(tmp_path / "ray.zarr").problems == ()
    command = [sys.executable, "-m", "tiekd_cache", "precompute", "--teacher", "lidar", "--store", "alone.zarr"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, *settings], cwd=tmp_path, env=environment, capture_output=True, check=True)
    alone, ray = open_store(tmp_path / "alone.zarr"), open_store(tmp_path / "ray.zarr")
    assert alone.info.schema.fingerprint == ray.info.schema.fingerprint
    assert all(np.array_equal(alone.native(frame_id), ray.native(frame_id)) for frame_id in alone)
    assert "none.txt" in only_error(on_ray("--store", "ray.zarr", "--split", "none.txt"))
    assert "no network to compile" in only_error(on_ray("--store", "other.zarr", "--compile"))
