"""Replaying a teacher's resize on reading equals torch on the CPU, and blends no missing pixel into a valid one."""

from __future__ import annotations

from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from tiekd_cache.store.resize import resize_bilinear

# Without fused multiply-add torch itself rounds the source coordinates twice, and moves by up to 2 mm on noise of 80 m.
TOLERANCE_M = 3e-3 if torch.backends.cpu.get_cpu_capability() == "DEFAULT" else 1e-4

sides = st.integers(1, 50)


def torch_resize(depth: npt.NDArray[np.float32], size: tuple[int, int], align_corners: bool) -> npt.NDArray[np.float32]:
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(depth)[None, None], size=size, mode="bilinear", align_corners=align_corners
    )
    return resized[0, 0].numpy()


@given(
    source=st.tuples(sides, sides), target=st.tuples(sides, sides), align_corners=st.booleans(), seed=st.integers(0, 99)
)
@example(source=(1, 1), target=(5, 7), align_corners=True, seed=0)
@example(source=(5, 7), target=(1, 1), align_corners=True, seed=0)
@example(source=(37, 41), target=(75, 83), align_corners=False, seed=1)
@example(source=(33, 50), target=(33, 49), align_corners=True, seed=1)
def test_it_is_what_torch_does(
    source: tuple[int, int], target: tuple[int, int], align_corners: bool, seed: int
) -> None:
    depth = np.random.default_rng(seed).uniform(1e-3, 80, source).astype(np.float32)
    resized = resize_bilinear(depth, target, align_corners)
    assert resized.shape == target
    assert resized.dtype == np.float32
    assert np.abs(resized - torch_resize(depth, target, align_corners)).max() <= TOLERANCE_M


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("source", [(176, 608), (88, 304), (174, 611)])
def test_it_is_what_torch_does_at_kittis_size(source: tuple[int, int], align_corners: bool) -> None:
    depth = np.random.default_rng(0).uniform(1e-3, 80, source).astype(np.float32)
    difference = resize_bilinear(depth, (352, 1216), align_corners) - torch_resize(depth, (352, 1216), align_corners)
    assert np.abs(difference).max() <= TOLERANCE_M


@pytest.mark.shared
def test_it_is_what_torch_does_on_real_maps(shared_dir: Path) -> None:
    maps = np.load(shared_dir / "depth_maps" / "depth_maps.npz")
    for name, align_corners in (("real_mono_native_x4", False), ("synthetic_half_native_002", True)):
        for depth in maps[name]:
            expected = torch_resize(depth, (352, 1216), align_corners)
            assert np.abs(resize_bilinear(depth, (352, 1216), align_corners) - expected).max() <= TOLERANCE_M


@given(
    missing=hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))),
    target=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    doubled=st.sampled_from([None, 1, 2, 4]),
)
def test_a_pixel_with_a_missing_source_is_missing_and_no_other(
    missing: npt.NDArray[np.bool_], target: tuple[int, int], doubled: int | None
) -> None:
    height, width = missing.shape
    size = target if doubled is None else (doubled * height, doubled * width)
    align_corners = doubled is None  # where not, powers of two: weights are exact on every CPU
    depth = np.where(missing, 0, 40.0).astype(np.float32)
    resized = resize_bilinear(depth, size, align_corners)
    touched = torch_resize(missing.astype(np.float32), size, align_corners) > 0
    assert np.array_equal(resized == 0, touched)
    assert np.allclose(resized[~touched], 40.0, atol=1e-4), "valid pixels must not be pulled towards 0 m"


def test_the_same_size_is_the_same_map() -> None:
    depth = np.random.default_rng(0).uniform(1, 80, (7, 9)).astype(np.float32)
    for align_corners in (False, True):
        assert np.array_equal(resize_bilinear(depth, (7, 9), align_corners), depth)
