"""The compiled passes of the fused head equal torch's; torch takes over where numba is absent."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tiekd_cache.losses.fused_passes import NumbaPasses, TorchPasses, passes_for

CPU = torch.device("cpu")


def compiled_passes() -> NumbaPasses:
    pytest.importorskip("numba", reason="numba cannot be imported here")
    passes = passes_for(torch.float32, CPU)
    assert isinstance(passes, NumbaPasses)
    return passes


@pytest.mark.parametrize(("num_bins", "num_pixels"), [(2, 1), (33, 7), (257, 1014)])
@pytest.mark.parametrize("scale", [0.1, 3.0, 200.0])
def test_compiled_passes_equal_those_of_torch_in_float64(num_bins: int, num_pixels: int, scale: float) -> None:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(num_bins, num_pixels, generator=g) * scale
    centers = torch.linspace(0.2, 80, num_bins)
    everywhere, of_depth = torch.randn(2, num_pixels, generator=g).unbind()
    given, exact = logits.clone(), TorchPasses()
    norm, depth = compiled_passes().moments(given, centers)
    exact_norm, exact_depth = exact.moments(logits.double(), centers.double())
    assert torch.equal(given, logits)
    torch.testing.assert_close(norm.double(), exact_norm, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(depth.double(), exact_depth, rtol=3e-6, atol=1e-6)
    log_probability = logits - norm
    expected = exact.slope(log_probability.double(), *(x.double() for x in (centers, everywhere, of_depth)))
    slope = compiled_passes().slope(log_probability, centers, everywhere, of_depth)
    assert slope is log_probability
    torch.testing.assert_close(slope.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_exponential_is_exact_to_two_units_in_the_last_place() -> None:
    x = torch.cat([torch.linspace(-87, 1e-3, 100_000), torch.zeros(1), torch.tensor([-1e4, -torch.inf])])[None]
    ones = torch.ones(x.shape[1])
    found = compiled_passes().slope(x.clone(), torch.zeros(1), ones, torch.zeros_like(ones)).double()
    assert float(found[0, -3]) == 1
    assert float(found[0, -2:].max()) < 2e-38
    expected = x[:, :-3].double().exp()
    assert float(((found[:, :-3] - expected) / expected).abs().max()) <= 2 * 2**-23


def test_what_is_not_a_number_stays_so() -> None:
    logits = torch.zeros(3, 4)
    logits[1, 2] = torch.nan
    norm, depth = compiled_passes().moments(logits, torch.arange(3.0))
    assert norm.isnan().tolist() == depth.isnan().tolist() == [False, False, True, False]
    slope = compiled_passes().slope(logits, torch.arange(3.0), torch.ones(4), torch.ones(4))
    assert slope.isnan().nonzero().tolist() == [[1, 2]]


def test_torch_does_what_is_not_float32_on_the_cpu() -> None:
    assert isinstance(passes_for(torch.float64, CPU), TorchPasses)
    assert isinstance(passes_for(torch.float32, torch.device("meta")), TorchPasses)


def test_numba_is_loaded_when_used_and_torch_does_without_it() -> None:
    code = (
        "import sys, torch\n"
        "from tiekd_cache.losses import fused_passes\n"
        "assert 'numba' not in sys.modules\n"
        "sys.modules['numba'] = None\n"
        "print(type(fused_passes.passes_for(torch.float32, torch.device('cpu'))).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "TorchPasses"), done.stderr
