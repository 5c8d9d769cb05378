"""Small problems for the Triton head, and what it makes of them beside the oracle: in Triton's interpreter or on a GPU.

`python triton_cases.py` runs all cases and prints their `Errors` as JSON. With TRITON_INTERPRET=1 they run on the CPU;
that is chosen when triton is imported, for the whole process, so that tests start one of their own.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass
from unittest import mock

import torch

from tiekd_cache.dpm import Bins, dpm_to_depth
from tiekd_cache.losses import dpm_kl, fused_triton
from tiekd_cache.losses.fused_triton import dpm_terms_triton

INPUTS = ("features", "weight", "bias")


class LogBins(Bins):
    """Bins of equal width in log depth."""

    def _edges64(self) -> torch.Tensor:
        low, high = math.log(self.min_depth), math.log(self.max_depth)
        return torch.linspace(low, high, self.num_bins + 1, dtype=torch.float64).exp()


@dataclass(frozen=True)
class Case:
    """A problem: sizes, dtypes of features and head, bins, widths, and how the features lie in memory.

    Attributes:
        head_dtype: of weight and bias; empty = as the features.
        programs: HEAD_PROGRAMS; few of them work on many tiles each.
        logit_scale: standard deviation of the logits; at 100 most of the student's probabilities are exactly 0.
        snapped: depths lie three quarters into their bins. For 257 bins and sigma 0.8 m no bin is then on the density
            floor, in by one rounding and out by another, as is one of about a hundred thousand otherwise.
    """

    form: str = "released"
    dtype: str = "float32"
    head_dtype: str = ""
    size: tuple[int, int, int, int] = (1, 16, 5, 7)
    teachers: int = 2
    num_bins: int = 49
    sigma: float = 1.5
    sigma_share: float = 0.0
    log_bins: bool = False
    layout: str = "contiguous"
    with_kl: bool = True
    snapped: bool = False
    logit_scale: float = 4.0
    programs: int = 512

    @property
    def bins(self) -> Bins:
        return LogBins(2.0, 80.0, self.num_bins) if self.log_bins else Bins.uniform(1e-3, 80.0, self.num_bins)


CASES = {
    f"{form} {name}": case
    for form in ("released", "gaussian")
    for name, case in {
        "two teachers": Case(form),
        "bfloat16": Case(form, "bfloat16", teachers=1),
        "float16": Case(form, "float16", teachers=1),
        "bfloat16 features of autocast": Case(form, "bfloat16", "float32", num_bins=19, sigma=3.0),
        "257 bins": Case(form, size=(1, 8, 5, 7), teachers=1, num_bins=257, sigma=0.8),
        "tiles and blocks of channels": Case(form, size=(2, 72, 5, 9), teachers=1, num_bins=35, programs=6),
        "log bins, growing width": Case(form, sigma_share=0.05, log_bins=True, teachers=1),
        "channels_last": Case(form, layout="channels_last", size=(2, 3, 5, 7), num_bins=19, sigma=3.0),
        "slices": Case(form, layout="slices", teachers=1, num_bins=19, sigma=3.0),
        "depth alone": Case(form, with_kl=False, num_bins=19, sigma=3.0),
    }.items()
} | {"released student probabilities of 0": Case(logit_scale=100.0, teachers=1)}


@dataclass(frozen=True)
class Errors:
    """How far from the oracle: depth in metres, KL, gradients relative to the largest of each; and other findings.

    Attributes:
        unweighted_kl: the largest KL of the pixels that no teacher answers.
    """

    depth: float
    kl: float
    features: float
    weight: float
    bias: float
    unweighted_kl: float
    dtypes: list[str]
    same_strides: bool
    repeatable: bool


def problem(case: Case, device: str = "cpu") -> dict[str, torch.Tensor]:
    """features, weight, bias (with gradients), teacher_depth [B,T,H,W] (NaN where it does not count) and weights."""
    g = torch.Generator().manual_seed(7)
    batch, channels, height, width = case.size
    dtype, head_dtype = (getattr(torch, name) for name in (case.dtype, case.head_dtype or case.dtype))
    low, high = case.bins.min_depth + 0.5, case.bins.max_depth
    depth = torch.rand(batch, case.teachers, height, width, generator=g) * (high - low) + low
    if case.snapped:
        step = (case.bins.max_depth - case.bins.min_depth) / case.num_bins
        depth = ((depth - case.bins.min_depth) / step).floor().add(0.75) * step + case.bins.min_depth
    weights = torch.rand(depth.shape, generator=g)
    weights[torch.rand(depth.shape, generator=g) < 0.4] = 0
    weights /= weights.sum(1, keepdim=True).clamp(min=1e-9)
    wide = 2 * width if case.layout == "slices" else width
    features = torch.randn(batch, channels, height, wide, generator=g).to(device, dtype)
    if case.layout == "channels_last":
        features = features.contiguous(memory_format=torch.channels_last)
    tensors = {
        "features": features[..., ::2] if case.layout == "slices" else features,
        "weight": (case.logit_scale / channels**0.5 * torch.randn(case.num_bins, channels, 1, 1, generator=g)).to(
            device, head_dtype
        ),
        "bias": torch.randn(case.num_bins, generator=g).to(device, head_dtype),
    }
    tensors = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
    depth = torch.where(weights > 0, depth, torch.nan)
    return {**tensors, "teacher_depth": depth.to(device), "weights": weights.to(device)}


def oracle(case: Case, p: dict[str, torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Both maps and the three gradients from `dpm_kl` and `dpm_to_depth`, in float32 on the rounded inputs."""
    features, weight, bias = (p[name].detach() for name in INPUTS)
    weight = weight.to(features.dtype)
    features, weight, bias = (x.float().requires_grad_() for x in (features, weight, bias))
    logits = torch.einsum("bchw,kc->bkhw", features, weight[:, :, 0, 0]) + bias[:, None, None]
    kl_map = torch.zeros_like(p["weights"][:, :1])
    for t in range(case.teachers if case.with_kl else 0):
        kl_map = kl_map + p["weights"][:, t : t + 1] * _kl(case, logits, p["teacher_depth"][:, t : t + 1])
    maps = [kl_map, dpm_to_depth(torch.softmax(logits, dim=1), case.bins)]
    return [m.detach() for m in maps], _gradients(maps, [features, weight, bias])


def _kl(case: Case, logits: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
    counts = ~depth.isnan()
    if not case.sigma_share:
        return dpm_kl(logits, depth, case.bins, case.sigma, case.form, counts)
    kl_map = torch.zeros_like(depth)
    for b, _, y, x in counts.nonzero().tolist():  # one width a pixel
        pixel = (slice(b, b + 1), slice(None), slice(y, y + 1), slice(x, x + 1))
        sigma = max(case.sigma, case.sigma_share * float(depth[pixel]))
        kl_map[pixel] = dpm_kl(logits[pixel], depth[pixel], case.bins, sigma, case.form)
    return kl_map


def _gradients(maps: list[torch.Tensor], inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(11)
    upstream = [torch.randn(m.shape, generator=g).to(m.device) for m in maps]
    loss = sum((u * m).sum() for u, m in zip(upstream, maps, strict=True))
    assert isinstance(loss, torch.Tensor)
    return list(torch.autograd.grad(loss, inputs))


def errors(case: Case, device: str = "cpu") -> Errors:
    """Run the case both ways, and on a GPU the Triton way a second time."""
    p = problem(case, device)
    inputs = [p[name] for name in INPUTS]
    arguments = (*inputs, p["teacher_depth"], p["weights"], case.bins.centers, case.sigma, case.sigma_share, case.form)
    with mock.patch.object(fused_triton, "HEAD_PROGRAMS", case.programs):
        maps = list(dpm_terms_triton(*arguments, case.with_kl))
        gradients = _gradients(maps, inputs)
        again = list(dpm_terms_triton(*arguments, case.with_kl)) if device != "cpu" else maps
        gradients_again = _gradients(again, inputs) if device != "cpu" else gradients
    maps, again = ([m.detach() for m in x] for x in (maps, again))
    (kl, depth), right_gradients = oracle(case, p)
    relative = [
        float((mine.float() - right).abs().max() / right.abs().max())
        for mine, right in zip(gradients, right_gradients, strict=True)
    ]
    nobody = (p["weights"] == 0).all(1, keepdim=True)
    return Errors(
        float((maps[1] - depth).abs().max()), float((maps[0] - kl).abs().max()), *relative,
        float(maps[0][nobody].abs().max()) if nobody.any() else 0.0,
        [str(x.dtype).removeprefix("torch.") for x in [*maps, *gradients]],
        gradients[0].stride() == p["features"].stride(),
        all(torch.equal(a, b) for a, b in zip([*maps, *gradients], [*again, *gradients_again], strict=True)),
    )  # fmt: skip


def main() -> None:
    """Print {"lazy": whether triton was not imported before, "cases": {name: Errors}}."""
    lazy = "triton" not in sys.modules
    sys.stdout.write(json.dumps({"lazy": lazy, "cases": {name: asdict(errors(case)) for name, case in CASES.items()}}))


if __name__ == "__main__":
    main()
