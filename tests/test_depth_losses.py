"""SSIM, SI and MSE agree with independent formulas, have right gradients, and honour masks."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from tiekd_cache.errors import ShapeError
from tiekd_cache.losses import mse, si, ssim

Loss = Callable[..., torch.Tensor]
LOSSES = pytest.mark.parametrize("loss", [ssim, si, mse], ids=["ssim", "si", "mse"])


def maps(height: int = 14, width: int = 17, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two depth maps [2,1,H,W] in float64, some metres apart."""
    generator = torch.Generator().manual_seed(seed)
    a = 5 + 40 * torch.rand(2, 1, height, width, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, 1, height, width, generator=generator, dtype=torch.float64)
    return a, (a * (1 + 0.1 * noise)).clamp(1e-3, 80.0)


def ssim_with_the_whole_window(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """SSIM of each pixel with the two-dimensional 11x11 window and zeros around, written with scipy."""
    offsets = np.arange(-5, 6)
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2

    def mean(x: np.ndarray) -> np.ndarray:
        blurred: np.ndarray = correlate(x, window, mode="constant", cval=0.0)
        return blurred

    covariance = np.abs(mean(a * b) - mean(a) * mean(b))
    variances = np.abs(mean(a * a) - mean(a) ** 2) + np.abs(mean(b * b) - mean(b) ** 2)
    c1, c2 = 1e-4, 9e-4
    result: np.ndarray = ((2 * mean(a) * mean(b) + c1) * (2 * covariance + c2)) / (
        (mean(a) ** 2 + mean(b) ** 2 + c1) * (variances + c2)
    )
    return result


def test_ssim_against_the_two_dimensional_window() -> None:
    a, b = maps()
    expected = np.mean([ssim_with_the_whole_window(x[0].numpy(), y[0].numpy()) for x, y in zip(a, b, strict=True)])
    assert float(ssim(a, b)) == pytest.approx(expected, abs=1e-12)
    assert float(ssim(a.float(), b.float())) == pytest.approx(expected, abs=1e-6)


def test_ssim_takes_the_covariance_in_absolute_value() -> None:
    ramp = torch.linspace(10, 30, 20, dtype=torch.float64).expand(1, 1, 20, 20)
    assert float(ssim(ramp, 40 - ramp)) > 0.5  # anticorrelated: signed, it would be negative


def test_ssim_of_equal_maps_is_one_and_symmetric() -> None:
    a, b = maps()
    assert float(ssim(a, a)) == pytest.approx(1.0, abs=1e-12)
    assert float(ssim(a, b)) == pytest.approx(float(ssim(b, a)), abs=1e-12)
    assert 0 < float(ssim(a, b)) < 1


def test_ssim_on_a_far_flat_surface_is_not_rounding() -> None:
    flat = torch.full((1, 1, 30, 30), 79.3)
    sloping = flat + 0.01 * torch.arange(30) / 30
    gradients = []
    for dtype in (torch.float32, torch.float64):
        prediction = sloping.to(dtype, copy=True).requires_grad_()
        ssim(prediction, flat.to(dtype)).backward()  # type: ignore[no-untyped-call]
        assert prediction.grad is not None
        gradients.append(prediction.grad.double())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-9)


def test_ssim_mask_zeroes_both_maps_and_averages_over_the_rest() -> None:
    a, b = maps()
    mask = torch.rand(a.shape, generator=torch.Generator().manual_seed(3)) > 0.3
    expected = np.concatenate(
        [
            ssim_with_the_whole_window((x * m)[0].numpy(), (y * m)[0].numpy())[m[0].numpy()]
            for x, y, m in zip(a, b, mask, strict=True)
        ]
    ).mean()
    assert float(ssim(a, b, mask)) == pytest.approx(expected, abs=1e-12)


def test_ssim_smaller_than_its_window() -> None:
    a, b = maps(3, 4)
    expected = np.mean([ssim_with_the_whole_window(x[0].numpy(), y[0].numpy()) for x, y in zip(a, b, strict=True)])
    assert float(ssim(a, b)) == pytest.approx(expected, abs=1e-12)


def test_si_closed_form() -> None:
    prediction = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 1, 3) - 1e-3
    target = torch.full((1, 1, 1, 3), 1.0) - 1e-3
    g = [0.0, math.log(2), math.log(4)]
    mean = sum(g) / 3
    expected = math.sqrt(sum((x - mean) ** 2 for x in g) / 2 + 0.15 * mean**2)
    assert float(si(prediction, target)) == pytest.approx(expected, rel=1e-5)


def test_si_of_a_constant_factor_is_the_weighted_mean_alone() -> None:
    a, _ = maps()
    scaled = (a + 1e-3) * 1.5 - 1e-3
    assert float(si(scaled, a)) == pytest.approx(math.sqrt(0.15) * math.log(1.5), rel=1e-9)


def test_si_of_one_pixel_is_its_mean_alone() -> None:
    a, b = maps()
    mask = torch.zeros_like(a, dtype=torch.bool)
    mask[1, 0, 2, 3] = True
    g = float(torch.log(a[1, 0, 2, 3] + 1e-3) - torch.log(b[1, 0, 2, 3] + 1e-3))
    assert float(si(a, b, mask)) == pytest.approx(math.sqrt(0.15) * abs(g), rel=1e-9)


def test_si_of_equal_maps_has_zero_gradient() -> None:
    a, _ = maps()
    prediction = a.clone().requires_grad_()
    loss = si(prediction, a)
    loss.backward()  # type: ignore[no-untyped-call]
    assert prediction.grad is not None
    assert float(loss.detach()) == 0.0
    assert float(prediction.grad.abs().max()) == 0.0


def test_mse_closed_form() -> None:
    a = torch.zeros(1, 1, 2, 2)
    b = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2)
    assert float(mse(a, b)) == pytest.approx(7.5)
    assert float(mse(a, b, b > 2.5)) == pytest.approx(12.5)


@LOSSES
def test_masked_pixels_do_not_matter(loss: Loss) -> None:
    a, b = maps()
    mask = torch.rand(a.shape, generator=torch.Generator().manual_seed(4)) > 0.4
    expected = loss(a, b, mask)
    torn_a = torch.where(mask, a, math.nan).requires_grad_()
    loss_value = loss(torn_a, torch.where(mask, b, math.inf), mask)
    loss_value.backward()  # type: ignore[no-untyped-call]
    assert torn_a.grad is not None
    torch.testing.assert_close(loss_value.detach(), expected)
    assert bool(torch.isfinite(torn_a.grad).all())
    assert float((torn_a.grad * ~mask).abs().max()) == 0.0
    assert float(torn_a.grad.abs().max()) > 0.0


@LOSSES
def test_full_mask_equals_none(loss: Loss) -> None:
    a, b = maps()
    torch.testing.assert_close(loss(a, b, torch.ones_like(a, dtype=torch.bool)), loss(a, b))


@LOSSES
def test_empty_mask_gives_zero_with_zero_gradient(loss: Loss) -> None:
    a, b = maps()
    a.requires_grad_()
    value = loss(a, b, torch.zeros_like(b, dtype=torch.bool))
    value.backward()  # type: ignore[no-untyped-call]
    assert a.grad is not None
    assert float(value.detach()) == 0.0
    assert float(a.grad.abs().max()) == 0.0


@LOSSES
def test_gradcheck(loss: Loss) -> None:
    a, b = maps(4, 5)
    mask = torch.rand(a.shape, generator=torch.Generator().manual_seed(5)) > 0.3
    assert torch.autograd.gradcheck(lambda x, y: loss(x, y, mask), (a.requires_grad_(), b.requires_grad_()))


@LOSSES
def test_dtypes_and_non_contiguous(loss: Loss) -> None:
    a, b = maps()
    expected = loss(a, b)
    assert expected.dtype == torch.float64
    assert expected.shape == ()
    single = loss(a.float(), b.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-6)
    half = loss(a.bfloat16(), b.bfloat16())  # depth itself is rounded by 0.4 %
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), expected, rtol=0.05, atol=0.02)
    strided = a.transpose(2, 3).contiguous().transpose(2, 3)
    torch.testing.assert_close(loss(strided, b), expected)


@LOSSES
def test_shapes_are_checked(loss: Loss) -> None:
    a, b = maps()
    with pytest.raises(ShapeError, match=r"\[B,1,H,W\]"):
        loss(a, b[:, :, 1:])
    with pytest.raises(ShapeError, match=r"\[B,1,H,W\]"):
        loss(a[:, 0], b[:, 0])
    with pytest.raises(ShapeError, match="bool"):
        loss(a, b, torch.ones_like(a))
    with pytest.raises(ShapeError, match="float"):
        loss(a.long(), b.long())
