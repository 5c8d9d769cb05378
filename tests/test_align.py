"""Scale and shift of inverse depth are found among outliers, and what cannot be fitted names the frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FormulaTeacher, MemoryFrames
from hypothesis import given, settings
from hypothesis import strategies as st

from tiekd_cache.data.frame import Frame
from tiekd_cache.errors import DataError
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.store import open_store
from tiekd_cache.teachers import TeacherDepth
from tiekd_cache.teachers.align import fit_scale_shift, to_depth


@settings(max_examples=40)
@given(
    log_scale=st.floats(-6.0, 1.0),
    shift=st.floats(0.0, 0.1),
    offset=st.floats(-5.0, 100.0),
    share=st.floats(0.0, 0.2),
    one_sided=st.booleans(),
    seed=st.integers(0, 999),
)
def test_known_scale_and_shift_come_back_under_outliers(
    log_scale: float, shift: float, offset: float, share: float, one_sided: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    span = 10.0**-log_scale * 0.2  # of the prediction: the nearest is 5 m away or nearer
    predicted = rng.random(2000) * span + offset * span
    scale = 10.0**log_scale
    t = shift + 0.0125 - scale * offset * span
    depth = 1.0 / (scale * predicted + t)
    wrong = rng.random(2000) < share
    depth[wrong] = 2.0 if one_sided else rng.uniform(1.0, 80.0, wrong.sum())
    found = fit_scale_shift(predicted, depth, "made/up/0")
    np.testing.assert_allclose(found, (scale, t), rtol=1e-3, atol=1e-4)
    fitted = 1.0 / (found[0] * predicted + found[1])
    np.testing.assert_allclose(fitted[~wrong], depth[~wrong], rtol=1e-3)


def test_noise_moves_the_fit_little_and_order_not_at_all() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.random(5000) * 3
    depth = 1.0 / (0.1 * predicted + 0.02) * rng.normal(1.0, 0.03, 5000)
    depth[:1000] = 79.0
    s, t = fit_scale_shift(predicted, depth, "f")
    assert s == pytest.approx(0.1, rel=0.02)
    assert t == pytest.approx(0.02, rel=0.06)
    assert fit_scale_shift(predicted[::-1], depth[::-1], "f") == pytest.approx((s, t), rel=1e-9)


def test_depth_stays_in_range() -> None:
    depth = to_depth(np.array([-1.0, 0.0, 1.0, 1e9], np.float32), 0.5, 0.0, 80.0)
    np.testing.assert_allclose(depth, [80.0, 80.0, 2.0, 1e-3], rtol=1e-6)
    assert depth.dtype == np.float32


@pytest.mark.parametrize(
    ("predicted", "depth", "message"),
    [
        (np.linspace(0, 1, 99), np.full(99, 5.0), "99 pixels with LiDAR depth; at least 100"),
        (np.ones(200), np.linspace(1, 9, 200), "same inverse depth everywhere"),
        (np.linspace(0, 1, 200), np.linspace(1, 9, 200), "does not grow"),
        (np.full(200, np.nan), np.linspace(1, 9, 200), "not finite"),
    ],
)
def test_what_cannot_be_aligned_names_the_frame(predicted: object, depth: object, message: str) -> None:
    with pytest.raises(DataError, match=rf"Frame drive/cam/7.*{message}"):
        fit_scale_shift(predicted, depth, "drive/cam/7")  # type: ignore[arg-type]


class LidarEcho(FormulaTeacher):
    """Says the LiDAR depth that it is given, 0 where there is none."""

    needs_lidar = True

    def predict_frames(self, frames: Sequence[Frame]) -> TeacherDepth:
        return TeacherDepth(torch.stack([torch.from_numpy(frame.gt_depth) for frame in frames]).unsqueeze(1))


def test_flip_averaging_mirrors_the_lidar_with_the_image(tmp_path: Path) -> None:
    source = MemoryFrames(2)
    precompute(LidarEcho(), source, tmp_path / "a.zarr", PrecomputeConfig(flip_average=True))
    for frame_id, depth in ((frame_id, open_store(tmp_path / "a.zarr")[frame_id]) for frame_id in source.frame_ids):
        expected = source.lidar_depth(frame_id)
        assert expected is not None
        assert not np.array_equal(expected, expected[:, ::-1])
        np.testing.assert_allclose(depth, expected, atol=1 / 128)
