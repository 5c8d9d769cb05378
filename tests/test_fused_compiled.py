"""The fused head's compiled loops equal the plain formulas, at any numbers that a training run can meet."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiekd_cache.dpm import FORMS, SPACINGS, Bins, dpm_to_depth
from tiekd_cache.errors import RangeError
from tiekd_cache.losses import dpm_kl, fused_dpm_head, fused_tiles, fused_torch
from tiekd_cache.losses.masked import masked_mean

pytest.importorskip("numba", reason="numba cannot be imported here")

from tiekd_cache.losses import fused_loops

WIDE = Bins.uniform(1e-3, 80.0, 257)


def run(features, weight, bias, teacher_depth, bins, sigma, form, share):  # type: ignore[no-untyped-def]
    kl, depth = fused_dpm_head(features, weight, bias, teacher_depth, bins, sigma, form, sigma_share=share)
    return kl, depth, *_gradients(kl, depth, features, weight, bias)


def oracle(features, weight, bias, teacher_depth, bins, sigma, form, share):  # type: ignore[no-untyped-def]
    """The plain formulas in float64."""
    inputs = [x.detach().double().requires_grad_() for x in (features, weight, bias)]
    logits = torch.nn.functional.conv2d(*inputs)
    kl_map = dpm_kl(logits, teacher_depth.double(), bins, sigma, form, None, share)
    kl, depth = masked_mean(kl_map, teacher_depth > 0), dpm_to_depth(torch.softmax(logits, 1), bins)
    return kl, depth, *_gradients(kl, depth, *inputs)


def _gradients(kl: torch.Tensor, depth: torch.Tensor, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    wave = torch.linspace(0.3, 1, depth.numel(), dtype=depth.dtype).view(depth.shape)
    return torch.autograd.grad(3 * kl + (wave * depth).sum(), inputs)


def made(
    bins: Bins, height: int, width: int, spread: float, seed: int, channels: int = 6, batch: int = 1
) -> list[torch.Tensor]:
    """Features, weight, bias, teacher depth; `spread` is how far logits lie apart."""
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, channels, height, width, generator=g)
    weight = torch.randn(bins.num_bins, channels, 1, 1, generator=g) * spread / channels**0.5
    bias = torch.randn(bins.num_bins, generator=g) * spread
    low, high = bins.min_depth, bins.max_depth
    depth = torch.rand(batch, 1, height, width, generator=g) * (high - low) + low
    depth[torch.rand(depth.shape, generator=g) < 0.1] = 0
    depth[..., 0, :3] = torch.tensor([low, 0.0, high])[: depth.shape[3]]
    return [*(x.requires_grad_() for x in (features, weight, bias)), depth.clamp_(max=high)]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(FORMS), st.sampled_from(SPACINGS), st.sampled_from([0.004, 0.5, 2.0]),
    st.sampled_from([0.0, 0.3]), st.sampled_from([(1, 1, 1), (1, 1, 127), (1, 3, 129), (3, 9, 19)]),
    st.sampled_from([0.01, 1.0, 6.0]), st.integers(0, 1000),
)  # fmt: skip
def test_values_and_gradients_equal_the_plain_formulas(
    form: str, spacing: str, sigma: float, share: float, size: tuple[int, int, int], spread: float, seed: int
) -> None:
    bins = Bins.spaced(spacing, 0.5, 80.0, 65)
    given = made(bins, *size[1:], spread, seed, batch=size[0])
    try:
        theirs = oracle(*given, bins, sigma, form, share)
    except RangeError:  # bins too wide for this sigma
        return
    for mine, other in zip(run(*given, bins, sigma, form, share), theirs, strict=True):
        # where one bin has it all, a gradient is what two depths of up to 80 m differ by: 8e-6 m is a step of float32
        assert (mine - other).abs().max() <= 2e-5 * max(1.0, other.abs().max().item())


@pytest.mark.parametrize("form", FORMS)
def test_several_teachers_are_what_plain_torch_makes_of_them(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features, weight, bias, _ = made(WIDE, 20, 70, 1.0, 0)
    teachers = torch.cat([made(WIDE, 20, 70, 1.0, seed)[3] for seed in (1, 2, 3)], dim=1)
    outcomes = []
    for _ in range(2):
        kl, depth = fused_dpm_head(features, weight, bias, teachers, WIDE, 0.5, form, teacher_weights=(1, 3, 0))
        outcomes.append([kl, depth, *_gradients(kl, depth, features, weight, bias)])
        monkeypatch.setattr(fused_tiles, "_arithmetic", fused_torch.TorchTiles)
    for mine, other in zip(*outcomes, strict=True):
        assert not torch.equal(mine, other) or mine.numel() == 1  # two ways, not one twice
        assert (mine - other).abs().max() <= 1e-5 * other.abs().max()


@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_finite_stays_so(form: str) -> None:
    features, weight, bias, depth = made(WIDE, 4, 50, 1.0, 0)
    depth = depth.clamp(min=1.0)
    with torch.no_grad():
        features[0, :, 1, 7], features[0, 2, 2, 9], features[0, 2, 3, 11] = torch.nan, torch.inf, -torch.inf
    broken = torch.zeros(4, 50, dtype=torch.bool)
    broken[1, 7] = broken[2, 9] = broken[3, 11] = True
    kl, student_depth = fused_dpm_head(features, weight, bias, depth, WIDE, 0.5, form)
    assert torch.isnan(kl)
    assert torch.equal(torch.isnan(student_depth[0, 0]), broken)
    (gradient,) = torch.autograd.grad(student_depth.sum(), features)
    assert torch.equal(torch.isnan(gradient[0]).any(0), broken)


def test_bins_that_the_student_rules_out_count_nothing_in_the_released_form() -> None:
    bins = Bins.uniform(1e-3, 80.0, 65)
    features, weight, bias, depth = made(bins, 1, 5, 0.0, 0)
    with torch.no_grad():
        bias[40], depth[:] = 200.0, 10.0  # all other bins: exp(-200), which is 0 in float32
    kl, student_depth = fused_dpm_head(features, weight, bias, depth, bins, 0.8)
    assert kl == 0
    torch.testing.assert_close(student_depth, bins.centers[40].expand(1, 1, 1, 5), rtol=1e-6, atol=0)


def test_exponential_and_logarithm_are_exact_to_rounding() -> None:
    numbers = np.linspace(-110, 88, 20001, dtype=np.float32)
    exact = np.exp(numbers.astype(np.float64))
    ours = np.array([fused_loops.exp(x) for x in numbers], dtype=np.float64)
    normal = numbers > -87
    assert (np.abs(ours / exact - 1)[normal] < 2e-7).all()
    assert (ours[~normal] < 1.7e-38).all()  # exp(-87)
    assert (ours[numbers < -104] == 0).all()
    positive = np.geomspace(1e-8, 1e8, 20001).astype(np.float32)
    logs = np.array([fused_loops.log(x) for x in positive])
    truth = np.log(positive.astype(np.float64))
    assert (np.abs(logs - truth) <= 1.5e-7 * np.maximum(1, np.abs(truth))).all()
    assert np.isnan([fused_loops.exp(np.float32(np.nan)), fused_loops.log(np.float32(np.nan))]).all()
    assert fused_loops.exp(np.float32(-np.inf)) == 0


ONE_STEP = """
import torch
from tiekd_cache.dpm import Bins
from tiekd_cache.losses import fused_dpm_head, fused_compiled
bins = Bins.uniform(1e-3, 80.0, 9)
given = torch.ones(1, 2, 1, 3), torch.ones(9, 2, 1, 1), torch.zeros(9), torch.ones(1, 1, 1, 3)
kl, depth = fused_dpm_head(*given, bins, 3)
print("torch" if fused_compiled.compiled_loops() is None else "compiled")
print(round(kl.item(), 4), round(depth.mean().item(), 3))
"""


@pytest.mark.slow
def test_without_numba_plain_torch_does_it() -> None:
    lines = []
    for setting in ("0", "1"):
        environment = {**os.environ, "NUMBA_DISABLE_JIT": setting}
        command = [sys.executable, "-W", "error", "-c", ONE_STEP]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        lines.append(done.stdout.split())
    assert [line[0] for line in lines] == ["compiled", "torch"]
    assert lines[0][1:] == lines[1][1:]
