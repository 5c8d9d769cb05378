"""Both stages through the command line on NYU Depth v2 and on any pictures."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from command_line import fail, succeed, tiekd

from tiekd_cache.store import open_store
from tiekd_cache.teachers import load_teacher

SMALL = [
    "--student", "timm:lcnet_035", "--no-pretrained", "--batch-size", "1", "--crop", "64x96", "--decoder-width",
    "0.125", "--workers", "0", "--steps", "2", "--set", "student.num_bins=33", "--set", "train.picture_frames=1",
    "--device", "cpu",
]  # fmt: skip


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three small pictures that no network takes as they are."""
    rng = np.random.default_rng(0)
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        small = rng.integers(0, 256, (6, 9, 3)).astype(np.uint8)
        assert cv2.imwrite(str(tmp_path / "photos" / name), cv2.resize(small, (130, 90)))
    return tmp_path


@pytest.mark.slow
def test_pictures_of_any_size_get_depth_of_their_size(pictures: Path) -> None:
    command = ["precompute", "--teacher", "bts-resnet50", "--weights", "random:0", "--images", "photos/**/*.png"]
    said = succeed(*command, "--store", "p.zarr", "--device", "cpu", "--json", cwd=pictures)
    assert said.json["responses"] == 3
    assert "focal length 130 px (the width" in said.err
    store = open_store(pictures / "p.zarr")
    assert list(store) == ["a/1", "a/2", "b/1"]
    assert store.native("a/1").shape == (96, 128), "the nearest multiples of 32"
    assert store["a/1"].shape == (90, 130)
    teacher = load_teacher("bts-resnet50", weights="random:0")
    assert store.schema.teacher["digest"] == teacher.digest
    check = ["verify", "p.zarr", "--against-teacher", "1", "--images", "photos/**/*.png", "--device", "cpu", "--json"]
    assert succeed(*check, cwd=pictures).json["teacher"]["problems"] == []


def test_the_labelled_nyu_file_is_cached_with_its_own_range_and_step(tmp_path: Path) -> None:
    depth = np.linspace(0.8, 9.5, 640, dtype=np.float32)[None].repeat(480, 0)
    depth[::2] = 0
    with h5py.File(tmp_path / "nyu.mat", "w") as file:
        file["images"] = np.zeros((1, 3, 640, 480), np.uint8)
        file["depths"] = depth.T[None]
    succeed("precompute", "--teacher", "lidar", "--nyu", "nyu.mat", "--store", "n.zarr", cwd=tmp_path)
    store = open_store(tmp_path / "n.zarr")
    assert (store.schema.max_depth, store.schema.step) == (10.0, 1 / 512)
    response = store["nyu_labeled/rgb/0000000001"]
    assert response.shape == (427, 565)
    seen = depth[45:472, 43:608] > 0
    assert np.abs(response[seen] - depth[45:472, 43:608][seen]).max() <= 1 / 1024
    assert "ground truth" in succeed("info", "n.zarr", cwd=tmp_path).out


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    """A folder of NYU Depth v2 with two frames to train on and one to test, and a store of the two."""
    rng = np.random.default_rng(0)
    depth = np.rint(np.linspace(800, 9500, 640)[None].repeat(480, 0)).astype(np.uint16)
    depth[np.arange(480) % 4 > 0] = 0
    depth[:, np.arange(640) % 4 > 0] = 0
    lines = []
    for number in range(3):
        place = tmp_path / "nyu" / "sync" / "kitchen_0001"
        place.mkdir(parents=True, exist_ok=True)
        image = cv2.resize(rng.integers(0, 256, (12, 16, 3)).astype(np.uint8), (640, 480))
        assert cv2.imwrite(str(place / f"rgb_{number:05d}.png"), image)
        assert cv2.imwrite(str(place / f"sync_depth_{number:05d}.png"), depth)
        lines.append(f"kitchen_0001/rgb_{number:05d}.png kitchen_0001/sync_depth_{number:05d}.png 518.8579\n")
    (tmp_path / "nyu" / "nyu_train.txt").write_text("".join(lines[:2]))
    (tmp_path / "nyu" / "nyu_test.txt").write_text(lines[2])
    succeed("precompute", "--teacher", "lidar", "--nyu", "nyu", "--store", "n.zarr", cwd=tmp_path)
    return tmp_path


@pytest.mark.slow
def test_both_stages_and_the_evaluation_on_rooms(rooms: Path) -> None:
    train = ["distill", "--nyu", "nyu", "--store", "n.zarr", "--run", "r", *SMALL]
    whole = succeed(*train, "--set", "student.max_depth=10.0", "--sigma", "0.5", "--json", cwd=rooms)
    assert "2 frames" in whole.err
    assert "reach to" not in whole.err
    recorded = json.loads((rooms / "r" / "run.json").read_text())
    assert recorded["source"] == {"nyu": "nyu"}
    again = succeed("distill", "--resume", "--run", "r", "--device", "cpu", "--json", cwd=rooms)
    assert again.json["steps"] == 2
    said = succeed("evaluate", "--run", "r", "--device", "cpu", "--csv", "r.csv", cwd=rooms)
    assert "Eigen crop" in said.out
    assert "  0-2.5 m" in said.out
    assert "learned from" not in said.err
    record = json.loads((rooms / "r" / "evaluation.json").read_text())
    assert (record["crop"], record["max_depth"], record["ground_truth_frames"]) == ("eigen", 10.0, 1)
    assert record["images"][0]["gt_pixels"] == 106 * 140  # rows 48 to 468, columns 44 to 600
    assert len((rooms / "r.csv").read_text().splitlines()) == 2
    placeless = {**recorded, "stores": [{"fingerprint": recorded["fingerprint"]}], "store": ""}
    (rooms / "r" / "run.json").write_text(json.dumps(placeless))
    trained_on = ["evaluate", "--run", "r", "--split", "nyu_train.txt", "--crop", "none", "--ranges", "0-3", "--json"]
    on_train = succeed(*trained_on, "--store", "n.zarr", "--device", "cpu", cwd=rooms)
    (rooms / "r" / "run.json").write_text(json.dumps(recorded))
    assert "2 of these 2 frames are in the run's store" in on_train.err
    assert (on_train.json["crop"], on_train.json["first_row"], on_train.json["teacher_frames"]) == ("none", 0, 2)
    assert list(on_train.json["ranges"]) == ["0-3"]
    wide = succeed(*train[:-1], "cpu", "--run", "wide", cwd=rooms)
    assert "bins reach to 80 m, the store to 10 m" in wide.err
    for options, words in (
        (["--set", "student.max_depth=5.0"], "range of 0.001 .. 5 m does not hold that of the store"),
        (["--set", "student.min_depth=9.5"], "range of 9.5 .. 80 m does not hold that of the store"),
    ):
        assert words in fail(*train, "--run", "other", *options, cwd=rooms)
    assert "no crop of nyu" in fail("evaluate", "--run", "r", "--crop", "garg", "--device", "cpu", cwd=rooms)
    assert "evaluated up to 10 m" in fail("evaluate", "--run", "r", "--ranges", "10-20", "--device", "cpu", cwd=rooms)
    late = ["evaluate", "--run", "r", "--csv", "nowhere/r.csv", "--device", "cpu"]
    assert "there is no folder nowhere" in fail(*late, cwd=rooms)
    for ranges in ("far", "1-2-3", "1"):
        assert tiekd("evaluate", "--run", "r", "--ranges", ranges, cwd=rooms).code == 2


@pytest.mark.slow
def test_a_recipe_on_rooms_runs_both_stages_and_names_its_data(rooms: Path) -> None:
    recipe = """
out = "rooms"
device = "cpu"
data = { nyu = "nyu" }
teacher = { name = "lidar", store = "n.zarr" }
student = { name = "timm:lcnet_035", pretrained = false, decoder_width = 0.125, num_bins = 33, max_depth = 10.0 }
loss = { sigma = 0.5 }
train = { steps = 2, batch_size = 1, crop = [64, 96], workers = 0, picture_frames = 1 }
"""
    (rooms / "rooms.toml").write_text(recipe)
    said = succeed("run", "rooms.toml", cwd=rooms)
    assert "2 responses (0 made now)" in said.err
    record = json.loads((rooms / "rooms" / "run" / "evaluation.json").read_text())
    assert (record["dataset"], record["crop"], record["ground_truth_frames"]) == ("nyu", "eigen", 1)
    assert json.loads((rooms / "rooms" / "run" / "run.json").read_text())["source"] == {"nyu": "nyu"}
    again = succeed("evaluate", "--run", "rooms/run", "--device", "cpu", "--json", cwd=rooms)
    assert again.json["ground_truth"] == record["ground_truth"]
    (rooms / "two.toml").write_text(recipe.replace('nyu = "nyu"', 'nyu = "nyu", kitti = "kitti"'))
    assert "data.nyu goes neither with data.kitti" in fail("run", "two.toml", cwd=rooms)
    run_json = rooms / "rooms" / "run" / "run.json"
    run_json.write_text(json.dumps({**json.loads(run_json.read_text()), "source": "nyu"}))
    assert "Name the data with --kitti, --nyu or --images" in fail("evaluate", "--run", "rooms/run", cwd=rooms)


@pytest.mark.slow
def test_pictures_have_a_teacher_only(pictures: Path) -> None:
    command = ["precompute", "--teacher", "bts-resnet50", "--weights", "random:0", "--images", "photos/**/*.png"]
    succeed(*command, "--store", "p.zarr", "--device", "cpu", cwd=pictures)
    train = ["distill", "--images", "photos/**/*.png", "--store", "p.zarr", *SMALL]
    succeed(*train, "--run", "r", cwd=pictures)
    succeed("distill", "--resume", "--run", "r", "--device", "cpu", cwd=pictures)
    said = succeed("evaluate", "--run", "r", "--device", "cpu", "--json", cwd=pictures)
    assert (said.json["ground_truth"], said.json["teacher_frames"], said.json["dataset"]) == (None, 3, "pictures")
    assert "needs ground truth, and none of the 3 frames of photos" in fail(*train, "--loss", "baseline", cwd=pictures)
    others = fail("distill", "--nyu", "photos", "--store", "p.zarr", *SMALL, cwd=pictures)
    assert "No frames of NYU" in others


def test_mistakes_are_one_line_each(pictures: Path) -> None:
    two = tiekd("precompute", "--teacher", "lidar", "--images", "photos", "--nyu", "x", cwd=pictures)
    assert (two.code, "exclude each other" in two.err) == (2, True)
    alone = tiekd("precompute", "--teacher", "lidar", "--size", "8x8", cwd=pictures)
    assert (alone.code, "--images" in alone.err) == (2, True)
    for options, words in (
        (["--images", "nothing/*.png"], "No pictures match"),
        (["--nyu", "nowhere"], "No NYU Depth v2 at nowhere"),
        (["--images", "photos"], "can answer none of the 3 frames"),
    ):
        failed = tiekd("precompute", "--teacher", "lidar", *options, cwd=pictures)
        assert failed.code == 1
        assert words in failed.err.splitlines()[-1]
