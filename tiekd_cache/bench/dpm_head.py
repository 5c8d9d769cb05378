"""The fused head against convolution and released formulas in plain torch: time and memory of a training step's part.

Every measurement has a process of its own, so that no way profits from the memory or the libraries of another; the
ways take turns, so that a machine that slows down slows all of them. Medians are compared.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from tiekd_cache.bench.measuring import alone, peak_memory, seconds_of
from tiekd_cache.device import describe_device, resolve_device
from tiekd_cache.dpm import Bins, dpm_to_depth
from tiekd_cache.errors import ConfigError
from tiekd_cache.losses.dpm_kl import EPSILON, dpm_kl
from tiekd_cache.losses.fused import fused_dpm_head
from tiekd_cache.progress import ProgressFactory, progress_bar

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FUSED, PLAIN, AS_WRITTEN = "fused", "plain", "plain, as written"
PRODUCTS = {FUSED: 4, PLAIN: 3, AS_WRITTEN: 3}
"""Ways, and the matrix products [K,C] x [C,pixels] that each does: logits (the fused head twice), two gradients."""


@dataclass(frozen=True)
class HeadSize:
    """What is measured: features of standard normal numbers, a small random head, depths all over the range.

    Attributes:
        batch, channels, height, width: of the features.
        num_bins: K, from 1e-3 to 80 m.
        sigma: metres.
        dtype: of features and head, one of `DTYPES`.
        device: as `resolve_device`.
    """

    batch: int = 2
    channels: int = 128
    height: int = 242
    width: int = 704
    num_bins: int = 257
    sigma: float = 0.5
    dtype: str = "float32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype = '{self.dtype}' is not known. Use one of: {', '.join(DTYPES)}.")
        resolve_device(self.device)


@dataclass(frozen=True)
class HeadRow:
    """One way to get loss and gradients from features.

    Attributes:
        way: `fused`; `plain`: nn.Conv2d, then `dpm_kl` and `dpm_to_depth`; `plain, as written`: the same formulas
            written down one by one as the release computes them, without what `depth_to_dpm` does to be fast.
        device: in words.
        seconds: forward and backward, the median.
        peak_mb: most memory beyond the inputs, gradients included, in 1e6 bytes, the median.
        time_ratio, memory_ratio: of `plain`'s to these.
        matmul_share: matrix products done, in operations a second, as a share of what the device does in one large
            product of this dtype.
        copy_share: features read twice and their gradient written, in bytes a second, as a share of a large copy's.
    """

    way: str
    device: str
    seconds: float
    peak_mb: float
    time_ratio: float
    memory_ratio: float
    matmul_share: float
    copy_share: float

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)


def bench_head(size: HeadSize, *, repeats: int = 3, progress: ProgressFactory = progress_bar) -> list[HeadRow]:
    """A row a way; raises DeviceError where a way does not fit into memory."""
    measured: dict[str, list[tuple[float, int]]] = {way: [] for way in PRODUCTS}
    with progress(repeats * len(measured) + 1, "bench head", "run") as bar:
        products_per_s, bytes_per_s = alone(measure_rates, size)
        bar.update(1)
        for _ in range(repeats):
            for way, outcomes in measured.items():
                outcomes.append(alone(measure_way, way, size))
                bar.update(1)
    seconds = {way: median(s for s, _ in outcomes) for way, outcomes in measured.items()}
    peaks = {way: median(p for _, p in outcomes) for way, outcomes in measured.items()}
    pixels = size.batch * size.height * size.width
    operations = 2 * size.num_bins * size.channels * pixels
    moved = 3 * size.channels * pixels * DTYPES[size.dtype].itemsize
    return [
        HeadRow(
            way=way,
            device=describe_device(resolve_device(size.device)),
            seconds=seconds[way],
            peak_mb=peaks[way] / 1e6,
            time_ratio=seconds[PLAIN] / seconds[way],
            memory_ratio=peaks[PLAIN] / max(peaks[way], 1),
            matmul_share=PRODUCTS[way] * operations / seconds[way] / products_per_s,
            copy_share=moved / seconds[way] / bytes_per_s,
        )
        for way in PRODUCTS
    ]


def measure_way(way: str, size: HeadSize) -> tuple[float, int]:
    """(seconds of the second pass, peak bytes beyond the inputs of the first), in this process."""
    device, dtype = resolve_device(size.device), DTYPES[size.dtype]
    bins, g = Bins.uniform(1e-3, 80.0, size.num_bins), torch.Generator().manual_seed(0)
    shape = (size.batch, size.channels, size.height, size.width)
    features = torch.randn(shape, generator=g).to(device, dtype).requires_grad_()
    head = torch.nn.Conv2d(size.channels, size.num_bins, 1).to(device, dtype)
    teacher_depth = (torch.rand(size.batch, 1, *shape[2:], generator=g) * 79 + 0.5).to(device)

    def step() -> None:
        features.grad = None
        head.zero_grad()
        kl, depth = _terms(way, features, head, teacher_depth, bins, size.sigma)
        (kl + 0.01 * depth.mean()).backward()  # type: ignore[no-untyped-call]

    _once_on_little(way, features, head, teacher_depth, bins, size.sigma)
    with peak_memory(device) as peak:
        step()
    return seconds_of(step, device), peak[0]


def _once_on_little(
    way: str, features: torch.Tensor, head: torch.nn.Conv2d, teacher_depth: torch.Tensor, bins: Bins, sigma: float
) -> None:
    """A pass over a few pixels: libraries are loaded and loops compiled once a process, not once a step."""
    few = (..., slice(0, 2), slice(0, 2))
    kl, depth = _terms(way, features.detach()[few].requires_grad_(), head, teacher_depth[few], bins, sigma)
    (kl + depth.mean()).backward()  # type: ignore[no-untyped-call]


def measure_rates(size: HeadSize) -> tuple[float, float]:
    """(operations a second of a large matrix product, bytes a second read and written by a large copy)."""
    device, dtype = resolve_device(size.device), DTYPES[size.dtype]
    side = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.zeros(1 << 26, device=device)
    copy = source.clone()
    product_s = min(seconds_of(lambda: a @ b, device) for _ in range(5))
    copy_s = min(seconds_of(lambda: copy.copy_(source), device) for _ in range(5))
    return 2 * side**3 / product_s, 2 * source.nbytes / copy_s


def _terms(
    way: str, features: torch.Tensor, head: torch.nn.Conv2d, teacher_depth: torch.Tensor, bins: Bins, sigma: float
) -> tuple[torch.Tensor, torch.Tensor]:
    assert head.bias is not None
    if way == FUSED:
        return fused_dpm_head(features, head.weight, head.bias, teacher_depth, bins, sigma)
    logits = head(features)
    if way == PLAIN:
        kl = dpm_kl(logits, teacher_depth, bins, sigma).mean()
        return kl, dpm_to_depth(torch.softmax(logits.float(), dim=1), bins)
    kl_map, depth = released_formulas(logits, teacher_depth, bins, sigma)
    return kl_map.mean(), depth


def released_formulas(
    logits: torch.Tensor, teacher_depth: torch.Tensor, bins: Bins, sigma: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(KL to the teacher's DPM, expected depth), each [B,1,H,W], of logits [B,K,H,W], written down one by one.

    Source: the released code's sequence of operations; the bin centres are repeated to [B,K,H,W] there, too.
    """
    batch, _, height, width = logits.shape
    centers = bins.centers.to(logits.device)[None, :, None, None].repeat(batch, 1, height, width)
    density = 1 / math.sqrt(2 * math.pi * sigma**2) * torch.exp(-((centers - teacher_depth) ** 2) / (2 * sigma**2))
    teacher = torch.softmax(torch.where(density < 1e-16, -1000.0, density), dim=1)
    student = torch.softmax(logits.float(), dim=1)
    divergence = teacher * torch.log(teacher / (student + EPSILON) + EPSILON)
    kl_map = torch.where(student != 0, divergence, 0.0).sum(dim=1, keepdim=True)
    return kl_map, (student * centers).sum(dim=1, keepdim=True)
