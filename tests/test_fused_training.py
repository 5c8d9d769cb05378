"""Training through the fused head goes as training through convolution and plain formulas, step by step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tiekd_cache.dpm import FORMS, Bins, dpm_to_depth
from tiekd_cache.losses import dpm_kl, fused_dpm_head, ssim

BINS = Bins.uniform(1e-3, 80.0, 65)
SIGMA_M = 1.5
Head = Callable[[torch.Tensor, nn.Conv2d, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def loss_curve(terms: Head, steps: int = 50) -> torch.Tensor:
    """[steps] the objective of a small network that learns four pictures, in float32."""
    g = torch.Generator().manual_seed(3)
    images = torch.rand(4, 3, 16, 24, generator=g)
    depth = 3 + 60 * torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 5, 1, 2)
    encoder, head = nn.Conv2d(3, 16, 5, padding=2), nn.Conv2d(16, BINS.num_bins, 1)
    with torch.no_grad():
        for parameter in (*encoder.parameters(), *head.parameters()):
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=g))
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=5e-3)
    curve = []
    for _ in range(steps):
        kl, student_depth = terms(torch.relu(encoder(images)), head, depth)
        loss = 0.1 * kl + 0.9 * (1 - ssim(student_depth, depth))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        curve.append(loss.detach())
    return torch.stack(curve)


@pytest.mark.parametrize("form", FORMS)
def test_fifty_steps_give_the_same_curve(form: str) -> None:
    def plain(features: torch.Tensor, head: nn.Conv2d, depth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = head(features)
        student_depth = dpm_to_depth(torch.softmax(logits, 1), BINS)
        return dpm_kl(logits, depth, BINS, SIGMA_M, form).mean(), student_depth

    def fused(features: torch.Tensor, head: nn.Conv2d, depth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert head.bias is not None
        return fused_dpm_head(features, head.weight, head.bias, depth, BINS, SIGMA_M, form)

    ours, theirs = loss_curve(fused), loss_curve(plain)
    assert theirs[-1] < 0.8 * theirs[0]  # it learns
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=0)
