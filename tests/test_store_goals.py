"""What the store promises on real maps: bytes, error, and what rounding does to the teacher's distributions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tiekd_cache.bench import BenchMap, make_maps
from tiekd_cache.bench.coders import STEP, StoreCoder, pillow_coder
from tiekd_cache.dpm import Bins
from tiekd_cache.losses import dpm_kl
from tiekd_cache.store.codec import FINE_STEP

IMAGE_SIZE = (352, 1216)
HALF_STEP = 1 / 128
# Share of 16-bit PNG by Pillow, for each kind of map.
MOST_BYTES = {
    "real_mono_native_x4": 0.13,
    "real_stereo": 0.32,
    "synthetic_full_002": 0.32,
    "synthetic_full_010": 0.45,
    "synthetic_half_native_002": 0.13,
}
SIGMA_M = 0.5
BINS = Bins.uniform(1e-3, 80.0, 257)


@pytest.fixture(scope="module")
def teachers(shared_dir: Path) -> dict[str, npt.NDArray[np.float32]]:
    with np.load(shared_dir / "depth_maps" / "depth_maps.npz") as file:
        return {name: file[name] for name in MOST_BYTES}


@pytest.mark.shared
@pytest.mark.parametrize("name", list(MOST_BYTES))
def test_bytes_and_error_on_real_maps(teachers: dict[str, npt.NDArray[np.float32]], name: str) -> None:
    pytest.importorskip("PIL", reason="the promise is in shares of Pillow's PNG, which is not installed")
    maps = BenchMap(name, teachers[name], IMAGE_SIZE)
    ours, png = StoreCoder(maps), pillow_coder(maps.at_image_size())
    kept = [ours.encode(i) for i in range(len(maps.native))]
    reference = sum(png.num_bytes(png.encode(i)) for i in range(len(maps.native)))
    assert sum(ours.num_bytes(data) for data in kept) <= MOST_BYTES[name] * reference
    for data, expected in zip(kept, maps.at_image_size(), strict=True):
        error = np.abs(ours.decode(data).astype(np.float64) - expected).max()
        assert error <= HALF_STEP + (0 if maps.full_resolution else 1e-5)


@pytest.mark.shared
@pytest.mark.parametrize("halved", ["one pixel of four", "mean of four"])
def test_a_real_map_at_half_resolution_takes_an_eighth_of_its_png(
    teachers: dict[str, npt.NDArray[np.float32]], halved: str
) -> None:
    pytest.importorskip("PIL", reason="the promise is in shares of Pillow's PNG, which is not installed")
    [full] = teachers["real_stereo"]
    four = np.stack([full[::2, ::2], full[::2, 1::2], full[1::2, ::2], full[1::2, 1::2]])
    half = four[:1] if halved == "one pixel of four" else four.mean(0, keepdims=True)
    ours, png = StoreCoder(BenchMap("half", half, IMAGE_SIZE), STEP), pillow_coder(full[None])
    kept = ours.encode(0)
    assert STEP == 1 / 64
    assert ours.num_bytes(kept) <= 0.13 * png.num_bytes(png.encode(0))
    assert np.abs(ours.decode(kept) - BenchMap("half", half, IMAGE_SIZE).at_image_size()[0]).max() <= HALF_STEP + 1e-5


def worst_kl(depth: npt.NDArray[np.float32], decoded: npt.NDArray[np.float32], form: str) -> float:
    """Largest KL(original || decoded) of any pixel at sigma 0.5 m, summed over 257 bins; float64, row by row.

    "gaussian" is the library's normalised Gaussian; "softmax" the softmax of the Gaussian's density, the released form
    without its floor (which makes a distribution jump where a bin crosses it, by any change of depth).
    """
    worst = 0.0
    for original, kept in zip(depth, decoded, strict=True):
        of_original, of_kept = (torch.from_numpy(row.astype(np.float64))[None, None, None] for row in (original, kept))
        if form == "gaussian":
            logits = -((BINS.centers.double()[None, :, None, None] - of_kept) ** 2) / (2 * SIGMA_M**2)
            kl = dpm_kl(logits, of_original, BINS, sigma=SIGMA_M, form="gaussian")
        else:
            log_p, log_q = softmax_of_density(of_original), softmax_of_density(of_kept)
            kl = (log_p.exp() * (log_p - log_q)).sum(dim=1)
        worst = max(worst, float(kl.max()))
    return worst


def softmax_of_density(depth: torch.Tensor) -> torch.Tensor:
    """Logarithms, [1,257,1,W]."""
    density = torch.distributions.Normal(depth, SIGMA_M).log_prob(BINS.centers.double()[None, :, None, None]).exp()
    return torch.log_softmax(density, dim=1)


# (form of the DPM, step): a Gaussian moved by half a step is (step / 2)^2 / (2 sigma^2) away, whatever holds the depth.
# A depth wrong by 1 % at 20 m has 0.08.
MOST_KL = {("softmax", STEP): 1e-6, ("gaussian", STEP): 1.25e-4, ("gaussian", FINE_STEP): 1e-6}


@pytest.mark.shared
@pytest.mark.parametrize(("form", "step"), list(MOST_KL))
@pytest.mark.parametrize("name", ["real_stereo", "synthetic_full_010", "synthetic_half_native_002"])
def test_rounding_is_nothing_to_the_distributions_of_real_maps(
    teachers: dict[str, npt.NDArray[np.float32]], name: str, form: str, step: float
) -> None:
    maps = BenchMap(name, teachers[name][:1], IMAGE_SIZE)
    coder = StoreCoder(maps, step)
    decoded = coder.decode(coder.encode(0))
    assert worst_kl(maps.at_image_size()[0, ::16], decoded[::16], form) <= MOST_KL[form, step]


@pytest.mark.parametrize(("form", "step"), list(MOST_KL))
def test_rounding_is_nothing_to_the_distributions_of_made_up_maps(form: str, step: float) -> None:
    for maps in make_maps((64, 96), frames=1):
        coder = StoreCoder(maps, step)
        decoded = coder.decode(coder.encode(0))
        expected = maps.at_image_size()[0]
        assert 0 < worst_kl(expected, decoded, form) <= MOST_KL[form, step]
        spoiled = np.clip(decoded * 1.01, 1e-3, 80).astype(np.float32)
        assert worst_kl(expected, spoiled, form) > 10 * MOST_KL[form, step]
