"""Crops are those of the protocols, and one transform moves image, teacher depth and ground truth alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiekd_cache.data.frame import DepthMap, Image
from tiekd_cache.data.transforms import (
    Augmentation,
    TrainTransform,
    garg_crop_mask,
    kb_crop,
    kb_offset,
    shift_intrinsics,
)
from tiekd_cache.errors import ConfigError, ShapeError

PLAIN = Augmentation(rotate_p=0.0, flip_p=0.0, colour_p=0.0)


def coordinates(height: int, width: int) -> tuple[Image, DepthMap]:
    """An image whose red is the column, green the row (both < 256), and a depth that says both exactly."""
    rows, columns = np.mgrid[:height, :width]
    image = np.dstack([columns, rows, np.full_like(rows, 255)]).astype(np.uint8)
    return image, (1 + columns + 1000 * rows).astype(np.float32)


def places(depth: DepthMap) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(rows, columns) of the original that a depth of `coordinates` says; undefined where it is 0."""
    return (depth - 1) // 1000, (depth - 1) % 1000


@st.composite
def situations(draw: st.DrawFn) -> tuple[TrainTransform, int, int, int]:
    height, width = draw(st.integers(20, 200)), draw(st.integers(20, 250))
    crop = (draw(st.integers(8, height)), draw(st.integers(8, width)))
    augmentation = Augmentation(
        rotate_deg=draw(st.floats(0, 20)),
        rotate_p=draw(st.sampled_from([0.0, 1.0])),
        flip_p=draw(st.sampled_from([0.0, 0.5, 1.0])),
        colour_p=0.0,
    )
    transform = TrainTransform(crop, draw(st.integers(0, height - 1)), augmentation)
    return transform, height, width, draw(st.integers(0, 2**32 - 1))


@settings(max_examples=150)
@given(situations())
def test_all_three_move_alike(situation: tuple[TrainTransform, int, int, int]) -> None:
    transform, height, width, seed = situation
    image, depth = coordinates(height, width)
    moved, teacher_depth, gt_depth = transform(image, depth, depth.copy(), np.random.default_rng(seed))
    assert gt_depth is not None
    assert moved.shape == (*transform.crop, 3)
    assert teacher_depth.shape == transform.crop
    assert moved.flags.c_contiguous
    assert teacher_depth.flags.c_contiguous
    np.testing.assert_array_equal(teacher_depth, gt_depth)
    inside = (moved[..., 2] == 255) & (teacher_depth > 0)
    rows, columns = places(teacher_depth)
    assert np.abs(moved[..., 0] - columns)[inside].max(initial=0) <= 1
    assert np.abs(moved[..., 1] - rows)[inside].max(initial=0) <= 1
    # beyond a pixel of the border, both have something or both have nothing
    assert not (teacher_depth[moved[..., 2] == 0]).any()
    if transform.augmentation.rotate_p == 0:
        assert inside.all()
        assert np.abs(np.diff(columns, axis=1)).max() == 1
        np.testing.assert_array_equal(moved[..., 0], columns)
        np.testing.assert_array_equal(moved[..., 1], rows)


@settings(max_examples=100)
@given(situations())
def test_rows_above_the_row_cut_never_reach_the_losses(situation: tuple[TrainTransform, int, int, int]) -> None:
    transform, height, width, seed = situation
    transform = replace(transform, augmentation=PLAIN)
    image, depth = coordinates(height, width)
    _, teacher_depth, _ = transform(image, depth, None, np.random.default_rng(seed))
    cut = transform.rows_cut(height)
    assert 0 <= cut < transform.crop[0]
    assert places(teacher_depth[cut:])[0].min() >= transform.row_cut


@pytest.mark.parametrize(
    ("crop_height", "cut", "tops"), [(352, 110, {0}), (300, 58, {52}), (96, 0, set(range(110, 257)))]
)
def test_row_cut_of_the_published_crop_and_of_shorter_ones(crop_height: int, cut: int, tops: set[int]) -> None:
    transform = TrainTransform((crop_height, 16), 110, PLAIN)
    assert transform.rows_cut(352) == cut
    image, depth = coordinates(352, 20)
    drawn = set()
    for seed in range(2000 if len(tops) > 1 else 20):
        _, teacher_depth, _ = transform(image, depth, None, np.random.default_rng(seed))
        drawn.add(int(places(teacher_depth)[0][0, 0]))
    assert drawn == tops


def test_the_left_column_is_drawn_from_the_whole_width() -> None:
    image, depth = coordinates(30, 24)
    transform = TrainTransform((30, 20), 0, PLAIN)
    drawn = [int(places(transform(image, depth, None, np.random.default_rng(i))[1])[1][0, 0]) for i in range(500)]
    counts = np.bincount(drawn, minlength=5)
    assert len(counts) == 5
    assert counts.min() > 60  # 100 expected


def test_rotation_turns_about_the_centre_by_the_angle_drawn() -> None:
    image, depth = coordinates(201, 241)
    transform = TrainTransform((201, 241), 0, Augmentation(rotate_deg=30.0, rotate_p=1.0, flip_p=0.0, colour_p=0.0))
    angles = []
    for seed in range(40):
        _, turned, _ = transform(image, depth, None, np.random.default_rng(seed))
        rows, columns = places(turned)
        assert (rows[100, 120], columns[100, 120]) == (100, 120)
        angles.append(np.degrees(np.arctan2(rows[100, 180] - 100, columns[100, 180] - 120)))
        assert np.hypot(rows[100, 180] - 100, columns[100, 180] - 120) == pytest.approx(60, abs=1)
    assert min(angles) < -20
    assert max(angles) > 20
    assert np.abs(angles).max() <= 31


@pytest.mark.parametrize("flip_p", [0.0, 1.0])
def test_a_rotation_by_nothing_is_the_plain_crop(flip_p: float) -> None:
    image, depth = coordinates(120, 201)
    still = Augmentation(rotate_deg=0.0, rotate_p=1.0, flip_p=flip_p, colour_p=0.0)
    for seed in range(10):
        turned = TrainTransform((60, 100), 10, still)(image, depth, depth, np.random.default_rng(seed))
        plain = TrainTransform((60, 100), 10, replace(still, rotate_p=0.0))(
            image, depth, depth, np.random.default_rng(seed)
        )
        for a, b in zip(turned, plain, strict=True):
            assert a is not None
            np.testing.assert_array_equal(a, b)


def test_outside_of_a_rotated_image_is_black_and_missing() -> None:
    image, depth = coordinates(100, 200)
    transform = TrainTransform((100, 200), 0, Augmentation(rotate_deg=20.0, rotate_p=1.0, flip_p=0.0, colour_p=0.0))
    moved, teacher_depth, _ = transform(image, depth, None, np.random.default_rng(3))
    empty = teacher_depth == 0
    assert 0.05 < empty.mean() < 0.5
    assert (moved[..., 2] == 0).mean() == pytest.approx(empty.mean(), abs=0.03)


def test_depth_is_never_a_mean_across_a_border() -> None:
    depth = np.where(np.arange(200) < 100, np.float32(5), np.float32(70)) * np.ones((100, 1), np.float32)
    image = np.zeros((100, 200, 3), np.uint8)
    transform = TrainTransform((80, 150), 0, Augmentation(rotate_deg=10.0, rotate_p=1.0))
    for seed in range(5):
        _, teacher_depth, gt_depth = transform(image, depth, depth, np.random.default_rng(seed))
        assert gt_depth is not None
        assert set(np.unique(teacher_depth)) <= {0.0, 5.0, 70.0}


def test_the_same_generator_gives_the_same_sample() -> None:
    image, depth = coordinates(120, 200)
    transform = TrainTransform((60, 100), 10)
    for seed in range(10):
        first, second = (transform(image, depth, depth, np.random.default_rng(seed)) for _ in range(2))
        for a, b in zip(first, second, strict=True):
            assert a is not None
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "off",
    [Augmentation(rotate_p=0.0), Augmentation(flip_p=0.0), Augmentation(colour_p=0.0)],
    ids=["rotation", "flip", "colour"],
)
def test_switching_one_augmentation_off_leaves_the_others_as_drawn(off: Augmentation) -> None:
    image, depth = coordinates(120, 200)
    everything = TrainTransform((60, 100), 10)
    one_off = replace(everything, augmentation=off)
    unchanged = 0
    for seed in range(60):
        rngs = np.random.default_rng(seed), np.random.default_rng(seed)
        (a, a_depth, _), (b, b_depth, _) = everything(image, depth, None, rngs[0]), one_off(image, depth, None, rngs[1])
        assert rngs[0].random() == rngs[1].random()
        if off.colour_p == 0:
            np.testing.assert_array_equal(a_depth, b_depth)
        unchanged += np.array_equal(a, b) and np.array_equal(a_depth, b_depth)
    assert 15 <= unchanged <= 45  # those in which it was not drawn anyway: 30 expected


def test_colour_is_gamma_brightness_and_channel_in_one_formula() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    depth = np.ones((16, 16), np.float32)
    only = Augmentation(rotate_p=0, flip_p=0, colour_p=1, gamma=(1.2, 1.2), brightness=(1.1, 1.1), channel=(0.9, 0.9))
    changed, unchanged_depth, _ = TrainTransform((16, 16), 0, only)(image, depth, None, np.random.default_rng(0))
    expected = np.clip((image / 255.0) ** 1.2 * 1.1 * 0.9, 0, 1) * 255
    assert np.abs(changed - expected).max() <= 0.5 + 1e-9
    np.testing.assert_array_equal(unchanged_depth, depth)


def test_colour_is_drawn_for_each_channel_within_its_range() -> None:
    image = np.full((16, 16, 3), 128, np.uint8)
    depth = np.ones((16, 16), np.float32)
    transform = TrainTransform(
        (16, 16), 0, Augmentation(colour_p=1, rotate_p=0, gamma=(1, 1), brightness=(1, 1), channel=(0.5, 1.5))
    )
    drawn = np.array([transform(image, depth, None, np.random.default_rng(i))[0][0, 0] for i in range(300)]) / 128
    assert drawn.min() >= 0.49
    assert drawn.max() <= 1.51
    assert np.all(drawn.std(axis=0) > 0.2)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.2


def test_colour_changes_come_together_half_of_the_time() -> None:
    image, depth = coordinates(20, 20)
    transform = TrainTransform((20, 20), 0, replace(PLAIN, colour_p=0.5))
    changed = [
        not np.array_equal(transform(image, depth, None, np.random.default_rng(i))[0], image) for i in range(400)
    ]
    assert 160 <= sum(changed) <= 240


def test_kb_crop_is_at_the_bottom_in_the_middle() -> None:
    for size, corner in [
        ((375, 1242), (23, 13)),
        ((370, 1224), (18, 4)),
        ((374, 1238), (22, 11)),
        ((376, 1241), (24, 12)),
    ]:
        depth = np.arange(size[0] * size[1], dtype=np.float32).reshape(size)
        assert kb_offset(*size) == corner
        cropped = kb_crop(depth)
        assert cropped.shape == (352, 1216)
        assert cropped[0, 0] == depth[corner]
        assert cropped[-1, -1] == depth[-1, corner[1] + 1215]
        assert cropped.base is None


def test_kb_crop_of_too_small_an_image() -> None:
    with pytest.raises(ShapeError, match="351x1216"):
        kb_crop(np.zeros((351, 1216), np.float32))


def test_intrinsics_move_with_the_crop() -> None:
    full = np.array([[721.5, 0, 609.5], [0, 721.5, 172.8], [0, 0, 1.0]])
    shifted = shift_intrinsics(full, 23, 13)
    point = np.array([1.0, 0.5, 10.0])
    full_pixel, pixel = full @ point / point[2], shifted @ point / point[2]
    np.testing.assert_allclose(pixel[:2], full_pixel[:2] - (13, 23))
    assert full[0, 2] == 609.5


def test_garg_crop_of_the_kb_crop() -> None:
    mask = garg_crop_mask(352, 1216)
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (143, 348, 43, 1171)
    assert mask.sum() == 206 * 1129


@pytest.mark.parametrize(
    "setting",
    [{"flip_p": 1.5}, {"rotate_p": -0.1}, {"rotate_deg": -1.0}, {"gamma": (1.1, 0.9)}, {"brightness": (0.0, 1.0)}],
)
def test_impossible_settings_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        Augmentation(**setting)


def test_impossible_crops_are_refused() -> None:
    image, depth = coordinates(40, 60)
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="at least 1x1"):
        TrainTransform((0, 10))
    with pytest.raises(ShapeError, match="crop of 50x50 is larger than the image of 40x60"):
        TrainTransform((50, 50), 0)(image, depth, None, rng)
    with pytest.raises(ShapeError, match="row_cut = 110 leaves nothing of an image of 40 rows"):
        TrainTransform((20, 20), 110)(image, depth, None, rng)
    with pytest.raises(ShapeError, match=r"gt_depth is \(40, 59\)"):
        TrainTransform((20, 20), 0)(image, depth, depth[:, 1:], rng)
