"""Stage one through the command line on NYU Depth v2 and on any pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from command_line import succeed, tiekd

from tiekd_cache.store import open_store
from tiekd_cache.teachers import load_teacher


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three small pictures that no network takes as they are."""
    rng = np.random.default_rng(0)
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        small = rng.integers(0, 256, (6, 9, 3)).astype(np.uint8)
        assert cv2.imwrite(str(tmp_path / "photos" / name), cv2.resize(small, (130, 90)))
    return tmp_path


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
