"""A recipe runs both stages once, skips what is done, goes on where it stopped, and refuses changed settings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tiekd_cache.errors import ConfigError
from tiekd_cache.pipeline import mean_depth, run_recipe
from tiekd_cache.recipe import read_recipe
from tiekd_cache.store import open_store

RECIPE = """
device = "cpu"
baselines = true
[data.synthetic]
train_frames = 2
test_frames = 1
[teacher]
name = "lidar"
[student]
name = "timm:lcnet_035"
pretrained = false
decoder_width = 0.125
num_bins = 33
[loss]
form = "gaussian"
sigma = 2.5
[train]
steps = 2
batch_size = 1
crop = [64, 96]
workers = 0
picture_frames = 1
[evaluate]
flip_average = false
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "small.toml").write_text(RECIPE)
    return folder / "small.toml"


@pytest.mark.slow
def test_both_stages_then_nothing_to_do_then_other_settings(recipe_file: Path) -> None:
    out = recipe_file.parent / "out"
    recipe = read_recipe(recipe_file, (f"out={out}",))
    said: list[str] = []
    report = run_recipe(recipe, note=said.append)
    assert [who for who, _ in report.rows] == ["student, untrained", "mean depth", "student, distilled"]
    assert all(result.ground_truth is not None and result.gt_frames == 1 for _, result in report.rows)
    evaluation = json.loads((report.run / "evaluation.json").read_text())
    assert list(evaluation["baselines"]) == ["student, untrained", "mean depth"]
    assert evaluation["ground_truth"] == report.rows[-1][1].ground_truth
    assert [image["ground_truth"] for image in evaluation["images"]] == [evaluation["ground_truth"]]
    written = {path: path.stat().st_mtime_ns for path in (report.run / "best.pt", Path(report.store, "zarr.json"))}

    again = run_recipe(recipe, note=said.append)
    assert "finished already" in " ".join(said)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert [result.ground_truth for _, result in again.rows] == [result.ground_truth for _, result in report.rows]

    with pytest.raises(ConfigError, match=r"other settings: loss\.sigma \(2\.5, now 1\.0\)\. Remove it"):
        run_recipe(read_recipe(recipe_file, (f"out={out}", "loss.sigma=1.0")), note=said.append)

    store = open_store(report.store)
    maps = np.stack([store[frame_id][110:] for frame_id in store])
    assert mean_depth(store) == pytest.approx(float(maps[maps > 0].mean()), rel=1e-5)


def test_a_recipe_names_what_it_departs_in_and_its_own_place(recipe_file: Path) -> None:
    recipe = read_recipe(recipe_file)
    assert recipe.out == "runs/small"
    assert recipe.store_path == Path("runs/small/lidar.zarr")
    assert recipe.kitti_root == Path("runs/small/kitti")
    assert recipe.loss.alpha == 0.1  # a default
    with pytest.raises(ConfigError, match=r"data\.synthetic\.frames"):
        read_recipe(recipe_file, ("data.synthetic.frames=3",))
