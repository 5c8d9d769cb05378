"""L_DPM agrees with the released values and with closed forms, has right gradients, and honours masks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tiekd_cache.dpm import FORMS, Bins, depth_to_dpm, dpm_to_depth
from tiekd_cache.errors import ConfigError, RangeError, ShapeError
from tiekd_cache.losses import dpm_kl, si, ssim

KITTI = Bins.uniform(1e-3, 80.0, 257)
SMALL = Bins.uniform(0.5, 10.5, 6)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.2}
"""Absolute, of a KL of a few nats; bf16 logits of size 8 are rounded by 0.03."""


def example(bins: Bins, shape: tuple[int, int, int] = (2, 3, 4), seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits [B,K,H,W], teacher depth [B,1,H,W]) in float64."""
    generator = torch.Generator().manual_seed(seed)
    batch, height, width = shape
    logits = 2 * torch.randn(batch, bins.num_bins, height, width, generator=generator, dtype=torch.float64)
    spread = torch.rand(batch, 1, height, width, generator=generator, dtype=torch.float64)
    return logits, bins.min_depth + spread * (bins.max_depth - bins.min_depth)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["loss_sigma05", "loss_sigma08"])
def test_parity_with_the_released_losses(shared_dir: Path, name: str) -> None:
    with np.load(shared_dir / "parity" / f"{name}.npz") as golden:
        golden = {key: torch.from_numpy(golden[key]) for key in golden.files}
    logits = golden["logits"].clone().requires_grad_()
    teacher_depth = golden["teacher_depth"]
    kl_map = dpm_kl(logits, teacher_depth, KITTI, float(golden["sigma"]))
    student_depth = dpm_to_depth(torch.softmax(logits, 1), KITTI)
    similarity = ssim(student_depth, teacher_depth)
    total = 10 * (0.1 * kl_map.mean() + 0.9 * (1 - similarity))
    total.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    close = torch.testing.assert_close
    close(kl_map, golden["kl_map"], rtol=0, atol=1e-4)
    close(student_depth, golden["student_depth"], rtol=0, atol=1e-4)
    close(similarity, golden["ssim"], rtol=0, atol=1e-5)
    close(total, golden["total"], rtol=0, atol=1e-3)
    close(logits.grad[:, :, ::4, ::4], golden["grad_logits"], rtol=0, atol=2e-6)
    close(logits.grad.double().norm(), golden["grad_logits_norm"], rtol=1e-4, atol=0)
    close(si(student_depth, teacher_depth), golden["si_loss"], rtol=0, atol=1e-5)


def test_released_form_pixel_by_pixel() -> None:
    logits, depth = example(SMALL)
    logits[0, 2, 0, 0] = -math.inf  # a bin of probability 0: its term is dropped
    teacher = depth_to_dpm(depth, SMALL, 0.7, "released")
    kl_map = dpm_kl(logits, depth, SMALL, 0.7, "released")
    for b, y, x in np.ndindex(2, 3, 4):
        student = torch.softmax(logits[b, :, y, x], 0)
        expected = sum(
            t * math.log(t / (s + 1e-7) + 1e-7)
            for t, s in zip(teacher[b, :, y, x].tolist(), student.tolist(), strict=True)
            if s != 0
        )
        assert float(kl_map[b, 0, y, x]) == pytest.approx(expected, abs=1e-9)


def test_gaussian_form_is_torchs_kl_divergence() -> None:
    logits, depth = example(SMALL)
    teacher = depth_to_dpm(depth, SMALL, 0.7, "gaussian")
    expected = torch.nn.functional.kl_div(torch.log_softmax(logits, 1), teacher, reduction="none").sum(1, keepdim=True)
    torch.testing.assert_close(dpm_kl(logits, depth, SMALL, 0.7, "gaussian"), expected)


@pytest.mark.parametrize("form", FORMS)
def test_a_perfect_student_has_no_divergence_and_no_gradient(form: str) -> None:
    _, depth = example(SMALL)
    logits = depth_to_dpm(depth, SMALL, 2.0, form).clamp(min=1e-12).log().requires_grad_()
    kl_map = dpm_kl(logits, depth, SMALL, 2.0, form)
    kl_map.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert float(kl_map.detach().abs().max()) < 1e-5
    assert float(logits.grad.abs().max()) < 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_uniform_student_closed_form(form: str) -> None:
    _, depth = example(SMALL)
    teacher = depth_to_dpm(depth, SMALL, 1.5, form)
    expected = math.log(SMALL.num_bins) + torch.xlogy(teacher, teacher).sum(1, keepdim=True)
    kl_map = dpm_kl(torch.zeros(2, 6, 3, 4, dtype=torch.float64), depth, SMALL, 1.5, form)
    torch.testing.assert_close(kl_map, expected, rtol=0, atol=1e-5)  # the released 1e-7 are worth a few 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_gradcheck(form: str) -> None:
    logits, depth = example(SMALL, (1, 2, 2))
    depth[0, 0, 0, 1] = 0.0
    assert torch.autograd.gradcheck(lambda x: dpm_kl(x, depth, SMALL, 1.1, form), logits.requires_grad_())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_dtypes(form: str, dtype: torch.dtype) -> None:
    logits, depth = example(KITTI)
    expected = dpm_kl(logits, depth, KITTI, 0.8, form)
    kl_map = dpm_kl(logits.to(dtype), depth.float(), KITTI, 0.8, form)
    assert kl_map.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    atol = max(TOLERANCE[dtype], 1e-5)  # the depth is float32 in every case
    torch.testing.assert_close(kl_map.double(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("form", FORMS)
def test_non_contiguous_and_upstream_gradient(form: str) -> None:
    logits, depth = example(SMALL)
    upstream = torch.rand_like(depth)
    gradients = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        leaf = logits.detach().clone(memory_format=memory_format).requires_grad_()
        kl_map = dpm_kl(leaf, depth.transpose(2, 3).contiguous().transpose(2, 3), SMALL, 0.9, form)
        kl_map.backward(upstream)  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
    unit = logits.detach().clone().requires_grad_()
    dpm_kl(unit, depth, SMALL, 0.9, form).sum().backward()  # type: ignore[no-untyped-call]
    assert unit.grad is not None
    torch.testing.assert_close(unit.grad * upstream, gradients[0])


@pytest.mark.parametrize("form", FORMS)
def test_mask_and_missing_depth(form: str) -> None:
    logits, depth = example(SMALL)
    whole = dpm_kl(logits, depth, SMALL, 0.9, form)
    mask = torch.ones_like(depth, dtype=torch.bool)
    mask[0, 0, 1, 2] = mask[1, 0, 0, 0] = False
    torn = depth.clone()
    torn[0, 0, 1, 2], torn[1, 0, 0, 0] = math.nan, 5000.0  # masked out: whatever is there does not matter
    torn[1, 0, 2, 3] = 0.0  # missing
    leaf = logits.clone().requires_grad_()
    kl_map = dpm_kl(leaf, torn, SMALL, 0.9, form, mask)
    kl_map.sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    counts = mask & (torn != 0)
    torch.testing.assert_close(kl_map.detach(), torch.where(counts, whole, 0))
    assert bool(torch.isfinite(leaf.grad).all())
    assert float((leaf.grad * ~counts).abs().max()) == 0.0
    assert float(leaf.grad[0, :, 0, 0].abs().max()) > 0.0


@pytest.mark.parametrize("form", FORMS)
def test_empty_mask(form: str) -> None:
    logits, depth = example(SMALL)
    leaf = logits.requires_grad_()
    kl_map = dpm_kl(leaf, depth, SMALL, 0.9, form, torch.zeros_like(depth, dtype=torch.bool))
    kl_map.sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert float(kl_map.detach().abs().max()) == 0.0
    assert float(leaf.grad.abs().max()) == 0.0


@pytest.mark.parametrize("form", FORMS)
def test_extreme_logits_stay_finite(form: str) -> None:
    depth = torch.full((1, 1, 1, 2), 40.0)
    logits = torch.zeros(1, 257, 1, 2)
    logits[0, 0] = 1e4
    logits = logits.requires_grad_()
    kl_map = dpm_kl(logits, depth, KITTI, 0.8, form)
    kl_map.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert bool(torch.isfinite(kl_map).all())
    assert bool(torch.isfinite(logits.grad).all())


def test_teacher_gets_no_gradient() -> None:
    logits, depth = example(SMALL)
    kl_map = dpm_kl(logits.requires_grad_(), depth.requires_grad_(), SMALL)
    kl_map.sum().backward()  # type: ignore[no-untyped-call]
    assert depth.grad is None


def test_errors() -> None:
    logits, depth = example(SMALL)
    with pytest.raises(ConfigError, match="'flat'"):
        dpm_kl(logits, depth, SMALL, 0.8, "flat")
    with pytest.raises(RangeError, match="sigma"):
        dpm_kl(logits, depth, SMALL, 0.0)
    with pytest.raises(ShapeError, match="257"):
        dpm_kl(logits, depth, KITTI)
    with pytest.raises(ShapeError, match="do not fit"):
        dpm_kl(logits, depth[:, :, :2], SMALL)
    with pytest.raises(ShapeError, match="valid_mask"):
        dpm_kl(logits, depth, SMALL, valid_mask=torch.ones_like(depth))
    with pytest.raises(ShapeError, match="float"):
        dpm_kl(logits.long(), depth, SMALL)
    depth[1, 0, 2, 3] = math.nan
    with pytest.raises(RangeError, match="row 2, column 3"):
        dpm_kl(logits, depth, SMALL)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("form", FORMS)
def test_cuda_equals_cpu(form: str) -> None:
    logits, depth = (tensor.float() for tensor in example(KITTI, (2, 8, 9)))
    depth[0, 0, 0, 0] = 0.0
    on_cpu = dpm_kl(logits, depth, KITTI, 0.8, form)
    on_gpu = dpm_kl(logits.cuda(), depth.cuda(), KITTI, 0.8, form)
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=0, atol=1e-4)
