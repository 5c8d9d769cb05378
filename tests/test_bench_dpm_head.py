"""The head's benchmark computes the same three times, and reports times and memory. Times are not compared here."""

from __future__ import annotations

import ctypes
import json
import mmap
import time

import pytest
import torch
from click.testing import CliRunner

from tiekd_cache.bench import HeadSize, bench_head
from tiekd_cache.bench import dpm_head as bench_module
from tiekd_cache.bench.measuring import peak_memory
from tiekd_cache.cli import main
from tiekd_cache.dpm import Bins
from tiekd_cache.errors import ConfigError, DeviceError


def test_every_way_computes_the_same() -> None:
    bins, g = Bins.uniform(1e-3, 80.0, 65), torch.Generator().manual_seed(0)
    features = torch.randn(1, 6, 5, 7, generator=g).requires_grad_()
    head = torch.nn.Conv2d(6, 65, 1)
    depth = torch.rand(1, 1, 5, 7, generator=g) * 79 + 0.5
    outcomes = []
    for way in bench_module.PRODUCTS:
        kl, student_depth = bench_module._terms(way, features, head, depth, bins, 0.8)
        (gradient,) = torch.autograd.grad(kl + student_depth.mean(), features)
        outcomes.append((kl, student_depth, gradient))
    for other in outcomes[1:]:
        torch.testing.assert_close(other, outcomes[0], rtol=1e-4, atol=1e-4)


def test_peak_memory_is_that_of_what_was_made_and_dropped() -> None:
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)  # what earlier tests left would be used again
    with peak_memory(torch.device("cpu")) as peak:
        made = mmap.mmap(-1, 80_000_000)  # not from malloc, which may still hold as much of what was freed before
        for page in range(0, len(made), mmap.PAGESIZE):
            made[page] = 1
        patience = time.monotonic() + 120
        while peak[0] < 60e6 and time.monotonic() < patience:  # on a busy machine the watcher comes late
            time.sleep(0.01)
        made.close()
    assert 60e6 < peak[0] < 200e6


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="float8"):
        HeadSize(dtype="float8")
    with pytest.raises(DeviceError, match="npu"):
        HeadSize(device="npu")


@pytest.mark.slow
def test_less_memory_than_the_plain_formulas_and_a_row_a_way() -> None:
    rows = {row.way: row for row in bench_head(HeadSize(batch=1, channels=32, height=200, width=300), repeats=1)}
    assert set(rows) == set(bench_module.PRODUCTS)
    assert rows["plain"].memory_ratio == rows["plain"].time_ratio == 1
    assert rows["fused"].memory_ratio > 5
    assert rows["fused"].peak_mb >= 32 * 200 * 300 * 4 / 1e6  # the gradient itself
    assert all(0 < row.matmul_share < 2 and row.copy_share > 0 for row in rows.values())


@pytest.mark.slow
def test_the_command_prints_a_row_a_way() -> None:
    command = ["bench", "head", "--height", "20", "--width", "30", "--channels", "4", "--repeats", "1", "--json"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert [row["way"] for row in json.loads(result.stdout)] == list(bench_module.PRODUCTS)
