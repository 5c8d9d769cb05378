"""The benchmark of losses trains what its file says, once, and writes the table."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from tiekd_cache.metrics import METRICS

ROOT = Path(__file__).resolve().parents[1]

SMALL = """
[recipe]
device = "cpu"
[recipe.data.synthetic]
test_frames = 2
[recipe.teacher]
name = "lidar"
[recipe.student]
pretrained = false
decoder_width = 0.125
num_bins = 33
[recipe.train]
batch_size = 1
crop = [64, 96]
workers = 0
picture_frames = 1
[recipe.evaluate]
flip_average = false
[losses]
"baseline" = { name = "baseline" }
"TIE-KD Gaussian 2.5" = { form = "gaussian", sigma = 2.5 }
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_losses", ROOT / "benchmarks" / "compare_losses.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    (tmp_path / "small.toml").write_text(SMALL)
    return tmp_path / "small.toml"


def test_a_recipe_for_each_loss_and_seed(script: ModuleType, settings: Path, tmp_path: Path) -> None:
    options = {"student": "resnet18", "steps": 7, "frames": 3, "seeds": 2}
    recipes = script.recipes_of(settings, tmp_path / "out", **options)
    assert list(recipes) == ["baseline", "TIE-KD Gaussian 2.5"]
    gaussian = recipes["TIE-KD Gaussian 2.5"]
    assert [recipe.train.seed for recipe in gaussian] == [0, 1]
    assert [Path(recipe.out).name for recipe in gaussian] == ["tie-kd-gaussian-2.5-0", "tie-kd-gaussian-2.5-1"]
    assert (gaussian[0].loss.form, gaussian[0].loss.sigma, gaussian[0].train.steps) == ("gaussian", 2.5, 7)
    every = [recipe for runs in recipes.values() for recipe in runs]
    assert {recipe.store_path for recipe in every} == {tmp_path / "out" / "lidar.zarr"}
    assert {recipe.kitti_root for recipe in every} == {tmp_path / "out" / "kitti"}
    assert list(script.recipes_of(settings, tmp_path, only=("baseline",), **options)) == ["baseline"]
    said = CliRunner().invoke(script.main, ["--settings", str(settings), "--loss", "basline"])
    assert said.exit_code == 1
    assert "no loss 'basline'. It has: baseline, TIE-KD Gaussian 2.5" in said.output


def test_the_table_has_means_and_spread_over_seeds(script: ModuleType) -> None:
    def run(value: float, far: float | None) -> dict[str, Any]:
        ranges = {"40-80": {"metrics": None if far is None else {"abs_rel": far}}}
        return {"ground_truth": dict.fromkeys(METRICS, value), "ranges": ranges}

    lines = script.table_of({"a": [run(0.1, 0.5), run(0.3, None)], "b": [run(0.2, None)]})
    assert lines[0] == "| loss | abs_rel | rmse | silog | a1 | abs_rel 40-80 m |"
    assert lines[2] == "| a | " + " | ".join(["0.2000 ± 0.1414"] * 4) + " | 0.5000 |"
    assert lines[3] == "| b | " + " | ".join(["0.2000"] * 4) + " | - |"


@pytest.mark.slow
def test_every_loss_is_trained_once_and_not_again(script: ModuleType, settings: Path, tmp_path: Path) -> None:
    command = ["--student", "resnet18", "--steps", "2", "--frames", "2", "--seeds", "2", "--settings", str(settings)]
    first = CliRunner().invoke(script.main, [*command, "--out", str(tmp_path / "out")])
    assert first.exit_code == 0, first.output
    table = (tmp_path / "out" / "losses.md").read_text()
    assert "resnet18, 2 frames, 2 steps, 2 seed(s), tested on 2 frames" in table
    assert table.count("±") == 2 * 7
    weights = sorted((tmp_path / "out").glob("*/run/best.pt"))
    assert len(weights) == 4
    times = [path.stat().st_mtime_ns for path in weights]
    again = CliRunner().invoke(script.main, [*command, "--out", str(tmp_path / "out")])
    assert again.exit_code == 0
    assert [path.stat().st_mtime_ns for path in weights] == times
    assert "loss" not in again.stderr.replace("baseline, seed", "")
    assert (tmp_path / "out" / "losses.md").read_text() == table
