"""`--compile` with the real compiler: the compiled network says what the plain one says, batches of other sizes too."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import MemoryFrames
from test_precompute_pipeline import SmallNetwork
from torch import nn
from torch._dynamo.utils import counters

from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.store import open_store

COMPILERS = [os.environ.get("CXX", ""), "g++", "c++", "clang++"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not any(map(shutil.which, filter(None, COMPILERS))), reason="no C++ compiler on this machine"),
]


class OwnForward(nn.Module):
    """The small network as one with a `forward` of its own, as the published ones have: torch's are not compiled."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(images)
        return out


def small_teacher() -> SmallNetwork:
    teacher = SmallNetwork()
    teacher.network = OwnForward(teacher.network)
    return teacher


@pytest.mark.filterwarnings("default")  # the compiler's own, about its own parts
def test_a_compiled_teacher_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    source = MemoryFrames(5)
    plain = PrecomputeConfig(batch_size=2, shard_frames=5)
    counters.clear()
    precompute(small_teacher(), source, tmp_path / "plain.zarr", plain)
    assert counters["stats"]["unique_graphs"] == 0
    teacher = small_teacher()
    precompute(teacher, source, tmp_path / "compiled.zarr", replace(plain, compile=True))
    assert counters["stats"]["unique_graphs"] > 0
    assert list((tmp_path / "compiled").rglob("*.so")), "machine code was made"
    assert teacher.digest == small_teacher().digest
    one, other = open_store(tmp_path / "plain.zarr"), open_store(tmp_path / "compiled.zarr")
    assert one.schema.fingerprint == other.schema.fingerprint
    for frame_id in source.frame_ids:
        assert np.abs(one.native(frame_id) - other.native(frame_id)).max() <= one.schema.step  # it may round otherwise
        assert one.native(frame_id).std() > 10 * one.schema.step
