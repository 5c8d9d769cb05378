"""Samples depend on seed, epoch and index alone, and every frame comes once an epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import FormulaTeacher, MemoryFrames
from hypothesis import given, settings
from hypothesis import strategies as st

from tiekd_cache.data.normalize import IMAGENET_MEAN, IMAGENET_STD, denormalize, normalize
from tiekd_cache.data.transforms import TrainTransform
from tiekd_cache.dataset import ResponseDataset, StepBatches
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.store import ResponseStore, open_store


@settings(max_examples=50)
@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 40), st.integers(0, 5))
def test_every_frame_once_an_epoch(num_frames: int, batch_size: int, steps: int, seed: int) -> None:
    batches = list(StepBatches(num_frames, batch_size, 0, steps, seed))
    assert len(batches) == steps
    assert all(len(batch) == batch_size for batch in batches)
    positions = [position for batch in batches for position in batch]
    counts = Counter(positions)
    assert set(counts.values()) == {1}
    for epoch in range(steps * batch_size // num_frames):
        assert sorted(index for e, index in positions if e == epoch) == list(range(num_frames))


@settings(max_examples=50)
@given(st.integers(1, 30), st.integers(1, 9), st.integers(2, 40), st.data())
def test_a_resumed_order_is_the_rest_of_the_whole(num_frames: int, batch: int, steps: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, steps - 1))
    whole = list(StepBatches(num_frames, batch, 0, steps, seed=3))
    assert list(StepBatches(num_frames, batch, start, steps, seed=3)) == whole[start:]


@pytest.mark.parametrize("mix", ["average", "sample"])
def test_a_batch_is_its_samples_and_each_store_is_read_once(
    store: ResponseStore, tmp_path: Path, mix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    precompute(FormulaTeacher(gain=1.1), MemoryFrames(6), tmp_path / "b.zarr", PrecomputeConfig())
    stores = [store, open_store(tmp_path / "b.zarr")]
    dataset = ResponseDataset(MemoryFrames(6), stores, TrainTransform((48, 64), 10), 5, with_gt=True, mix=mix)
    positions = [(epoch, index) for epoch in range(2) for index in (4, 1, 0, 5)]
    alone = [dataset[position] for position in positions]
    reads: list[int] = []
    one_call = ResponseStore.read

    def read(self: ResponseStore, frame_ids: Sequence[str], **kwargs: Any) -> Any:
        reads.append(len(frame_ids))
        return one_call(self, frame_ids, **kwargs)

    monkeypatch.setattr(ResponseStore, "read", read)
    batch = dataset.__getitems__(positions).to(torch.device("cpu"))
    assert (len(reads), sum(reads)) == (2, 16 if mix == "average" else 8)
    assert batch.frame_ids == tuple(frame_id for sample in alone for frame_id in sample.frame_ids)
    for name in ("image", "teacher_depth", "gt_depth", "valid_mask"):
        assert torch.equal(getattr(batch, name), torch.stack([getattr(sample, name) for sample in alone]))


def test_the_order_changes_with_epoch_and_seed() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [index for [(_, index)] in StepBatches(20, 1, 20 * epoch, 20 * (epoch + 1), seed)]

    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


@pytest.mark.parametrize("shape", [(5, 7, 3), (4, 5, 7, 3), (2, 3, 5, 7, 3)])
def test_normalising_is_the_formula_to_the_last_bit_for_one_image_or_many(shape: tuple[int, ...]) -> None:
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    assert torch.equal(normalize(image), ((image / 255.0 - mean) / std).movedim(-1, -3))
    assert normalize(image).is_contiguous()
    assert torch.equal(denormalize(normalize(image)), image)
