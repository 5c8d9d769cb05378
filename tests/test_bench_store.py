"""The store's benchmark measures what it says: every way gives the depth back, and the table, JSON and plot are whole.

Times are never compared here; bytes and errors are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from tiekd_cache.bench import bench_store, make_maps, plot_store_bench, read_maps
from tiekd_cache.bench.coders import all_coders
from tiekd_cache.cli import main
from tiekd_cache.errors import DataError, ShapeError

pytest.importorskip("PIL", reason="the benchmark compares with Pillow, which is not installed")

ROOT = Path(__file__).resolve().parents[1]
SIZE = (64, 96)
HALF_STEP = 1 / 128
WAYS = ["PNG16 Pillow", "tiekd-cache", "tiekd-cache, fine step", "PNG16 OpenCV", "HDF5 gzip", "Blosc, no prediction"]


def test_every_way_gives_the_depth_back_and_the_store_is_smallest() -> None:
    rows = bench_store(make_maps(SIZE, frames=2), repeats=2)
    assert [row.coder for row in rows] == 2 * WAYS
    for teacher in ("synthetic full", "synthetic half"):
        of_teacher = {row.coder: row for row in rows if row.maps == teacher}
        ours, reference = of_teacher["tiekd-cache"], of_teacher["PNG16 Pillow"]
        assert (reference.bytes_ratio, reference.encode_ratio, reference.read_ratio) == (1, 1, 1)
        assert ours.max_error_m <= HALF_STEP + 1e-6
        assert max(row.max_error_m for row in of_teacher.values()) <= HALF_STEP + 1e-5
        assert ours.num_bytes < 0.6 * min(row.num_bytes for row in rows if not row.coder.startswith("tiekd"))
        fine = of_teacher["tiekd-cache, fine step"]
        assert fine.max_error_m <= 11 / 8192 / 2 + 1e-5
        assert ours.num_bytes < fine.num_bytes < min(row.num_bytes for row in rows if not row.coder.startswith("tiekd"))
        assert ours.bytes_ratio == ours.num_bytes / reference.num_bytes
        for row in of_teacher.values():
            assert min(row.encode_ms, row.decode_ms, row.read_ms) > 0
            assert row.read_ratio == row.read_ms / reference.read_ms


def test_made_up_maps_are_the_same_each_time_and_in_range() -> None:
    full, half = make_maps(SIZE, frames=1)
    assert np.array_equal(full.native, make_maps(SIZE, frames=1)[0].native)
    assert full.full_resolution
    assert not half.full_resolution
    assert half.native.shape == (1, 32, 48)
    assert half.at_image_size().shape == full.at_image_size().shape == (1, *SIZE)
    for maps in (full, half):
        assert maps.native.min() > 0
        assert maps.native.max() <= 80


def test_the_bytes_counted_are_those_of_files_on_the_disk(tmp_path: Path) -> None:
    (full, _) = make_maps(SIZE, frames=3)
    pillow, ours, *_ = all_coders(full)
    for coder in (pillow, ours):
        (tmp_path / coder.name).mkdir()
        coder.write(tmp_path / coder.name)
    files = sorted((tmp_path / pillow.name).iterdir())
    assert [file.stat().st_size for file in files] == [pillow.num_bytes(pillow.encode(i)) for i in range(3)]
    levels = cv2.imread(str(files[1]), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(levels, np.rint(full.native[1] * np.float32(65535 / 80)))
    shard = tmp_path / ours.name / "bench.zarr" / "residual" / "c" / "0" / "0" / "0"
    chunks = sum(ours.num_bytes(ours.encode(i)) for i in range(3)) - 3 * 20
    assert shard.stat().st_size == chunks + 16 * 64 + 4, "chunks, then the index of 64 frames with its checksum"


@pytest.mark.slow
def test_the_command_prints_a_table_or_json_and_draws(tmp_path: Path) -> None:
    np.savez(tmp_path / "maps.npz", full=make_maps(SIZE, 1)[0].native, small=make_maps(SIZE, 1)[1].native[0])
    options = ["--maps", str(tmp_path / "maps.npz"), "--image-size", "64x96", "--repeats", "1"]
    table = CliRunner().invoke(main, ["bench", "store", *options, "--plot", str(tmp_path / "p.png")])
    assert table.exit_code == 0, table.output
    assert len([line for line in table.stdout.splitlines() if line.startswith(("full", "small"))]) == 12
    picture = cv2.imread(str(tmp_path / "p.png"))
    assert picture is not None
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10
    said = CliRunner().invoke(main, ["bench", "store", *options, "--json"])
    rows = json.loads(said.stdout)
    assert [(row["maps"], row["coder"]) for row in rows] == [(m, w) for m in ("full", "small") for w in WAYS]


def test_the_script_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "store.py", "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Bytes and times of the store" in done.stdout


def test_without_pillow_it_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    result = CliRunner().invoke(main, ["bench", "store", "--image-size", "16x32"])
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert len(errors) == 1
    assert "pip install 'tiekd-cache[bench]'" in errors[0]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((4, 4), 200.0), "200 m"),
        (np.zeros((2, 4, 4)), "0 .. 0 m"),
        (np.full((4, 4), np.nan), "nan .. nan m"),
        (np.ones(4), "float64 4"),
        (np.ones((300, 4)), "larger than the picture"),
        (np.array([["a"]]), "<U1 1x1"),
    ],
)
def test_maps_that_are_no_depth_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "maps.npz", odd=array)
    with pytest.raises(DataError, match=message) as caught:
        read_maps(tmp_path / "maps.npz", SIZE)
    assert "maps.npz" in str(caught.value)


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "maps.npz").write_bytes(b"PK\x03\x04 nothing")
    for name in ("maps.npz", "absent.npz"):
        with pytest.raises(DataError, match=name):
            read_maps(tmp_path / name, SIZE)


def test_a_plot_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="no bars"):
        plot_store_bench([], tmp_path / "p.png")
