"""The Eigen protocol: which pixels count, how they are averaged, and what is said where nothing can be compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FormulaTeacher, MemoryFrames

from tiekd_cache.data.nyu_protocol import NYU_SIZE
from tiekd_cache.data.protocol import Protocol, protocol_of
from tiekd_cache.data.transforms import KB_SIZE, garg_crop_mask
from tiekd_cache.errors import ConfigError, DataError
from tiekd_cache.evaluate import EvaluateConfig, evaluate, evaluate_predictor, image_metrics, predict_depth
from tiekd_cache.metrics import METRICS
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.store import open_store
from tiekd_cache.students import build_student


class KittiLike(MemoryFrames):
    """Frames in memory that are evaluated as KITTI's are."""

    name = "kitti"


def test_the_metrics_are_the_mean_over_images_inside_the_garg_crop() -> None:
    source = KittiLike(3)
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
    source = KittiLike(1)
    result = evaluate_predictor(
        lambda image: np.full((64, 96), 500.0, np.float32), source, EvaluateConfig(max_depth=30)
    )
    depth = source.lidar_depth(source.frame_ids[0])
    assert depth is not None
    counted = depth[garg_crop_mask(64, 96) & (depth > 0) & (depth < 30)]
    assert result.ground_truth is not None
    assert result.ground_truth["abs_rel"] == pytest.approx(float(np.mean(30 / counted - 1)), rel=1e-5)


def test_against_the_teacher_rows_from_110_count(tmp_path: Path) -> None:
    source = KittiLike(2, image_size=(128, 96))
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


def inside(name: str, crop: str | None, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(first row, row after the last, first column, column after the last) of what counts, which is a rectangle."""
    counts = protocol_of(name, 10.0, crop=crop).counts(np.full(size, 5.0, np.float32))
    rows, columns = np.flatnonzero(counts.any(1)), np.flatnonzero(counts.any(0))
    assert counts.sum() == len(rows) * len(columns)
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


@pytest.mark.parametrize(
    ("name", "crop", "size", "expected"),
    [
        ("kitti", None, KB_SIZE, (143, 349, 43, 1172)),
        ("kitti", "garg", KB_SIZE, (143, 349, 43, 1172)),
        ("kitti", "eigen", KB_SIZE, (117, 321, 43, 1172)),
        ("kitti", "none", KB_SIZE, (0, 352, 0, 1216)),
        ("nyu", None, NYU_SIZE, (0, 426, 0, 558)),  # of the whole image: rows 45:471, columns 43:601
        ("nyu", "none", NYU_SIZE, (0, 427, 0, 565)),
        ("pictures", None, (50, 60), (0, 50, 0, 60)),
    ],
)
def test_the_crops_of_each_data_set(
    name: str, crop: str | None, size: tuple[int, int], expected: tuple[int, int, int, int]
) -> None:
    assert inside(name, crop, size) == expected


def test_each_data_set_has_its_range_and_first_row() -> None:
    kitti, nyu = protocol_of("kitti", 80.0), protocol_of("nyu", 10.0)
    assert kitti == Protocol("kitti", "garg", 1e-3, 80.0, ((0, 20), (20, 40), (40, 80)), 110)
    assert nyu == Protocol("nyu", "eigen", 1e-3, 10.0, ((0, 2.5), (2.5, 5), (5, 10)), 0)
    assert protocol_of("kitti", 80.0, max_depth=30.0).ranges == ((0, 20), (20, 30))
    assert protocol_of("kitti", 80.0, ranges=((0, 100),)).ranges == ((0, 80),)
    depth = np.array([[0.0, 0.001, 0.002, 79.9, 80.0, 90.0]], np.float32)
    assert protocol_of("kitti", 80.0, crop="none").counts(depth).tolist() == [[False, False, True, True, False, False]]


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("nyu", {"crop": "garg"}, "'garg' is no crop of nyu. Use one of: eigen, none"),
        ("pictures", {"crop": "eigen"}, "Use one of: none"),
        ("kitti", {"ranges": ((90.0, 100.0),)}, "90-100 m holds no depth of kitti, which is evaluated up to 80 m"),
        ("kitti", {"ranges": ((20.0, 20.0),)}, "20-20 m holds no depth"),
        ("kitti", {"ranges": ((float("nan"), 20.0),)}, "nan-20 m holds no depth"),
        ("kitti", {"max_depth": 0.0}, "from 0.001 to 0 m is no range"),
    ],
)
def test_a_protocol_that_cannot_be_is_refused(name: str, settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        protocol_of(name, 80.0, **settings)  # type: ignore[arg-type]


def test_a_range_is_the_mean_over_the_images_that_have_pixels_there() -> None:
    near, far = np.full((4, 6), 10.0, np.float32), np.full((4, 6), 10.0, np.float32)
    far[0, 0], far[0, 1] = 50.0, 40.0  # a bound belongs to the range above it
    protocol = protocol_of("memory", 80.0)
    only_near = image_metrics("a", near * 1.1, near, None, protocol)
    both = image_metrics("b", far * 1.3, far, near, protocol)
    assert (only_near.gt_pixels, list(only_near.ranges)) == (24, ["0-20"])
    assert list(both.ranges) == ["0-20", "40-80"]
    assert both.ranges["40-80"]["abs_rel"] == pytest.approx(0.3)
    assert (both.teacher_pixels, only_near.teacher) == (24, None)

    class TwoImages(MemoryFrames):
        def depth(self, frame_id: str) -> np.ndarray:
            return np.repeat(far if frame_id == self.frame_ids[0] else near, 3, axis=0)

    source = TwoImages(2, image_size=(12, 6))
    result = evaluate_predictor(lambda image: np.full((12, 6), 11.0, np.float32), source, EvaluateConfig())
    assert [(one.bounds, one.frames) for one in result.ranges] == [((0, 20), 2), ((20, 40), 0), ((40, 80), 1)]
    assert result.ranges[0].metrics is not None
    assert result.ranges[0].metrics["abs_rel"] == pytest.approx(0.1)
    assert result.ranges[1].metrics is None
    assert result.ranges[2].metrics is not None
    assert list(result.ranges[2].metrics) == list(METRICS)
    assert result.ground_truth is not None
    images = [image.ground_truth["abs_rel"] for image in result.images if image.ground_truth is not None]
    assert np.mean(images) == result.ground_truth["abs_rel"]
