"""An objective is the documented sum of its terms, every setting of it arrives, and masks reach every term."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tiekd_cache.dpm import Bins, dpm_to_depth
from tiekd_cache.errors import ConfigError, RangeError, ShapeError
from tiekd_cache.losses import LossConfig, Objective, dpm_kl, si, ssim
from tiekd_cache.losses.loss_config import OBJECTIVES

BINS = Bins.uniform(1e-3, 80.0, 65)


def build(name: str = "tie-kd", bins: Bins = BINS, **settings: Any) -> Objective:
    """The named objective, for a student with a DPM."""
    return Objective.from_config(LossConfig(name, **settings), bins)


def batch() -> tuple[torch.Tensor, nn.Conv2d, torch.Tensor, torch.Tensor]:
    """(features, head, teacher depth, valid mask), all fixed."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 8, 12, 16, generator=generator)
    head = nn.Conv2d(8, BINS.num_bins, 1)
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator))
    teacher_depth = 3 + 70 * torch.rand(2, 1, 12, 16, generator=generator)
    return features, head, teacher_depth, torch.rand(2, 1, 12, 16, generator=generator) > 0.2


def student_depth(features: torch.Tensor, head: nn.Conv2d) -> torch.Tensor:
    return dpm_to_depth(torch.softmax(head(features), 1), BINS)


def test_tie_kd_is_the_published_sum() -> None:
    features, head, teacher_depth, mask = batch()
    result = build(alpha=0.3, sigma=1.0, scale=7.0)(features, head, teacher_depth, mask)
    mean_kl = dpm_kl(head(features), teacher_depth, BINS, 1.0)[mask].mean()
    similarity = ssim(student_depth(features, head), teacher_depth, mask)
    torch.testing.assert_close(result.total, 7.0 * (0.3 * mean_kl + 0.7 * (1 - similarity)))
    torch.testing.assert_close(result.terms["dpm"], mean_kl.detach())
    torch.testing.assert_close(result.terms["ssim"], 1 - similarity.detach())
    torch.testing.assert_close(result.student_depth, student_depth(features, head).detach())
    assert not result.student_depth.requires_grad
    assert not any(term.requires_grad for term in result.terms.values())


@pytest.mark.shared
@pytest.mark.parametrize("name", ["loss_sigma05", "loss_sigma08"])
def test_parity_of_the_total_and_its_gradient(shared_dir: Path, name: str) -> None:
    with np.load(shared_dir / "parity" / f"{name}.npz") as golden:
        golden = {key: torch.from_numpy(golden[key]) for key in golden.files}
    bins = Bins.uniform(1e-3, 80.0, 257)
    logits = golden["logits"].clone().requires_grad_()
    head = nn.Conv2d(257, 257, 1)
    with torch.no_grad():  # a head that hands its input on
        head.weight.copy_(torch.eye(257).view(257, 257, 1, 1))
        assert head.bias is not None
        head.bias.zero_()
    result = build(bins=bins, sigma=float(golden["sigma"]))(logits, head, golden["teacher_depth"], None)
    result.total.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    torch.testing.assert_close(result.total, golden["total"], rtol=0, atol=1e-3)
    torch.testing.assert_close(logits.grad[:, :, ::4, ::4], golden["grad_logits"], rtol=0, atol=2e-6)


def test_the_halves_alone() -> None:
    features, head, teacher_depth, mask = batch()
    both = build()(features, head, teacher_depth, mask).terms
    for name, term in (("tie-kd-dpm", "dpm"), ("tie-kd-depth", "ssim")):
        result = build(name, scale=2.0)(features, head, teacher_depth, mask)
        assert list(result.terms) == [term]
        torch.testing.assert_close(result.terms[term], both[term])
        torch.testing.assert_close(result.total.detach(), 2 * both[term])


def test_baseline_uses_ground_truth_alone() -> None:
    features, head, teacher_depth, mask = batch()
    generator = torch.Generator().manual_seed(9)
    sparse = torch.rand(teacher_depth.shape, generator=generator) < 0.3
    gt_depth = torch.where(sparse, teacher_depth * 1.1, 0)
    gt_depth[0, 0, 0, 0] = 85.0  # beyond the bins: does not count
    objective = build("baseline", scale=3.0)
    assert objective.needs_gt
    counts = (gt_depth > 0) & (gt_depth <= 80)
    expected = si(student_depth(features, head), gt_depth, counts)
    result = objective(features, head, teacher_depth, mask, gt_depth)
    torch.testing.assert_close(result.total, 3 * expected)
    assert list(result.terms) == ["gt_si"]
    other_teacher = objective(features, head, teacher_depth * 0.5, torch.zeros_like(mask), gt_depth)
    torch.testing.assert_close(other_teacher.total, result.total)
    with pytest.raises(ConfigError, match="needs ground truth"):
        objective(features, head, teacher_depth, mask)


CHANGES: dict[str, Any] = {
    "name": "tie-kd-dpm",
    "terms": {"dpm": 0.2, "mse": 0.01},
    "alpha": 0.5,
    "sigma": 2.5,
    "sigma_share": 0.2,
    "form": "gaussian",
    "scale": 4.0,
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(LossConfig)])
def test_every_setting_arrives(field: str) -> None:
    features, head, teacher_depth, mask = batch()
    assert getattr(LossConfig(), field) != CHANGES[field]
    totals = [
        float(build(**settings)(features, head, teacher_depth, mask).total.detach())
        for settings in ({}, {field: CHANGES[field]})
    ]
    assert abs(totals[0] - totals[1]) > 1e-3


def test_bins_arrive() -> None:
    features, head, teacher_depth, mask = batch()
    wider = Bins.uniform(1e-3, 100.0, BINS.num_bins)
    near, far = (build(bins=bins)(features, head, teacher_depth, mask) for bins in (BINS, wider))
    assert abs(float(near.total.detach()) - float(far.total.detach())) > 1e-3


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_reach_features_and_head_but_no_invalid_pixel(name: str) -> None:
    features, head, teacher_depth, mask = batch()
    features.requires_grad_()
    teacher_depth[~mask] = math.nan  # what is not valid is not looked at
    teacher_depth[0, 0, 3, 3] = 0.0  # missing
    mask[0, 0, 3, 3] = True
    counts = mask & (teacher_depth != 0)
    gt_depth = torch.where(counts, teacher_depth, 0)
    result = build(name)(features, head, teacher_depth, mask, gt_depth)
    result.total.backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None
    assert head.weight.grad is not None
    assert bool(torch.isfinite(result.total))
    assert bool(torch.isfinite(features.grad).all())
    assert float((features.grad * ~counts).abs().max()) == 0.0
    assert float(features.grad.abs().max()) > 0.0
    assert float(head.weight.grad.abs().max()) > 0.0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_batch_without_a_valid_pixel_has_no_gradient(name: str) -> None:
    features, head, teacher_depth, mask = batch()
    features.requires_grad_()
    nothing = torch.zeros_like(mask)
    result = build(name)(features, head, teacher_depth, nothing, torch.zeros_like(teacher_depth))
    result.total.backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None
    assert bool(torch.isfinite(result.total))
    assert float(features.grad.abs().max()) == 0.0


def test_no_graph_without_gradients() -> None:
    features, head, teacher_depth, mask = batch()
    with torch.no_grad():
        assert not build()(features, head, teacher_depth, mask).total.requires_grad


def test_bf16_autocast_is_close() -> None:
    features, head, teacher_depth, mask = batch()
    exact = build()(features, head, teacher_depth, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = build()(features, head, teacher_depth, mask)
    assert rough.total.dtype == rough.student_depth.dtype == torch.float32
    torch.testing.assert_close(rough.total, exact.total, rtol=0.03, atol=0)
    torch.testing.assert_close(rough.student_depth, exact.student_depth, rtol=0, atol=1.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "tie_kd"},
        {"alpha": 1.1},
        {"alpha": math.nan},
        {"scale": 0.0},
        {"scale": math.inf},
        {"terms": {"depth": 1.0}},
        {"terms": {"ssim": -1.0}},
        {"terms": {"ssim": math.nan}},
        {"terms": {"ssim": math.inf}},
        {"terms": {"ssim": 0.0, "dpm": 0.0}},
        {"name": "baseline", "terms": {"ssim": 1.0}},
    ],
    ids=str,
)
def test_config_refuses(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        LossConfig(**wrong)  # type: ignore[arg-type]


def test_settings_that_need_the_bins_are_checked_before_training() -> None:
    with pytest.raises(RangeError, match="sigma"):
        Objective.from_config(LossConfig(sigma=-1.0), BINS)
    with pytest.raises(RangeError, match="too small"):
        Objective.from_config(LossConfig(sigma=0.05), BINS)
    with pytest.raises(ConfigError, match="form"):
        Objective.from_config(LossConfig(form="box"), BINS)


def test_sizes_are_checked() -> None:
    features, head, teacher_depth, mask = batch()
    objective = build()
    with pytest.raises(ShapeError, match="teacher_depth"):
        objective(features[:, :, 1:], head, teacher_depth, mask)
    with pytest.raises(ShapeError, match="valid_mask"):
        objective(features, head, teacher_depth, mask[:, :, 1:])
    with pytest.raises(ShapeError, match="gt_depth"):
        objective(features, head, teacher_depth, mask, teacher_depth[:1])
    with pytest.raises(RangeError, match="outside the bins"):
        objective(features, head, teacher_depth + 80, mask)
