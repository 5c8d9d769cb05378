"""Any pictures as frames: ids from paths, one size, and a clear word on everything else."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from e2e.command_line import tiekd

from tiekd_cache.data.picture_folder import PictureFrames
from tiekd_cache.errors import DataError


def picture(path: Path, size: tuple[int, int] = (64, 96), seed: int = 0) -> np.ndarray:
    """Writes noise, returns it as RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    assert cv2.imwrite(str(path), image[..., ::-1])
    return image


def test_a_folder_gives_its_pictures_by_path(tmp_path: Path) -> None:
    first = picture(tmp_path / "a" / "one.png")
    picture(tmp_path / "b" / "two.png", seed=1)
    (tmp_path / "notes.txt").write_text("no picture")
    frames = PictureFrames.open(str(tmp_path))
    assert frames.frame_ids == ("a/one", "b/two")
    assert (frames.image_size, frames.crop, frames.max_depth) == ((64, 96), "none, focal length 96 px", 80.0)
    frame = frames.load("a/one")
    assert np.array_equal(frame.image, first)
    assert frame.gt_depth is None
    assert frame.focal_px == 96
    assert "96 px (the width" in frames.split_note
    assert not frames.has_gt("a/one")
    assert frames.lidar_depth("a/one") is None
    assert frames.subset(["b/two"]).frame_ids == ("b/two",)
    with pytest.raises(DataError, match="c/three"):
        frames.subset(["c/three"])


def test_a_pattern_chooses_and_the_focal_length_may_be_given(tmp_path: Path) -> None:
    for name in ("a/x1.png", "a/x2.jpg", "b/deep/x3.png"):
        picture(tmp_path / name)
    assert PictureFrames.open(f"{tmp_path}/**/*.png", focal_px=500).frame_ids == ("a/x1", "b/deep/x3")
    assert PictureFrames.open(f"{tmp_path}/a/*").frame_ids == ("x1", "x2")
    assert PictureFrames.open(f"{tmp_path}/a/x1.png").frame_ids == ("x1",)
    assert PictureFrames.open(f"{tmp_path}/a/*", focal_px=500).load("x1").focal_px == 500


def test_pictures_of_several_sizes_are_cut_to_their_middle_on_request(tmp_path: Path) -> None:
    wide = picture(tmp_path / "wide.png", (70, 100))
    picture(tmp_path / "low.png", (64, 96))
    picture(tmp_path / "low2.png", (64, 96))
    with pytest.raises(DataError, match=r"2 sizes \(2 of 64x96, 1 of 70x100\).*--size 64x96"):
        PictureFrames.open(str(tmp_path))
    frames = PictureFrames.open(str(tmp_path), (60, 90))
    assert frames.crop == "centre 60x90, focal length 90 px"
    frame = frames.load("wide")
    assert np.array_equal(frame.image, wide[5:65, 5:95])
    assert frame.intrinsics[0, 2] == 50 - 5
    assert frames.subset(["low"]).load("low").image.shape == (60, 90, 3)
    with pytest.raises(DataError, match=r"low\.png is 64x96 px, smaller than the crop of 66x90"):
        PictureFrames.open(str(tmp_path), (66, 90))


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("text")
    with pytest.raises(DataError, match=r"b\.png"):
        PictureFrames.open(f"{tmp_path}/*.png")
    with pytest.raises(DataError, match="No pictures match"):
        PictureFrames.open(f"{tmp_path}/*.gif")
    with pytest.raises(DataError, match="No pictures match"):
        PictureFrames.open(str(tmp_path / "absent" / "*.png"))
    picture(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="would both be frame a"):
        PictureFrames.open(f"{tmp_path}/a.*")
    (tmp_path / "deep").mkdir()
    with pytest.raises(DataError, match=r"'\.\.' in its path"):
        PictureFrames.open(f"{tmp_path}/*/../a.png")
    frames = PictureFrames.open(f"{tmp_path}/a.png")
    picture(tmp_path / "a.png", (32, 32))
    with pytest.raises(DataError, match="32x32 px now, not 64x96"):
        frames.load("a")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-40])
    with pytest.raises(DataError, match="truncated"):
        frames.load("a")


@pytest.mark.parametrize("option", ["--focal-px", "--max-depth"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_number_of_the_command_line_must_be_finite(tmp_path: Path, option: str, value: str) -> None:
    picture(tmp_path / "photos" / "one.png")
    given = ["precompute", "--teacher", "bts", "--weights", "random:0", "--images", "photos", option, value]
    said = tiekd(*given, cwd=tmp_path)
    assert (said.code, said.err.count("Error: ")) == (2, 1)
    assert f"{option}': {value} is not a finite number" in said.err or "not in the range" in said.err
    assert not (tmp_path / "stores").exists()


def test_what_comes_next_is_a_command_that_takes_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "photos" / "one.png")
    made = tiekd("precompute", "--teacher", "fakes:FormulaTeacher", "--images", "photos", cwd=tmp_path)
    assert made.code == 0, made.err
    following = made.err.split("Next: tiekd-cache ")[1].split()
    store = "stores/fakes-FormulaTeacher.zarr"
    assert following == ["distill", "--student", "resnet18", "--store", store, "--images", "photos"]
    small = ["--no-pretrained", "--steps", "1", "--batch-size", "2", "--crop", "32x32", "--decoder-width", "0.125"]
    trained = tiekd(*following, *small, cwd=tmp_path)
    assert trained.code == 0, trained.err
