"""Bins are what they say, depths become the documented distributions, and go back to depths."""

from __future__ import annotations

import json
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiekd_cache.dpm import FORMS, SPACINGS, Bins, check_depth, depth_to_dpm, dpm_to_depth
from tiekd_cache.errors import ConfigError, RangeError, ShapeError

KITTI = Bins.uniform(1e-3, 80.0, 257)


def depth_map(*metres: float) -> torch.Tensor:
    """[1,1,1,n] float32."""
    return torch.tensor(metres).view(1, 1, 1, -1)


def test_bins_edges_and_centers() -> None:
    edges, centers = KITTI.edges, KITTI.centers
    assert edges.shape == (258,)
    assert centers.shape == (257,)
    assert edges.dtype == centers.dtype == torch.float32
    assert edges.device.type == centers.device.type == "cpu"
    assert float(edges[0]) == pytest.approx(1e-3, rel=1e-6)
    assert float(edges[-1]) == 80.0
    widths = edges.double().diff()
    torch.testing.assert_close(widths, torch.full_like(widths, 79.999 / 257), rtol=0, atol=1e-5)
    torch.testing.assert_close(centers, (edges[:-1] + edges[1:]) / 2, rtol=0, atol=1e-5)


def test_bins_are_values() -> None:
    same = Bins.uniform(1e-3, 80, 257)
    KITTI.centers.zero_()  # a tensor handed out is the caller's own
    assert same == KITTI
    assert hash(same) == hash(KITTI)
    assert float(KITTI.centers[0]) > 0
    assert pickle.loads(pickle.dumps(KITTI)) == KITTI
    assert Bins.from_json(json.loads(json.dumps(KITTI.to_json()))) == KITTI
    assert Bins.uniform(1e-3, 10.0, 49) != KITTI


@pytest.mark.parametrize("spacing", SPACINGS)
def test_spacings_are_even_in_what_they_say(spacing: str) -> None:
    bins = Bins.spaced(spacing, 0.5, 80.0, 64)
    edges, centers = bins.edges.double(), bins.centers.double()
    even = {"uniform": edges, "log": edges.log(), "inverse": -1 / edges}[spacing].diff()
    torch.testing.assert_close(even, even.mean().expand(64), rtol=1e-4, atol=0)
    assert (float(edges[0]), float(edges[-1])) == (0.5, 80.0)
    torch.testing.assert_close(centers, (edges[:-1] + edges[1:]) / 2, rtol=1e-6, atol=0)
    assert Bins.from_json(json.loads(json.dumps(bins.to_json()))) == bins
    assert (bins == Bins.uniform(0.5, 80.0, 64)) == (spacing == "uniform")


def test_unknown_spacing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'cubic'.*uniform, log, inverse"):
        Bins.spaced("cubic", 0.5, 80.0, 64)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_share_of_the_depth_is_the_sigma_of_each_depth(form: str, spacing: str) -> None:
    bins = Bins.spaced(spacing, 2.5, 80.0, 1024)
    shared = depth_to_dpm(depth_map(3.0, 10.0, 60.0, 0.0), bins, 0.8, form, 0.05)
    for i, (depth, sigma) in enumerate([(3.0, 0.8), (10.0, 0.8), (60.0, 3.0)]):
        alone = depth_to_dpm(depth_map(depth), bins, sigma, form)
        torch.testing.assert_close(shared[..., i : i + 1], alone, rtol=1e-5, atol=1e-8)
    assert float(shared[..., 3].abs().max()) == 0.0


def test_a_wrong_share_and_bins_too_wide_for_the_width_are_refused() -> None:
    for share in (-0.1, math.nan, math.inf):
        with pytest.raises(RangeError, match="sigma_share"):
            depth_to_dpm(depth_map(5.0), KITTI, 0.8, "released", share)
    far_apart = Bins.spaced("log", 1.0, 80.0, 64)  # 5.3 m at the far end
    with pytest.raises(RangeError, match="too small"):
        depth_to_dpm(depth_map(5.0), far_apart, 0.2, "released")
    assert float(depth_to_dpm(depth_map(75.0), far_apart, 0.2, "released", 0.03).max()) > 0.1


@pytest.mark.parametrize(
    ("low", "high", "count"),
    [(0.0, 80.0, 257), (-1.0, 80.0, 257), (80.0, 80.0, 257), (1.0, math.inf, 9), (math.nan, 80.0, 9), (1.0, 2.0, 1)],
)
def test_bins_refuse_ranges_that_make_no_bins(low: float, high: float, count: int) -> None:
    with pytest.raises(ConfigError):
        Bins.uniform(low, high, count)


@pytest.mark.parametrize(
    "change", [{"num_bins": 2.5}, {"num_bins": True}, {"num_bins": 10**9}, {"spacing": "cubic"}, {"min_depth": "near"}]
)
def test_bins_from_json_refuses_values(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Bins.from_json({**KITTI.to_json(), **change})


def test_bins_from_json_names_the_keys_it_needs() -> None:
    values = KITTI.to_json()
    del values["num_bins"]
    with pytest.raises(ConfigError, match="num_bins"):
        Bins.from_json(values)
    with pytest.raises(ConfigError, match="colour"):
        Bins.from_json({**KITTI.to_json(), "colour": 1})


@pytest.mark.parametrize(
    ("form", "expected"), [("released", (4.08, 5.83, 8.09)), ("gaussian", (2.01, 5.00, 8.00))], ids=FORMS
)
def test_known_biases_at_sigma_08(form: str, expected: tuple[float, ...]) -> None:
    dpm = depth_to_dpm(depth_map(2.0, 5.0, 8.0), KITTI, 0.8, form)
    torch.testing.assert_close(dpm_to_depth(dpm, KITTI), depth_map(*expected), rtol=0, atol=0.006)


def test_released_form_against_a_transcription_in_float64() -> None:
    depth, sigma = 17.3, 0.5
    centers = (KITTI.edges.double()[:-1] + KITTI.edges.double()[1:]) / 2
    density = (-((centers - depth) ** 2) / (2 * sigma**2)).exp() / math.sqrt(2 * math.pi * sigma**2)
    expected = torch.softmax(torch.where(density < 1e-16, -1000.0, density), dim=0)
    dpm = depth_to_dpm(depth_map(depth), KITTI, sigma, "released")[0, :, 0, 0]
    torch.testing.assert_close(dpm.double(), expected, rtol=1e-4, atol=1e-7)
    assert 26 <= int((dpm > 0).sum()) <= 28  # the window is about 17 sigma wide, everything else is exactly 0


def test_gaussian_form_is_the_normalised_gaussian() -> None:
    density = (-((KITTI.centers.double() - 17.3) ** 2) / (2 * 0.8**2)).exp()
    dpm = depth_to_dpm(depth_map(17.3), KITTI, 0.8, "gaussian")[0, :, 0, 0]
    torch.testing.assert_close(dpm.double(), density / density.sum(), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_sigma_changes_the_dpm(form: str) -> None:
    narrow, wide = (depth_to_dpm(depth_map(20.0), KITTI, sigma, form) for sigma in (0.5, 0.8))
    assert float(narrow.max()) > 1.5 * float(wide.max())


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=25)
@given(depth=st.floats(1e-3, 80.0), sigma=st.floats(0.05, 5.0))
def test_sums_to_one_and_is_centred_away_from_the_ends(form: str, depth: float, sigma: float) -> None:
    dpm = depth_to_dpm(depth_map(depth), KITTI, sigma, form)
    assert float(dpm.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(dpm.min()) >= 0.0
    if 9 * sigma < depth < 80 - 9 * sigma:  # the whole window is inside the range
        assert float(dpm_to_depth(dpm, KITTI)) == pytest.approx(depth, abs=80 / 257)


@pytest.mark.parametrize("form", FORMS)
def test_missing_depth_gives_zero(form: str) -> None:
    dpm = depth_to_dpm(depth_map(0.0, 30.0), KITTI, 0.8, form)
    assert float(dpm[..., 0].abs().max()) == 0.0
    assert float(dpm[..., 1].sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(dpm_to_depth(dpm, KITTI)[..., 0]) == 0.0


def test_ends_of_the_range_and_rounding_are_inside() -> None:
    depth = depth_map(1e-3, 80.0, 80.00001, 0.00099999999)
    assert bool(torch.isfinite(depth_to_dpm(depth, KITTI)).all())
    assert bool(check_depth(depth.bfloat16(), KITTI).all())


@pytest.mark.parametrize("bad", [80.01, 9e-4, -3.0, math.nan, math.inf])
def test_depth_outside_the_bins_is_refused_with_its_place(bad: float) -> None:
    depth = torch.full((2, 1, 3, 4), 10.0)
    depth[1, 0, 2, 3] = bad
    with pytest.raises(RangeError, match=r"sample 1, row 2, column 3.*0\.001 to 80\.0 m"):
        depth_to_dpm(depth, KITTI)
    keep = torch.ones_like(depth, dtype=torch.bool)
    keep[1, 0, 2, 3] = False
    assert torch.equal(check_depth(depth, KITTI, keep), keep)


@pytest.mark.parametrize("sigma", [0.0, -0.8, math.nan, math.inf])
@pytest.mark.parametrize("form", FORMS)
def test_sigma_must_be_positive_and_finite(sigma: float, form: str) -> None:
    with pytest.raises(RangeError, match="sigma"):
        depth_to_dpm(depth_map(5.0), KITTI, sigma, form)


def test_released_form_refuses_a_sigma_lost_between_the_centres() -> None:
    with pytest.raises(RangeError, match="too small"):
        depth_to_dpm(depth_map(5.0), KITTI, 0.01, "released")
    between = (KITTI.centers[3] + KITTI.centers[4]).view(1, 1, 1, 1) / 2
    assert float(depth_to_dpm(between, KITTI, 0.03, "released").max()) > 0.01  # just above: still a peak, not flat
    assert float(depth_to_dpm(depth_map(5.0), KITTI, 0.01, "gaussian").max()) > 0.99


def test_unknown_form_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'laplace'.*released, gaussian"):
        depth_to_dpm(depth_map(5.0), KITTI, 0.8, "laplace")


@pytest.mark.parametrize("shape", [(4, 5), (1, 2, 4, 5), (1, 4, 5)])
def test_shapes_are_checked(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"\[B,1,H,W\]"):
        depth_to_dpm(torch.full(shape, 5.0), KITTI)
    with pytest.raises(ShapeError, match=r"\[B,257,H,W\]"):
        dpm_to_depth(torch.full(shape, 0.1), KITTI)


def test_integer_depth_is_refused() -> None:
    with pytest.raises(ShapeError, match="int64"):
        depth_to_dpm(torch.full((1, 1, 2, 2), 5), KITTI)


def test_dtypes() -> None:
    depth = depth_map(12.0, 33.0)
    assert depth_to_dpm(depth.double(), KITTI).dtype == torch.float64
    assert depth_to_dpm(depth.bfloat16(), KITTI).dtype == torch.float32
    dpm = depth_to_dpm(depth, KITTI)
    back = dpm_to_depth(dpm.bfloat16(), KITTI)
    assert back.dtype == torch.float32
    torch.testing.assert_close(back, dpm_to_depth(dpm, KITTI), rtol=4e-3, atol=0)


def test_depth_stays_float32_under_autocast() -> None:
    dpm = depth_to_dpm(torch.rand(2, 1, 4, 5) * 60 + 10, KITTI)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = dpm_to_depth(dpm, KITTI)
    assert torch.equal(inside, dpm_to_depth(dpm, KITTI))


def test_dpm_to_depth_on_non_contiguous_input_and_its_gradient() -> None:
    bins = Bins.uniform(1.0, 9.0, 5)
    dpm = torch.rand(2, 5, 3, 4, dtype=torch.float64).softmax(1)
    strided = dpm.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    torch.testing.assert_close(dpm_to_depth(strided, bins), dpm_to_depth(dpm, bins))
    assert torch.autograd.gradcheck(lambda x: dpm_to_depth(x, bins), dpm.requires_grad_())
