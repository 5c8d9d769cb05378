"""Fixtures that every test may use: where the shared reference data are, and one thread for torch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of shared reference data, from $TIEKD_SHARED or beside the repository; skips where absent."""
    root = Path(__file__).resolve().parents[1]
    candidates = [Path(os.environ["TIEKD_SHARED"])] if "TIEKD_SHARED" in os.environ else [root.parent / "shared"]
    for candidate in candidates:
        if (candidate / "parity").is_dir():
            return candidate.resolve()
    pytest.skip(f"shared reference data not found at {candidates[0]}; set TIEKD_SHARED to its place")
