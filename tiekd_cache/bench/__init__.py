"""Measuring store, both stages, loader and fused head against other ways to do the same, in one run on one machine."""

from __future__ import annotations

from tiekd_cache.bench.distill_step import OnlineTeacher, StepRow, bench_step
from tiekd_cache.bench.dpm_head import HeadRow, HeadSize, bench_head
from tiekd_cache.bench.loader import LoaderRow, LoaderSettings, bench_loader, made_up_store
from tiekd_cache.bench.maps import BenchMap, make_maps, read_maps
from tiekd_cache.bench.plot import plot_store_bench
from tiekd_cache.bench.precompute import RepeatedFrames, SpeedRow, bench_precompute
from tiekd_cache.bench.remote import RemoteRow, bench_remote
from tiekd_cache.bench.store import BenchRow, bench_store

__all__ = [
    "BenchMap",
    "BenchRow",
    "HeadRow",
    "HeadSize",
    "LoaderRow",
    "LoaderSettings",
    "OnlineTeacher",
    "RemoteRow",
    "RepeatedFrames",
    "SpeedRow",
    "StepRow",
    "bench_head",
    "bench_loader",
    "bench_precompute",
    "bench_remote",
    "bench_step",
    "bench_store",
    "made_up_store",
    "make_maps",
    "plot_store_bench",
    "read_maps",
]
