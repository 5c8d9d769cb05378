"""What every test may use: the shared reference data, a store; one thread for torch, and no limits of time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from fakes import FormulaTeacher, MemoryFrames
from hypothesis import HealthCheck, settings

from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.store import ResponseStore, open_store

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
torch.set_num_threads(1)
settings.register_profile("any load", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any load")  # what else the machine does decides no test


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of shared reference data, from $TIEKD_SHARED or beside the repository; skips where absent."""
    root = Path(__file__).resolve().parents[1]
    candidates = [Path(os.environ["TIEKD_SHARED"])] if "TIEKD_SHARED" in os.environ else [root.parent / "shared"]
    for candidate in candidates:
        if (candidate / "parity").is_dir():
            return candidate.resolve()
    pytest.skip(f"shared reference data not found at {candidates[0]}; set TIEKD_SHARED to its place")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> ResponseStore:
    """The responses of a formula to six frames in memory, in two shards; tests must leave it as it is."""
    path = tmp_path_factory.mktemp("store") / "a.zarr"
    precompute(FormulaTeacher(), MemoryFrames(6), path, PrecomputeConfig(shard_frames=4))
    return open_store(path)


@pytest.fixture(scope="session")
def store_with_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store of six frames in memory, with images and statistics, in shards of two; leave it as it is."""
    path = tmp_path_factory.mktemp("store_with_images") / "a.zarr"
    precompute(
        FormulaTeacher(), MemoryFrames(6), path, PrecomputeConfig(shard_frames=2, batch_size=2, with_images=True)
    )
    return path
