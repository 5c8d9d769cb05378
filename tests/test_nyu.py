"""NYU Depth v2 in both of its forms: crop, metres, splits, and a clear word on what is missing or damaged."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from tiekd_cache.data.nyu import open_nyu
from tiekd_cache.data.nyu_folder import NyuFolderFrames
from tiekd_cache.data.nyu_mat import NyuMatFrames
from tiekd_cache.errors import DataError

COUNT = 3


def made(number: int) -> tuple[np.ndarray, np.ndarray]:
    """(image [480,640,3] uint8, depth [480,640] float32 metres, with a hole) of a frame."""
    rng = np.random.default_rng(number)
    image = cv2.resize(rng.integers(0, 256, (12, 16, 3)).astype(np.uint8), (640, 480))
    depth = np.linspace(0.8, 9.5, 640, dtype=np.float32)[None] + np.linspace(0, 0.3, 480, dtype=np.float32)[:, None]
    depth[100:110, 200:220] = 0
    return image, depth


@pytest.fixture(scope="module")
def mat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As MATLAB 7.3 writes it: every axis reversed, in chunks of gzip that need not be a frame each."""
    path = tmp_path_factory.mktemp("nyu") / "nyu_depth_v2_labeled.mat"
    with h5py.File(path, "w") as file:
        images, depths = zip(*(made(number) for number in range(COUNT)), strict=True)
        pixels = np.stack([image.transpose(2, 1, 0) for image in images])
        file.create_dataset("images", data=pixels, chunks=(2, 1, 300, 480), compression="gzip", compression_opts=3)
        metres = np.stack([depth.T for depth in depths])
        file.create_dataset("depths", data=metres, chunks=(1, 90, 480), compression="gzip", compression_opts=3)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two scenes below sync/, and the split files of BTS."""
    lines = []
    for number, scene in enumerate(["kitchen_0001", "kitchen_0001", "office_0002"]):
        image, depth = made(number)
        place = tmp_path / "sync" / scene
        place.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(place / f"rgb_{number:05d}.png"), image[..., ::-1])
        assert cv2.imwrite(str(place / f"sync_depth_{number:05d}.png"), np.rint(depth * 1000).astype(np.uint16))
        lines.append(f"/{scene}/rgb_{number:05d}.png /{scene}/sync_depth_{number:05d}.png 518.8579")
    (tmp_path / "nyudepthv2_train_files_with_gt.txt").write_text("\n".join(lines[:2]) + "\n")
    (tmp_path / "nyudepthv2_test_files_with_gt.txt").write_text(lines[2] + "\n")
    return tmp_path


def test_the_labelled_file_gives_cropped_frames_in_metres(mat: Path) -> None:
    frames = open_nyu(mat)
    assert isinstance(frames, NyuMatFrames)
    assert frames.frame_ids == tuple(f"nyu_labeled/rgb/{number:010d}" for number in (1, 2, 3))
    assert (frames.image_size, frames.max_depth, frames.name) == ((427, 565), 10.0, "nyu")
    image, depth = made(1)
    frame = frames.load(frames.frame_ids[1], with_gt=True)
    assert np.array_equal(frame.image, image[45:472, 43:608])
    assert frame.gt_depth is not None
    assert np.array_equal(frame.gt_depth, depth[45:472, 43:608])
    assert (frame.gt_depth == 0).sum() == 200
    np.testing.assert_allclose(frame.intrinsics[:2, 2], [325.58244941 - 43, 253.73616633 - 45])
    assert frame.focal_px == pytest.approx(518.8579)
    assert open_nyu(mat.parent).frame_ids == frames.frame_ids, "the folder that holds the file serves, too"
    again = pickle.loads(pickle.dumps(frames))
    assert np.array_equal(again.load(frames.frame_ids[1]).image, frame.image)


def test_a_split_of_the_labelled_file_is_a_list_of_numbers(mat: Path, tmp_path: Path) -> None:
    split = tmp_path / "test.txt"
    split.write_text("3\n1\n3\n")
    frames = open_nyu(mat, str(split))
    assert [frame_id[-1] for frame_id in frames.frame_ids] == ["3", "1"]
    assert np.array_equal(frames.load(frames.frame_ids[0]).image, made(2)[0][45:472, 43:608])
    for text, message in (("0\n", "'0' is no frame number from 1 to 3"), ("4", "'4'"), ("a", "'a'"), ("", "no frame")):
        split.write_text(text)
        with pytest.raises(DataError, match=message):
            open_nyu(mat, str(split))
    with pytest.raises(DataError, match=r"absent\.txt"):
        open_nyu(mat, "absent.txt")


def test_a_folder_gives_the_same_frames(folder: Path) -> None:
    train, test = open_nyu(folder), open_nyu(folder, purpose="test")
    assert isinstance(train, NyuFolderFrames)
    assert train.frame_ids == ("kitchen_0001/rgb/00000", "kitchen_0001/rgb/00001")
    assert test.frame_ids == ("office_0002/rgb/00002",)
    assert open_nyu(folder, "all").frame_ids == (*train.frame_ids, *test.frame_ids)
    image, depth = made(2)
    frame = test.load(test.frame_ids[0], with_gt=True)
    assert np.array_equal(frame.image, image[45:472, 43:608])
    assert frame.gt_depth is not None
    np.testing.assert_allclose(frame.gt_depth, depth[45:472, 43:608], atol=0.00051)
    assert train.subset(train.frame_ids[1:]).frame_ids == train.frame_ids[1:]


def test_what_is_missing_or_damaged_is_named(folder: Path, mat: Path, tmp_path: Path) -> None:
    (folder / "sync" / "kitchen_0001" / "sync_depth_00001.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 frames .*sync_depth_00001\.png does not exist.*--skip-missing"):
        open_nyu(folder)
    left = open_nyu(folder, skip_missing=True)
    assert left.frame_ids == ("kitchen_0001/rgb/00000",)
    assert len(left.skipped) == 1
    assert not open_nyu(folder, "all").has_gt("kitchen_0001/rgb/00001")
    small = folder / "sync" / "kitchen_0001" / "rgb_00000.png"
    assert cv2.imwrite(str(small), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(DataError, match=r"rgb_00000\.png is 64x64 pixels; images of NYU Depth v2 are 480x640"):
        left.load(left.frame_ids[0])
    (folder / "bad.txt").write_text("../../etc/rgb_1.png None 1\n")
    with pytest.raises(DataError, match=r"bad\.txt:1"):
        open_nyu(folder, "bad.txt")
    cut = tmp_path / "cut.mat"
    cut.write_bytes(mat.read_bytes()[:3000])
    for path, message in ((cut, "truncated or no MATLAB 7.3"), (tmp_path / "no.mat", "No NYU Depth v2 at")):
        with pytest.raises(DataError, match=message):
            open_nyu(path)
    with h5py.File(tmp_path / "other.mat", "w") as file:
        file["images"] = np.zeros((2, 3, 8, 8), np.uint8)
    with pytest.raises(DataError, match=r"'images' is \[2, 3, 8, 8\], not \[N, 3, 640, 480\]"):
        open_nyu(tmp_path / "other.mat")
    (tmp_path / "deep" / "empty").mkdir(parents=True)
    with pytest.raises(DataError, match="No frames of NYU Depth v2"):
        open_nyu(tmp_path / "deep" / "empty")
