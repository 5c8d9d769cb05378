"""Stage one's benchmark runs every way over every frame and reports what it measured. Times are not compared here."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from fakes import FormulaTeacher, MemoryFrames
from test_precompute_pipeline import SmallNetwork

from tiekd_cache.bench import RepeatedFrames, bench_precompute
from tiekd_cache.cli import main
from tiekd_cache.errors import ConfigError
from tiekd_cache.precompute import PrecomputeConfig
from tiekd_cache.store import open_store

CONFIG = PrecomputeConfig(batch_size=2, shard_frames=2, flip_average=True)


def test_every_way_answers_every_frame(tmp_path: Path) -> None:
    source = RepeatedFrames(MemoryFrames(3), 5)
    rows = bench_precompute(SmallNetwork(), source, CONFIG, tmp_path, repeats=2)
    assert {row.way for row in rows} == {"stage one", "forward passes alone", "one by one, PNG16"}
    by_way = {row.way: row for row in rows}
    bare = by_way["forward passes alone"]
    assert bare.ratio == 1
    for row in rows:
        assert row.frames == 5
        assert row.ratio == pytest.approx(row.frames_per_second / bare.frames_per_second)
    store = open_store(tmp_path / "bench.zarr")
    assert list(store) == source.frame_ids
    for number, frame_id in enumerate(store):
        png = cv2.imread(str(tmp_path / "png" / f"{number:06d}.png"), cv2.IMREAD_UNCHANGED)
        assert png is not None
        assert np.abs(png / 256 - store[frame_id]).max() <= 1 / 128 + 1 / 256 + 1e-4


def test_repeated_frames_are_the_same_pictures_under_other_names() -> None:
    inner = MemoryFrames(3)
    source = RepeatedFrames(inner, 7)
    assert len(set(source.frame_ids)) == 7
    again = source.load(source.frame_ids[4])
    assert again.frame_id == source.frame_ids[4]
    assert np.array_equal(again.image, inner.load(inner.frame_ids[1]).image)


def test_a_formula_has_no_forward_pass(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="formula is no network"):
        bench_precompute(FormulaTeacher(), MemoryFrames(1), CONFIG, tmp_path)


@pytest.mark.slow
def test_the_command_prints_a_row_a_way() -> None:
    command = ["bench", "precompute", "--frames", "1", "--repeats", "1", "--no-flip", "--json", "--device", "cpu"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)) == 3
