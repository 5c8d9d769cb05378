"""Samples depend on seed, epoch and index alone, and every frame comes once an epoch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiekd_cache.data.normalize import IMAGENET_MEAN, IMAGENET_STD, denormalize, normalize
from tiekd_cache.dataset import StepBatches


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
