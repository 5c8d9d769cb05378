"""The nine metrics agree with the released formulas and closed forms, and refuse what has no metrics."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tiekd_cache.data.transforms import garg_crop_mask
from tiekd_cache.errors import DataError, RangeError, ShapeError
from tiekd_cache.metrics import METRICS, MetricsMean, depth_metrics


def golden_maps(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(prediction, ground truth, teacher, valid) as the golden file's description draws them."""
    rng = np.random.default_rng(seed)
    shape = (352, 1216)
    gt = np.where(rng.random(shape) < 0.18, rng.uniform(2, 90, shape), 0).astype(np.float32)
    pred = np.clip(gt * rng.normal(1, 0.1, shape) + (gt == 0) * rng.uniform(1, 80, shape), 1e-3, 80).astype(np.float32)
    teacher = np.clip(pred * rng.normal(1, 0.05, shape), 1e-3, 80).astype(np.float32)
    return pred, gt, teacher, (gt > 1e-3) & (gt < 80) & garg_crop_mask(*shape)


@pytest.mark.shared
def test_parity_with_the_released_evaluation(shared_dir: Path) -> None:
    rows = json.loads((shared_dir / "parity" / "metrics.json").read_text())
    assert rows
    for row in rows:
        pred, gt, teacher, valid = golden_maps(row["seed"])
        below = np.zeros_like(valid)
        below[110:] = True
        assert int(valid.sum()) == row["n_valid"]
        for suffix, metrics in (("", depth_metrics(pred, gt, valid)), ("_T", depth_metrics(pred, teacher, below))):
            compared = [name for name in METRICS if name + suffix in row]
            assert len(compared) >= 7
            for name in compared:
                assert metrics[name] == pytest.approx(row[name + suffix], rel=2e-5), name + suffix


def test_closed_form() -> None:
    gt = np.array([[10.0, 20.0, 40.0, 0.0]])
    pred = np.array([[11.0, 28.0, 20.0, 33.0]])
    metrics = depth_metrics(pred, gt, gt > 0)
    e = np.log([1.1, 1.4, 0.5])
    expected = {
        "a1": 1 / 3,
        "a2": 2 / 3,
        "a3": 2 / 3,
        "abs_rel": (0.1 + 0.4 + 0.5) / 3,
        "sq_rel": (1 / 10 + 64 / 20 + 400 / 40) / 3,
        "rmse": math.sqrt((1 + 64 + 400) / 3),
        "rmse_log": math.sqrt((e**2).mean()),
        "log_10": float(np.abs(np.log10([1.1, 1.4, 0.5])).mean()),
        "silog": 100 * math.sqrt((e**2).mean() - e.mean() ** 2),
    }
    assert list(metrics) == list(METRICS)
    assert metrics == pytest.approx(expected, rel=1e-12)


def test_perfect_prediction() -> None:
    gt = np.random.default_rng(0).uniform(1, 80, (7, 9))
    metrics = depth_metrics(gt, gt, np.ones_like(gt, dtype=bool))
    assert metrics == {name: float(name in ("a1", "a2", "a3")) for name in METRICS}


def test_a_constant_factor_is_invisible_to_silog() -> None:
    gt = np.random.default_rng(0).uniform(1, 40, (7, 9))
    metrics = depth_metrics(gt * 1.7, gt, np.ones_like(gt, dtype=bool))
    assert metrics["silog"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["abs_rel"] == pytest.approx(0.7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_tensors_of_any_shape(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(1)
    gt, pred = rng.uniform(1, 80, (2, 1, 5, 6)), rng.uniform(1, 80, (2, 1, 5, 6))
    valid = gt > 20
    from_tensors = depth_metrics(
        torch.from_numpy(pred).to(dtype).requires_grad_(), torch.from_numpy(gt), torch.from_numpy(valid)
    )
    rel = 0.05 if dtype == torch.bfloat16 else 1e-6
    assert from_tensors == pytest.approx(depth_metrics(pred, gt, valid), rel=rel)


def test_pixels_that_are_not_valid_do_not_matter() -> None:
    gt, pred = np.full((2, 3), 10.0), np.full((2, 3), 11.0)
    valid = np.array([[True, True, False], [True, False, False]])
    clean = depth_metrics(pred, gt, valid)
    gt[~valid], pred[~valid] = 0.0, np.nan
    assert depth_metrics(pred, gt, valid) == clean


def test_errors() -> None:
    gt, pred, valid = np.full((2, 3), 10.0), np.full((2, 3), 11.0), np.ones((2, 3), dtype=bool)
    with pytest.raises(ShapeError, match=r"\(2, 2\)"):
        depth_metrics(pred[:, :2], gt, valid)
    with pytest.raises(ShapeError, match="bool"):
        depth_metrics(pred, gt, valid.astype(np.float32))
    with pytest.raises(RangeError, match="No pixel is valid"):
        depth_metrics(pred, gt, ~valid)
    for bad in (0.0, -1.0, np.nan, np.inf):
        wrong = pred.copy()
        wrong[1, 1] = bad
        with pytest.raises(RangeError, match="prediction"):
            depth_metrics(wrong, gt, valid)
        with pytest.raises(RangeError, match="ground truth"):
            depth_metrics(pred, wrong, valid)


def test_mean_over_images_counts_each_once() -> None:
    mean = MetricsMean()
    mean.add({"rmse": 1.0, "a1": 0.5})
    mean.add({"rmse": 2.0, "a1": 1.0})
    mean.add({"a1": 0.0, "rmse": 6.0})
    assert mean.count == 3
    assert mean.mean() == pytest.approx({"rmse": 3.0, "a1": 0.5})
    with pytest.raises(DataError, match="abs_rel"):
        mean.add({"abs_rel": 1.0})
    assert mean.count == 3


def test_mean_of_no_image_is_refused() -> None:
    with pytest.raises(DataError, match="No image"):
        MetricsMean().mean()
