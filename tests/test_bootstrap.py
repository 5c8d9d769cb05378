"""The bootstrap: known cases, coverage, pairs, groups, and the same answer for the same seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tiekd_cache.bootstrap import Interval, bootstrap_intervals, resampled_means
from tiekd_cache.errors import ConfigError, RangeError, ShapeError


def test_two_values_in_closed_form() -> None:
    """Of two rows, a resample has 0, 1 or 2 of the second: means 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4."""
    means = resampled_means(np.array([0.0, 1.0]), resamples=40_000)
    values, counts = np.unique(means, return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    np.testing.assert_allclose(counts / 40_000, [0.25, 0.5, 0.25], atol=0.01)
    [half] = bootstrap_intervals(np.array([0.0, 1.0]), resamples=4000, level=0.4)
    assert half == Interval(0.5, 0.5, 0.5)
    [most] = bootstrap_intervals(np.array([0.0, 1.0]), resamples=4000)
    assert (most.low, most.high) == (0.0, 1.0)


def test_many_normal_values_give_the_textbooks_interval() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 2000)
    [interval] = bootstrap_intervals(values)
    half = 1.96 * values.std() / math.sqrt(2000)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_coverage_is_about_what_the_level_says() -> None:
    rng = np.random.default_rng(1)
    columns = rng.exponential(1.0, (60, 400))  # 400 experiments of 60 skewed values with mean 1
    for level, lowest in ((0.95, 0.90), (0.5, 0.43)):
        inside = [one.low <= 1.0 <= one.high for one in bootstrap_intervals(columns, resamples=1000, level=level)]
        assert lowest < np.mean(inside) < level + 0.04


@settings(max_examples=60)
@given(
    arrays(np.float64, st.tuples(st.integers(2, 40), st.integers(1, 3)), elements=st.floats(-1e3, 1e3, width=32)),
    st.integers(0, 100),
)
def test_the_interval_contains_the_mean(values: np.ndarray, seed: int) -> None:
    for interval in bootstrap_intervals(values, resamples=400, seed=seed):
        tiny = 1e-9 * (1 + abs(interval.mean))
        assert interval.low - tiny <= interval.mean <= interval.high + tiny


def test_identical_students_differ_by_exactly_nothing_and_a_clear_one_is_told_apart() -> None:
    rng = np.random.default_rng(2)
    a = rng.uniform(0.05, 0.3, 100)
    assert bootstrap_intervals(a - a) == [Interval(0.0, 0.0, 0.0)]
    assert not bootstrap_intervals(a - a)[0].excludes_zero
    b = a + 0.01 + rng.normal(0, 0.02, 100)
    [paired] = bootstrap_intervals(b - a)
    assert paired.excludes_zero
    alone = bootstrap_intervals(np.stack([a, b], 1))
    assert alone[0].high > alone[1].low, "means alone overlap: only pairs tell them apart"


def test_the_seed_fixes_the_answer_and_columns_share_their_resamples() -> None:
    values = np.random.default_rng(3).normal(size=(30, 1))
    both = np.hstack([values, values])
    means = resampled_means(both, resamples=50)
    assert np.array_equal(means[:, 0], means[:, 1])
    assert np.array_equal(means, resampled_means(both, resamples=50))
    assert not np.array_equal(means, resampled_means(both, resamples=50, seed=1))


def test_groups_are_drawn_whole_and_count_by_their_size() -> None:
    values = np.array([1.0, 1.0, 1.0, 5.0])
    means = resampled_means(values, resamples=4000, groups=["a", "a", "a", "b"])
    assert set(np.unique(means)) == {1.0, 2.0, 5.0}
    drives = np.repeat(np.random.default_rng(4).normal(size=10), 50)
    groups = [str(i // 50) for i in range(500)]
    [by_image], [by_drive] = bootstrap_intervals(drives), bootstrap_intervals(drives, groups=groups)
    assert by_drive.high - by_drive.low > 3 * (by_image.high - by_image.low)


def test_what_has_no_interval_is_refused() -> None:
    for values, options in (
        (np.ones(1), {}),
        (np.ones(3), {"groups": ["a", "a", "a"]}),
        (np.ones(3), {"resamples": 0}),
        (np.ones(3), {"level": 1.0}),
    ):
        with pytest.raises(ConfigError):
            bootstrap_intervals(values, **options)  # type: ignore[arg-type]
    with pytest.raises(RangeError, match="not finite"):
        bootstrap_intervals(np.array([1.0, np.nan]))
    with pytest.raises(ShapeError):
        bootstrap_intervals(np.ones((2, 2, 2)))
    with pytest.raises(ShapeError):
        bootstrap_intervals(np.ones(3), groups=["a", "b"])
