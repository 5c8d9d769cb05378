"""The Eigen protocol: which pixels count, how they are averaged, and what is said where nothing can be compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FormulaTeacher, MemoryFrames

from tiekd_cache.data.transforms import garg_crop_mask
from tiekd_cache.errors import DataError
from tiekd_cache.evaluate import EvaluateConfig, evaluate, evaluate_predictor, predict_depth
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.store import open_store
from tiekd_cache.students import build_student


def test_the_metrics_are_the_mean_over_images_inside_the_garg_crop() -> None:
    source = MemoryFrames(3)
    answers = {source.load(f).image.tobytes(): source.depth(f) * (1 + 0.1 * i) for i, f in enumerate(source.frame_ids)}

    def predict(image: np.ndarray) -> np.ndarray:
        depth = answers[image.tobytes()].copy()
        depth[~garg_crop_mask(*depth.shape)] = 1.0  # must not count
        return depth

    result = evaluate_predictor(predict, source, EvaluateConfig())
    assert result.gt_frames == 3
    assert result.ground_truth is not None
    assert result.ground_truth["abs_rel"] == pytest.approx((0.0 + 0.1 + 0.2) / 3, abs=1e-4)
    assert result.ground_truth["a1"] == 1.0
    assert result.teacher is None


def test_predictions_are_clamped_and_far_ground_truth_does_not_count() -> None:
    source = MemoryFrames(1)
    result = evaluate_predictor(
        lambda image: np.full((64, 96), 500.0, np.float32), source, EvaluateConfig(max_depth=30)
    )
    depth = source.lidar_depth(source.frame_ids[0])
    assert depth is not None
    counted = depth[garg_crop_mask(64, 96) & (depth > 0) & (depth < 30)]
    assert result.ground_truth is not None
    assert result.ground_truth["abs_rel"] == pytest.approx(float(np.mean(30 / counted - 1)), rel=1e-5)


def test_against_the_teacher_rows_from_110_count(tmp_path: Path) -> None:
    source = MemoryFrames(2, image_size=(128, 96))
    precompute(FormulaTeacher(), source, tmp_path / "a.zarr", PrecomputeConfig())
    store = open_store(tmp_path / "a.zarr")

    def predict(image: np.ndarray) -> np.ndarray:
        frame_id = next(f for f in source.frame_ids if (source.load(f).image == image).all())
        depth = store[frame_id].copy()
        depth[:110] *= 3
        return depth

    result = evaluate_predictor(predict, source, EvaluateConfig(), store=store)
    assert result.teacher is not None
    assert result.teacher["abs_rel"] == 0.0
    assert (result.gt_frames, result.teacher_frames) == (2, 2)


def test_a_student_is_averaged_with_the_mirror_image() -> None:
    torch.manual_seed(0)
    student = build_student("resnet18", pretrained=False, decoder_width=0.125)
    image = MemoryFrames(1).load("drive_0000/image_02/0000000000").image
    cpu = torch.device("cpu")
    plain = predict_depth(student, image, False, cpu)
    mirrored = predict_depth(student, np.ascontiguousarray(image[:, ::-1]), False, cpu)[:, ::-1]
    np.testing.assert_allclose(predict_depth(student, image, True, cpu), (plain + mirrored) / 2, rtol=1e-5)
    result = evaluate(student, MemoryFrames(2), EvaluateConfig(limit_frames=1))
    assert result.gt_frames == 1


def test_nothing_to_compare_with_is_an_error() -> None:
    with pytest.raises(DataError, match="nothing to compare with"):
        evaluate_predictor(lambda image: np.ones((64, 96)), MemoryFrames(2, without_gt=[0, 1]), EvaluateConfig())
