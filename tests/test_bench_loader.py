"""The loader's benchmark loads the same samples each way and reports what it measured. Times are not compared here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fakes import MemoryFrames

from tiekd_cache.bench import LoaderSettings, bench_loader, made_up_store
from tiekd_cache.bench.loader import _PngFolder
from tiekd_cache.cli import main
from tiekd_cache.data.normalize import normalize
from tiekd_cache.data.transforms import TrainTransform


def test_every_way_is_measured_and_compared_with_decoding(tmp_path: Path) -> None:
    source = MemoryFrames(3)
    store = made_up_store(source, tmp_path / "a.zarr")
    (tmp_path / "png").mkdir()
    rows = bench_loader(source, store, LoaderSettings(4, 2, 0, (48, 64)), tmp_path / "png", repeats=2)
    by_way = {row.way: row for row in rows}
    assert set(by_way) == {
        "the loader",
        "pictures decoded, nothing else",
        "PNG16 beside the pictures",
        "the loader, images from the store",
    }
    decoding = by_way["pictures decoded, nothing else"]
    assert decoding.ratio == 1
    for row in rows:
        assert (row.samples, row.workers) == (4, 0)
        assert row.ratio == pytest.approx(row.samples_per_second / decoding.samples_per_second)


def test_the_folder_of_png_files_has_the_same_depths_under_the_same_transform(tmp_path: Path) -> None:
    source = MemoryFrames(3)
    store = made_up_store(source, tmp_path / "a.zarr")
    transform = TrainTransform((48, 64), 0)
    folder = _PngFolder(source, store, transform, tmp_path)
    for epoch, index in ((0, 1), (1, 2), (2, 0)):
        image, depth = folder[(epoch, index)]
        frame_id = source.frame_ids[index]
        rng = np.random.default_rng((epoch, index))
        expected, response, _ = transform(source.load(frame_id).image, store[frame_id], None, rng)
        assert torch.equal(image, normalize(torch.from_numpy(expected)))
        assert np.abs(depth[0].numpy() - response).max() <= 1 / 256


def test_a_store_needs_its_pictures() -> None:
    result = CliRunner().invoke(main, ["bench", "loader", "--store", "a.zarr"])
    assert result.exit_code == 2
    assert "--store goes with --kitti" in result.output


@pytest.mark.slow
def test_the_command_prints_a_row_a_way() -> None:
    command = ["bench", "loader", "--samples", "4", "--batch-size", "2", "--repeats", "1", "--json", "--device", "cpu"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)) == 4
