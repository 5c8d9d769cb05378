"""Stored integers give back every depth to half a step, prediction loses nothing, and what has no code is refused."""

from __future__ import annotations

import re

import google_crc32c
import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tiekd_cache.errors import RangeError, ShapeError
from tiekd_cache.store.codec import (
    MAX_CODE,
    MISSING_CODE,
    dequantise,
    find_invalid,
    frame_digest,
    lorenzo_decode,
    lorenzo_encode,
    quantise,
)

STEP, MIN_DEPTH, MAX_DEPTH = 1 / 64, 1e-3, 80.0

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40)) | st.tuples(st.just(1), st.integers(1, 200))
valid_depths = st.floats(float(np.float32(MIN_DEPTH)), MAX_DEPTH, width=32)
depth_maps = hnp.arrays(np.float32, sizes, elements=valid_depths | st.just(0.0) | st.sampled_from([1 / 128, MAX_DEPTH]))
code_maps = hnp.arrays(np.uint16, sizes)


@given(depth_maps)
@example(np.full((1, 1), np.float32(MIN_DEPTH)))
@example(np.full((3, 5), np.float32(MAX_DEPTH)))
@example(np.zeros((2, 2), np.float32))
@example(np.array([[0.0, 80.0, 0.0], [np.float32(1e-3), 80.0, 1 / 128]], np.float32))
def test_depth_comes_back_to_half_a_step_and_missing_pixels_stay_missing(depth: npt.NDArray[np.float32]) -> None:
    codes = quantise(depth, STEP, MIN_DEPTH, MAX_DEPTH)
    decoded = dequantise(lorenzo_decode(lorenzo_encode(codes)), STEP, MIN_DEPTH)
    assert decoded.dtype == np.float32
    assert np.abs(decoded.astype(np.float64) - depth.astype(np.float64)).max() <= STEP / 2
    assert np.array_equal(decoded == 0, depth == 0)
    assert np.array_equal(quantise(decoded, STEP, MIN_DEPTH, MAX_DEPTH), codes), "a decoded map must encode to itself"


@given(
    step=st.builds(lambda odd, exponent: odd * 2.0**exponent, st.integers(1, 255), st.integers(-18, 0)),
    largest=st.floats(0.01, 1.0),
    shares=hnp.arrays(np.float64, (4, 7), elements=st.floats(0, 1)),
)
def test_the_bound_holds_for_every_step_and_range(step: float, largest: float, shares: npt.NDArray[np.float64]) -> None:
    max_depth = largest * MAX_CODE * step
    min_depth = max_depth / 1e4
    depth = np.clip(shares * max_depth, np.float32(min_depth), np.float32(max_depth)).astype(np.float32)
    codes = quantise(depth, step, min_depth, max_depth)
    decoded = dequantise(codes, step, min_depth)
    assert np.abs(decoded.astype(np.float64) - depth.astype(np.float64)).max() <= step / 2 * (1 + 1e-9)
    assert np.array_equal(decoded, np.maximum(codes * np.float64(step), np.float32(min_depth))), "exact in float32"


@given(code_maps)
@example(np.full((4, 4), MISSING_CODE, np.uint16))
@example(np.tile(np.array([[0, 65535], [32768, 32767]], np.uint16), (20, 3)))
def test_prediction_is_undone_exactly_whatever_the_codes(codes: npt.NDArray[np.uint16]) -> None:
    residual = lorenzo_encode(codes)
    kept = residual.copy()
    assert np.array_equal(lorenzo_decode(residual), codes)
    assert np.array_equal(residual, kept), "decoding must leave its argument alone"


@given(hnp.arrays(np.uint16, st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 9))))
def test_prediction_works_frame_by_frame_on_a_stack(codes: npt.NDArray[np.uint16]) -> None:
    residual = lorenzo_encode(codes)
    for frame, alone in zip(residual, codes, strict=True):
        assert np.array_equal(frame, lorenzo_encode(alone))
    assert np.array_equal(lorenzo_decode(residual), codes)


def test_the_residual_is_the_documented_formula() -> None:
    codes = np.random.default_rng(0).integers(0, 5120, (6, 9)).astype(np.uint16)
    padded = np.pad(codes.astype(np.int64), ((1, 0), (1, 0)))
    expected = padded[1:, 1:] - padded[:-1, 1:] - padded[1:, :-1] + padded[:-1, :-1]
    expected = (expected + 32768) % 65536 - 32768
    zigzag = np.where(expected >= 0, 2 * expected, -2 * expected - 1)
    assert np.array_equal(lorenzo_encode(codes), zigzag)


def test_a_plane_costs_nothing_and_missing_pixels_cost_little() -> None:
    plane = np.add.outer(3 * np.arange(30), 5 * np.arange(40)).astype(np.uint16)
    residual = lorenzo_encode(plane)
    assert not residual[1:, 1:].any()
    plane[:] = MISSING_CODE
    assert lorenzo_encode(plane).max() == 1


def test_layouts_of_memory_do_not_matter() -> None:
    depth = np.random.default_rng(1).uniform(1, 79, (20, 30)).astype(np.float32)
    expected = quantise(depth, STEP, MIN_DEPTH, MAX_DEPTH)
    for view in (np.asfortranarray(depth), np.ascontiguousarray(depth[::-1])[::-1]):
        codes = quantise(view, STEP, MIN_DEPTH, MAX_DEPTH)
        assert np.array_equal(codes, expected)
        assert codes.flags.c_contiguous
        assert frame_digest(codes) == frame_digest(expected)
    fortran = np.asfortranarray(expected)
    assert np.array_equal(lorenzo_decode(lorenzo_encode(fortran)), expected)
    assert np.array_equal(lorenzo_decode(np.asfortranarray(lorenzo_encode(expected))), expected)


def test_the_digest_is_crc32c_of_little_endian_codes() -> None:
    codes = np.array([[1, 2], [300, 65535]], np.uint16)
    assert frame_digest(codes) == google_crc32c.value(b"\x01\x00\x02\x00\x2c\x01\xff\xff")
    assert frame_digest(codes) != frame_digest(codes[::-1])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "is NaN"),
        (np.inf, "is infinite"),
        (-np.inf, "is infinite"),
        (-0.25, "-0.25 m is negative"),
        (80.01, "80.01 m exceeds the limit of 80 m"),
        (1024.5, "1024.5 m exceeds the limit of 80 m"),
        (5e-4, "0.0005 m lies below the limit of 0.001 m"),
    ],
)
@pytest.mark.parametrize("with_missing", [False, True])
def test_what_has_no_code_is_refused_with_value_and_place(value: float, message: str, with_missing: bool) -> None:
    depth = np.full((4, 6), 12.5, np.float32)
    depth[2, 3] = value
    depth[3, 3] = value
    if with_missing:
        depth[0, 0] = 0
    with pytest.raises(RangeError, match=re.escape(f"[2, 3] {message}")):
        quantise(depth, STEP, MIN_DEPTH, MAX_DEPTH)
    found = find_invalid(depth, MIN_DEPTH, MAX_DEPTH)
    assert found is not None
    assert found[0] == (2, 3)
    assert found[1].startswith(message)


def test_the_limits_themselves_are_valid() -> None:
    depth = np.array([[MIN_DEPTH, MAX_DEPTH]], np.float32)
    assert quantise(depth, STEP, MIN_DEPTH, MAX_DEPTH).tolist() == [[0, 5120]]
    assert dequantise(np.array([[0]], np.uint16), STEP, MIN_DEPTH)[0, 0] == np.float32(MIN_DEPTH)
    widest = np.array([[MAX_CODE * STEP]], np.float32)
    assert quantise(widest, STEP, MIN_DEPTH, MAX_CODE * STEP)[0, 0] == MAX_CODE


@pytest.mark.parametrize(
    ("step", "min_depth", "max_depth", "message"),
    [
        (0.01, 1e-3, 80.0, "8 significant bits"),
        (257 / 65536, 1e-3, 80.0, "8 significant bits"),
        (0.0, 1e-3, 80.0, "positive and finite"),
        (-1 / 64, 1e-3, 80.0, "positive and finite"),
        (float("nan"), 1e-3, 80.0, "positive and finite"),
        (1 / 64, 0.0, 80.0, "0 means missing"),
        (1 / 64, 80.0, 80.0, "below the maximum"),
        (1 / 64, 1e-3, float("inf"), "below the maximum"),
        (1 / 64, 1e-3, 1024.0, "1023.97 m"),
    ],
)
def test_limits_that_make_no_sense_are_refused(step: float, min_depth: float, max_depth: float, message: str) -> None:
    with pytest.raises(RangeError, match=message):
        quantise(np.ones((2, 2), np.float32), step, min_depth, max_depth)


@pytest.mark.parametrize(
    "depth", [np.ones((2, 2)), np.ones(3, np.float32), np.ones((0, 3), np.float32), np.ones((2, 2), np.uint16)]
)
def test_only_float32_maps_are_taken(depth: npt.NDArray[np.float32]) -> None:
    with pytest.raises(ShapeError, match="float32"):
        quantise(depth, STEP, MIN_DEPTH, MAX_DEPTH)
