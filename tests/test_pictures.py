"""Pictures show what they should: near is bright, missing is black, panels stand in their places, files are whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tiekd_cache.errors import DataError, RangeError, ShapeError
from tiekd_cache.pictures import GridRow, abs_rel_error, depth_to_colour, error_to_colour, loss_curve, picture_grid

HEIGHT, WIDTH = 88, 304


def read(path: Path) -> Any:
    """[H,W,3] RGB of a PNG file."""
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels[:, :, ::-1]


def brightness(picture: Any) -> Any:
    return picture.astype(float) @ [0.299, 0.587, 0.114]


def row(**changes: Any) -> GridRow:
    depth = np.repeat(np.linspace(60, 3, HEIGHT, dtype=np.float32)[:, None], WIDTH, axis=1)
    rng = np.random.default_rng(0)
    values: dict[str, Any] = {
        "frame_id": "2011_09_26_drive_8001_sync/image_02/0000000000",
        "image": rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8),
        "teacher_depth": depth,
        "student_depth": depth * 1.1,
    }
    return GridRow(**{**values, **changes})


def test_nearer_is_brighter_and_equal_ratios_are_equal_steps() -> None:
    depth = np.geomspace(2, 80, 256).astype(np.float32)[None]
    picture = depth_to_colour(depth, 80.0)
    assert picture.shape == (1, 256, 3)
    assert picture.dtype == np.uint8
    assert (np.diff(brightness(picture)[0]) < 1.5).all()
    assert brightness(picture)[0, 0] > brightness(picture)[0, -1] + 150
    assert len(np.unique(picture[0], axis=0)) > 240, "a geometric ramp walks through the whole map, step by step"


def test_depths_beyond_the_range_take_its_ends() -> None:
    picture = depth_to_colour(np.array([[0.5, 2.0, 80.0, 200.0]]), 80.0)
    np.testing.assert_array_equal(picture[0, 0], picture[0, 1])
    np.testing.assert_array_equal(picture[0, 2], picture[0, 3])


@pytest.mark.parametrize("nothing", [0.0, -1.0, np.nan, np.inf])
def test_missing_depth_is_black_or_white_and_no_depth_is(nothing: float) -> None:
    assert (depth_to_colour(np.array([[nothing]]), 80.0) == 0).all()
    assert (depth_to_colour(np.array([[nothing]]), 80.0, missing="white") == 255).all()
    every = depth_to_colour(np.geomspace(2, 80, 500)[None], 80.0)
    assert every.max(axis=2).min() > 100


def test_error_colours_grow_brighter_and_saturate() -> None:
    picture = error_to_colour(np.array([[0.0, 0.1, 0.25, 0.5, 3.0, np.nan]]))
    light = brightness(picture)[0]
    assert (np.diff(light[:4]) > 10).all()
    np.testing.assert_array_equal(picture[0, 3], picture[0, 4])
    assert (picture[0, 5] == 0).all()


def test_relative_error_is_known_where_the_truth_is() -> None:
    error = abs_rel_error(np.array([[12.0, 8.0, 5.0]]), np.array([[10.0, 10.0, 0.0]]))
    np.testing.assert_allclose(error, [[0.2, 0.2, np.nan]], rtol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.0, 80.0), (5.0, 5.0), (10.0, 2.0)])
def test_impossible_ranges_are_refused(low: float, high: float) -> None:
    with pytest.raises(RangeError, match="min_depth < max_depth"):
        depth_to_colour(np.ones((2, 2)), high, min_depth=low)


def test_impossible_errors_and_shapes_are_refused() -> None:
    with pytest.raises(RangeError, match="> 0"):
        error_to_colour(np.ones((2, 2)), worst=0)
    with pytest.raises(ShapeError, match=r"\[H,W\]"):
        depth_to_colour(np.ones((1, 2, 2)), 80.0)
    with pytest.raises(ShapeError, match="differ"):
        abs_rel_error(np.ones((2, 2)), np.ones((2, 3)))


def test_the_grid_has_its_panels_where_they_belong(tmp_path: Path) -> None:
    image = np.full((HEIGHT, WIDTH, 3), (200, 30, 30), np.uint8)
    teacher = np.full((HEIGHT, WIDTH), 5.0, np.float32)
    shown = row(image=image, teacher_depth=teacher, student_depth=teacher * 1.25)
    path = picture_grid([shown, shown], tmp_path / "deep" / "grid.png")
    picture = read(path)
    assert 1500 < picture.shape[1] <= 1600
    assert 200 < picture.shape[0] < 500
    assert path.stat().st_size < 400_000
    panel, gap, top = 382, 6, 32 + 20
    middles = [picture[top + 40, gap + column * (panel + gap) + panel // 2] for column in range(4)]
    expected = [
        image[0, 0],
        depth_to_colour(teacher[:1, :1], 80.0)[0, 0],
        depth_to_colour(teacher[:1, :1] * 1.25, 80.0)[0, 0],
        error_to_colour(np.array([[0.25]]))[0, 0],
    ]
    np.testing.assert_allclose(np.array(middles, float), np.array(expected, float), atol=1)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["grid.png"]


def test_sparse_ground_truth_stays_visible_in_the_grid(tmp_path: Path) -> None:
    teacher = np.full((352, 1216), 10.0, np.float32)
    sparse = np.zeros_like(teacher)
    sparse[100::8, ::8] = 10.0
    shown = row(
        image=np.zeros((352, 1216, 3), np.uint8), teacher_depth=teacher, student_depth=teacher * 1.5, gt_depth=sparse
    )
    panel = read(picture_grid([shown], tmp_path / "grid.png"))[52:162, -386:-8]
    worst = error_to_colour(np.array([[0.5]]))[0, 0].astype(int)
    lit = (np.abs(panel.astype(int) - worst).max(axis=2) < 3).mean(axis=1)
    assert lit[:30].max() == 0, "nothing where there is no LiDAR"
    assert lit[32:].mean() > 0.12, "one pixel of 64 has a point; shrunk to a third, at least one of ten shows it"


def test_a_frame_without_any_reference_is_still_drawn(tmp_path: Path) -> None:
    blank = np.zeros((HEIGHT, WIDTH), np.float32)
    picture = read(picture_grid([row(teacher_depth=blank)], tmp_path / "grid.png"))
    assert picture.std() > 10


@pytest.mark.parametrize("name", ["teacher_depth", "student_depth", "gt_depth"])
def test_maps_that_do_not_fit_the_image_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ShapeError, match=name):
        picture_grid([row(**{name: np.ones((3, 4), np.float32)})], tmp_path / "grid.png")
    assert not list(tmp_path.iterdir())


def test_an_empty_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="at least one frame"):
        picture_grid([], tmp_path / "grid.png")


def records(count: int = 200) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    decay = np.exp(-np.arange(count) / 40)
    return [
        {"step": i + 1, "epoch": 0.1, "loss": 2 + 30 * decay[i] + rng.random(), "dpm": 1 + 9 * decay[i], "lr": 1e-3}
        for i in range(count)
    ]


def test_the_loss_curve_has_a_panel_for_the_terms_where_there_are_some(tmp_path: Path) -> None:
    both = read(loss_curve(records(), tmp_path / "both.png", title="resnet18"))
    total = read(loss_curve(records(), tmp_path / "total.png", terms=()))
    assert both.shape[1] == 2 * total.shape[1]
    assert both.shape[1] <= 1600
    assert both.std() > 10
    # bookkeeping such as the learning rate is no term: without `dpm` there is no second panel
    kept = [{key: value for key, value in record.items() if key != "dpm"} for record in records()]
    np.testing.assert_array_equal(read(loss_curve(kept, tmp_path / "kept.png")), total)


def test_the_thick_line_runs_through_the_middle_of_the_values(tmp_path: Path) -> None:
    """A loss that alternates around a constant is drawn as a level line: same row in every column."""
    values = [{"step": i, "loss": 10.0 + (-1) ** i} for i in range(300)]
    picture = read(loss_curve(values, tmp_path / "loss.png")).astype(int)
    blue = (np.abs(picture - [31, 119, 180]).max(axis=2) < 8)[:, 120:420]
    rows = np.nonzero(blue.mean(axis=1) > 0.9)[0]
    assert 1 <= len(rows) <= 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_leave_a_gap(tmp_path: Path, bad: float) -> None:
    values = records(30)
    values[7]["loss"] = bad
    values[8].pop("dpm")
    assert read(loss_curve(values, tmp_path / "loss.png")).std() > 5


def test_few_and_negative_values_are_drawn_too(tmp_path: Path) -> None:
    few = [{"step": 1, "loss": -0.5}, {"step": 2, "loss": 3.0}]
    assert read(loss_curve(few, tmp_path / "loss.png")).std() > 5


@pytest.mark.parametrize("nothing", [[], [{"step": 1}], [{"step": 1, "loss": float("nan")}]])
def test_a_curve_without_points_is_refused(tmp_path: Path, nothing: list[dict[str, Any]]) -> None:
    with pytest.raises(ShapeError, match="loss curve"):
        loss_curve(nothing, tmp_path / "loss.png")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        loss_curve(records(5), tmp_path / "file" / "loss.png")
