"""The benchmark of stores by URL reads the same frames each way and reports them. Times are not compared here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from servers import FaultServer
from store_helpers import make_store

from tiekd_cache.bench import bench_remote
from tiekd_cache.bench.remote import CACHED, LOCAL
from tiekd_cache.cli import main
from tiekd_cache.errors import ConfigError


def test_every_way_is_measured_with_as_many_requests_as_asked(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr")
    place = str(tmp_path / "a.zarr")
    rows = bench_remote(place, local=tmp_path / "a.zarr", in_flight=(1, 3), frames=7, repeats=1)
    assert [(row.way, row.in_flight, row.frames) for row in rows] == [
        (LOCAL, 1, 7),
        (place, 1, 7),
        (LOCAL, 3, 7),
        (place, 3, 7),
    ]
    for local, other in zip(rows[::2], rows[1::2], strict=True):
        assert local.ratio == 1
        assert other.ratio == pytest.approx(other.frames_per_second / local.frames_per_second)
    alone = bench_remote(place, in_flight=(2,), frames=100, repeats=1)
    assert [(row.way, row.frames, row.ratio) for row in alone] == [(place, 10, None)]


def test_another_store_is_not_compared(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr")
    make_store(tmp_path / "b.zarr", count=6)
    with pytest.raises(ConfigError, match="the local folder are different stores"):
        bench_remote(str(tmp_path / "a.zarr"), local=tmp_path / "b.zarr")


@pytest.mark.slow
def test_the_command_reads_by_url(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr")
    with FaultServer(tmp_path) as server:
        url = f"{server.url}/a.zarr"
        command = ["bench", "remote", url, "--local", str(tmp_path / "a.zarr"), "--cache-dir", str(tmp_path / "cache")]
        result = CliRunner().invoke(
            main, [*command, "--in-flight", "1", "--in-flight", "4", "--repeats", "1", "--json"]
        )
    assert result.exit_code == 0, result.output
    rows = [(row["way"], row["in_flight"]) for row in json.loads(result.stdout)]
    assert rows == [(way, threads) for threads in (1, 4) for way in (LOCAL, url, CACHED)]
    assert any(path.startswith("a.zarr/residual/c/") for _, path, _ in server.requests)
    assert list((tmp_path / "cache").rglob("residual/c/*/*/*"))
