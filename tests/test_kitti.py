"""KITTI is found in each of its layouts, splits mean what they say, and missing files are named before any work."""

from __future__ import annotations

import os
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from kitti_helpers import (
    FRAMES,
    LAYOUTS,
    Layout,
    depth_path,
    image_path,
    scan_path,
    sparse_depth,
    split_line,
    texture,
    write_calibration,
    write_kitti,
    write_picture,
    write_split,
)

from tiekd_cache.data.calibration import intrinsics
from tiekd_cache.data.frame import FrameSource
from tiekd_cache.data.images import read_depth_png
from tiekd_cache.data.kitti import KittiFrames
from tiekd_cache.data.kitti_layout import FrameKey, detect_layout
from tiekd_cache.data.kitti_split import read_split
from tiekd_cache.errors import DataError

FIRST, SECOND, OTHER_DATE = FRAMES
RAW: Layout = "raw + depth"


@pytest.fixture(scope="module")
def kitti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three frames of two dates in the first layout, with a split file of each kind; not to be changed."""
    root = write_kitti(tmp_path_factory.mktemp("kitti"))
    write_split(root / "splits/eigen_train.txt", [SECOND, FIRST], none=[FIRST])
    write_split(root / "eigen_test_files_with_gt.txt", [OTHER_DATE])
    return root


def empty_kitti(root: Path, layout: Layout = RAW, frames: tuple[str, ...] = FRAMES) -> Path:
    """A copy whose files hold one byte: enough for everything that opens no picture."""
    for frame_id in frames:
        for path in (image_path(root, layout, frame_id), depth_path(root, layout, frame_id)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_frames(tmp_path: Path, layout: Layout) -> None:
    write_kitti(tmp_path, layout, FRAMES[1:])
    split = write_split(tmp_path / "mine.txt", FRAMES[1:])
    for frames in (KittiFrames.open(tmp_path, split), KittiFrames.open(tmp_path, "all")):
        source: FrameSource = frames
        assert list(source.frame_ids) == [*FRAMES[1:]]
        assert (source.name, source.image_size, source.crop) == ("kitti", (352, 1216), "kb 352x1216")
        assert frames.layout.name == layout.removesuffix(" below")
    for frame_id in FRAMES[1:]:
        frame = frames.load(frame_id, with_gt=True)
        np.testing.assert_array_equal(frame.image, texture(frame_id, (375, 1242))[23:, 13:1229])
        assert frame.gt_depth is not None
        expected = sparse_depth(frame_id, (375, 1242))[23:, 13:1229] / np.float32(256)
        np.testing.assert_array_equal(frame.gt_depth, expected)
        np.testing.assert_array_equal(frames.lidar_depth(frame_id), expected)
        assert frames.load(frame_id).gt_depth is None


def test_depth_maps_merged_into_the_raw_folders_are_found(tmp_path: Path) -> None:
    write_kitti(tmp_path, "official", [FIRST], depth=False)
    merged = image_path(tmp_path, "official", FIRST).parents[2] / "proj_depth/groundtruth/image_02/0000000005.png"
    write_picture(merged, sparse_depth(FIRST, (375, 1242)))
    assert KittiFrames.open(tmp_path, "all").has_gt(FIRST)


def test_with_a_split_no_folder_of_frames_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty_kitti(tmp_path)
    split = write_split(tmp_path / "mine.txt")
    listed: list[str] = []
    scandir, listdir = os.scandir, os.listdir

    def noted_scandir(path: str = ".") -> Iterator[os.DirEntry[str]]:
        listed.append(str(path))
        return scandir(path)

    def noted_listdir(path: str = ".") -> list[str]:
        listed.append(str(path))
        return listdir(path)

    monkeypatch.setattr(os, "scandir", noted_scandir)
    monkeypatch.setattr(os, "listdir", noted_listdir)
    assert len(KittiFrames.open(tmp_path, split, purpose="test").frame_ids) == 3
    assert listed
    assert not [path for path in listed if "drive" in path]


@pytest.mark.parametrize("layout", [RAW, "toolbox"])
def test_pictures_converted_to_jpg_answer_for_png(tmp_path: Path, layout: Layout) -> None:
    write_kitti(tmp_path, layout, [FIRST], extension="jpg")
    split = write_split(tmp_path / "mine.txt", [FIRST])
    for frames in (KittiFrames.open(tmp_path, split, purpose="test"), KittiFrames.open(tmp_path, "all")):
        assert list(frames.frame_ids) == [FIRST]
        image = frames.load(FIRST).image.astype(int)
        assert np.corrcoef(image.ravel(), texture(FIRST, (375, 1242))[23:, 13:1229].ravel())[0, 1] > 0.5
        assert frames.lidar_depth(FIRST) is not None


def test_png_is_preferred_to_a_jpg_beside_it(tmp_path: Path) -> None:
    write_kitti(tmp_path, frames=[FIRST])
    write_kitti(tmp_path, frames=[FIRST], extension="jpg")
    np.testing.assert_array_equal(
        KittiFrames.open(tmp_path, "all").load(FIRST).image, texture(FIRST, (375, 1242))[23:, 13:1229]
    )


def test_both_cameras(tmp_path: Path) -> None:
    right = FIRST.replace("image_02", "image_03")
    write_kitti(tmp_path, frames=[FIRST, right])
    write_calibration(tmp_path / "raw/2011_09_26", focal_px=700.0)
    frames = KittiFrames.open(tmp_path, "all")
    assert list(frames.frame_ids) == [FIRST, right]
    assert [frames.load(frame_id).focal_px for frame_id in frames.frame_ids] == [700.0, 701.0]
    assert not np.array_equal(frames.load(FIRST).image, frames.load(right).image)


# ------------------------------------------------------------------------------------------------ which split


def test_the_usual_split_beside_the_data_is_used_and_said(kitti: Path) -> None:
    train = KittiFrames.open(kitti)
    assert list(train.frame_ids) == [SECOND, FIRST]
    assert train.split == "splits/eigen_train.txt"
    assert train.split_note == (
        "splits/eigen_train.txt (found beside the data), 2 frames; 1 without ground truth (None in the split)"
    )
    test = KittiFrames.open(kitti, purpose="test")
    assert list(test.frame_ids) == [OTHER_DATE]
    assert test.split == "eigen_test_files_with_gt.txt"


def test_without_a_split_file_all_frames_are_used_and_said(tmp_path: Path) -> None:
    empty_kitti(tmp_path)
    frames = KittiFrames.open(tmp_path)
    assert list(frames.frame_ids) == sorted(FRAMES)
    assert frames.split == "all frames"
    assert frames.split_note == "all frames (no usual train split file beside the data), 3 frames"


def test_all_is_every_frame_sorted_whatever_splits_there_are(kitti: Path) -> None:
    assert list(KittiFrames.open(kitti, "all").frame_ids) == sorted(FRAMES)


@pytest.mark.parametrize("place", ["", "splits", "raw"])
@pytest.mark.parametrize("name", ["kitti_eigen_train.txt", "eigen_train_files_with_gt.txt"])
def test_split_files_are_found_by_name_in_the_usual_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, name: str
) -> None:
    empty_kitti(tmp_path / "kitti")
    write_split(tmp_path / "kitti" / place / name, [FIRST])
    monkeypatch.chdir(tmp_path)
    assert list(KittiFrames.open(Path("kitti")).frame_ids) == [FIRST]
    assert list(KittiFrames.open(Path("kitti"), name).frame_ids) == [FIRST]
    write_split(tmp_path / name, [SECOND])
    assert list(KittiFrames.open(Path("kitti"), name).frame_ids) == [SECOND]  # a path as it stands goes first


def test_a_split_that_is_nowhere_lists_those_beside_the_data(kitti: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.txt does not exist.*eigen_test_files_with_gt\.txt.*eigen_train\.txt"):
        KittiFrames.open(kitti, "absent.txt")


# ------------------------------------------------------------------------------------------------ split files


def test_what_public_split_files_look_like(tmp_path: Path) -> None:
    image, depth, focal = split_line(FIRST).split()
    text = "\r\n".join(
        [
            "\ufeff# a comment",
            f"/{image} /train/{depth} {focal}",
            "",
            f"  input/{split_line(SECOND).split()[0]}  ",
            f"{split_line(OTHER_DATE, depth=False)}",
            f"{image} {depth} {focal}",
        ]
    )
    (tmp_path / "split.txt").write_bytes(text.encode())
    split = read_split(tmp_path / "split.txt")
    assert [line.key.frame_id for line in split.lines] == [*FRAMES]
    assert [line.depth for line in split.lines] == ["named", "unsaid", "none"]
    assert [line.focal_px for line in split.lines] == [721.5377, None, 707.0493]
    assert split.repeated == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("pictures/a.png None 721.5", "'pictures/a.png' is not the path of a KITTI image"),
        (
            "2011_09_26/2011_09_28_drive_0001_sync/image_02/data/0000000005.png None 7",
            "is not the path of a KITTI image",
        ),
        (split_line(FIRST).replace("proj_depth", "depth"), "neither None nor the path of a KITTI depth map"),
        (split_line(FIRST).replace("groundtruth/image_02/0000000005", "groundtruth/image_02/0000000007"), "same frame"),
        (split_line(FIRST) + " 5", "4 columns"),
        (split_line(FIRST).replace("721.5377", "0"), "'0' is not a focal length"),
        (split_line(FIRST).replace("721.5377", "wide"), "'wide' is not a focal length"),
    ],
)
def test_a_malformed_line_is_named_with_its_number(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "split.txt"
    path.write_text(f"# header\n{split_line(FIRST)}\n{line}\n")
    with pytest.raises(DataError, match=r"split\.txt:3: ") as error:
        read_split(path)
    assert reason in str(error.value)


@pytest.mark.parametrize(("content", "reason"), [(b"# nothing\n\n", "names no frame"), (b"\xff\xfe\x00", "UTF-8")])
def test_a_file_that_is_no_split(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "split.txt").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read_split(tmp_path / "split.txt")


def test_repeated_lines_count_once_and_are_said(tmp_path: Path) -> None:
    empty_kitti(tmp_path)
    split = write_split(tmp_path / "mine.txt", [SECOND, FIRST, SECOND, SECOND])
    frames = KittiFrames.open(tmp_path, split)
    assert list(frames.frame_ids) == [SECOND, FIRST]
    assert "2 frames; 2 repeated lines counted once" in frames.split_note


# ---------------------------------------------------------------------------------------------- missing files


def test_no_data_at_all_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere is not a folder.*--kitti.*data_depth_annotated\.zip"):
        KittiFrames.open(tmp_path / "nowhere")
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"No KITTI images in .* it holds photos"):
        KittiFrames.open(tmp_path)
    (tmp_path / "raw" / "2011_09_26").mkdir(parents=True)
    with pytest.raises(DataError, match=r"No images in raw \+ depth: images in raw"):
        KittiFrames.open(tmp_path)


def test_missing_images_are_counted_and_the_first_ten_listed(tmp_path: Path) -> None:
    drives = [f"2011_09_26_drive_{i:04d}_sync" for i in range(1, 6)]
    wanted = [f"{drive}/image_02/{i:010d}" for drive in drives for i in range(3)]
    empty_kitti(tmp_path, frames=(FIRST, wanted[0]))
    split = write_split(tmp_path / "mine.txt", wanted)
    with pytest.raises(DataError) as error:
        KittiFrames.open(tmp_path, split)
    text = str(error.value)
    assert "14 files of 14 frames (of the 15 in mine.txt) are missing or truncated" in text
    assert text.count("is missing") == 10
    assert f"image raw/2011_09_26/{drives[0]}/image_02/data/0000000001.png is missing" in text
    assert "and 4 more" in text
    assert "2011_09_26_drive_0001_sync.zip" in text
    assert "those of 2 more drives" in text
    assert "raw data, synced+rectified" in text
    assert "--skip-missing" in text
    assert "data_depth_annotated" not in text  # for training, depth maps are not essential


def test_skip_missing_goes_on_and_says_what_it_left_out(tmp_path: Path) -> None:
    empty_kitti(tmp_path)
    image_path(tmp_path, RAW, SECOND).unlink()
    split = write_split(tmp_path / "mine.txt")
    frames = KittiFrames.open(tmp_path, split, skip_missing=True)
    assert list(frames.frame_ids) == [FIRST, OTHER_DATE]
    path = "raw/2011_09_26/2011_09_26_drive_0001_sync/image_02/data/0000000006.png"
    assert frames.skipped == [f"{SECOND}: image {path} is missing"]
    assert "1 frames left out for missing files" in frames.split_note
    for frame_id in (FIRST, OTHER_DATE):
        image_path(tmp_path, RAW, frame_id).unlink()
    with pytest.raises(DataError, match=r"3 files of 3 frames[^$]*No frame is left"):
        KittiFrames.open(tmp_path, split, skip_missing=True)


def test_an_empty_image_is_truncated_at_open(tmp_path: Path) -> None:
    empty_kitti(tmp_path)
    image_path(tmp_path, RAW, FIRST).write_bytes(b"")
    with pytest.raises(DataError, match=r"0000000005\.png is truncated \(0 bytes\)"):
        KittiFrames.open(tmp_path, "all")


@pytest.mark.parametrize("how", ["missing", "truncated (0 bytes)"])
def test_a_missing_depth_map_is_noted_in_training_and_an_error_in_a_test(tmp_path: Path, how: str) -> None:
    empty_kitti(tmp_path)
    split = write_split(tmp_path / "mine.txt", none=[SECOND])
    lost = depth_path(tmp_path, RAW, FIRST)
    lost.unlink()
    if how != "missing":
        lost.write_bytes(b"")
    train = KittiFrames.open(tmp_path, split)
    assert list(train.frame_ids) == [*FRAMES]
    assert not train.has_gt(FIRST)
    assert not train.has_lidar(FIRST)
    assert "1 without ground truth (None in the split)" in train.split_note
    assert "1 without ground truth because the depth map is missing, first" in train.split_note
    name = lost.relative_to(tmp_path)
    with pytest.raises(DataError, match=rf"depth map {name} is {re.escape(how)}\n.*data_depth_annotated\.zip"):
        KittiFrames.open(tmp_path, split, purpose="test")
    test = KittiFrames.open(tmp_path, split, purpose="test", skip_missing=True)
    assert list(test.frame_ids) == [SECOND, OTHER_DATE]
    assert test.skipped == [f"{FIRST}: depth map {name} is {how}"]


def test_images_alone_are_enough_for_stage_one(tmp_path: Path) -> None:
    empty_kitti(tmp_path)
    shutil.rmtree(tmp_path / "depth")
    split = write_split(tmp_path / "mine.txt")
    train = KittiFrames.open(tmp_path, split)
    assert not any(train.has_gt(frame_id) or train.has_lidar(frame_id) for frame_id in train.frame_ids)
    assert "3 without ground truth because the depth map is missing" in train.split_note
    with pytest.raises(DataError, match="3 files of 3 frames"):
        KittiFrames.open(tmp_path, split, purpose="test")


def test_a_none_line_has_no_ground_truth_even_where_a_file_exists(kitti: Path) -> None:
    frames = KittiFrames.open(kitti)
    assert [frames.has_gt(frame_id) for frame_id in frames.frame_ids] == [True, False]
    assert frames.load(FIRST, with_gt=True).gt_depth is None
    assert frames.lidar_depth(FIRST) is None


def test_a_line_with_the_image_alone_uses_a_depth_map_where_there_is_one(tmp_path: Path) -> None:
    empty_kitti(tmp_path)
    depth_path(tmp_path, RAW, SECOND).unlink()
    (tmp_path / "mine.txt").write_text("\n".join(split_line(frame_id).split()[0] for frame_id in FRAMES))
    frames = KittiFrames.open(tmp_path, "mine.txt", purpose="test")
    assert [frames.has_gt(frame_id) for frame_id in FRAMES] == [True, False, True]
    assert "1 without ground truth (no depth map found)" in frames.split_note


def test_damage_that_open_cannot_see_is_named_when_read(tmp_path: Path) -> None:
    write_kitti(tmp_path, frames=[FIRST, SECOND])
    frames = KittiFrames.open(tmp_path, "all")
    for path in (image_path(tmp_path, RAW, FIRST), depth_path(tmp_path, RAW, SECOND)):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"raw/.*0000000005\.png is truncated: 1000 bytes"):
        frames.load(FIRST)
    for read in (lambda: frames.load(SECOND, with_gt=True), lambda: frames.lidar_depth(SECOND)):
        with pytest.raises(DataError, match=r"depth/.*0000000006\.png is truncated: 1000 bytes"):
            read()


# --------------------------------------------------------------------------------------------------- geometry


def test_an_image_smaller_than_the_crop_is_named(tmp_path: Path) -> None:
    write_kitti(tmp_path, frames=[FIRST], size=(320, 1216))
    frames = KittiFrames.open(tmp_path, "all")
    for read in (frames.load, frames.lidar_depth):
        with pytest.raises(DataError, match=r"0000000005\.png is 320x1216 pixels.*KB crop of 352x1216"):
            read(FIRST)


def test_a_depth_map_of_another_size_than_its_image_is_named(tmp_path: Path) -> None:
    write_kitti(tmp_path, frames=[FIRST])
    write_picture(depth_path(tmp_path, RAW, FIRST), sparse_depth(FIRST, (352, 1216)))
    frames = KittiFrames.open(tmp_path, "all")
    for read in (lambda: frames.load(FIRST, with_gt=True), lambda: frames.lidar_depth(FIRST)):
        with pytest.raises(DataError, match=r"is 352x1216 pixels but its image .* is 375x1242"):
            read()


def test_intrinsics_from_file_then_published_then_the_splits_focal(tmp_path: Path) -> None:
    unknown = "2020_01_01_drive_0001_sync/image_02/0000000000"
    write_kitti(tmp_path, frames=[FIRST, OTHER_DATE, unknown], depth=False)
    write_calibration(tmp_path / "raw/2011_09_26", 700.0, 600.0, 170.0)
    write_split(tmp_path / "mine.txt", [FIRST, OTHER_DATE, unknown])
    frames = KittiFrames.open(tmp_path, "mine.txt")
    np.testing.assert_array_equal(frames.load(FIRST).intrinsics, intrinsics(700.0, 587.0, 147.0))
    np.testing.assert_allclose(frames.load(OTHER_DATE).intrinsics, intrinsics(707.0493, 591.0814, 157.5066))
    np.testing.assert_array_equal(frames.load(unknown).intrinsics, intrinsics(700.0, 608.0, 164.5))
    with pytest.raises(DataError, match=f"No intrinsics for {unknown}"):
        KittiFrames.open(tmp_path, "all").load(unknown)


def test_without_a_depth_map_the_scan_gives_the_lidar_depth(tmp_path: Path) -> None:
    write_kitti(tmp_path, frames=[FIRST], depth=False)
    scan = scan_path(tmp_path, RAW, FIRST)
    scan.parent.mkdir(parents=True)
    scan.write_bytes(np.array([[10.0, 1.0, 0.5, 0.1], [20.0, -2.0, 1.0, 0.2]], "<f4").tobytes())
    frames = KittiFrames.open(tmp_path, "all")
    assert frames.has_lidar(FIRST)
    assert not frames.has_gt(FIRST)
    with pytest.raises(
        DataError, match=r"needs calib_cam_to_cam\.txt and calib_velo_to_cam\.txt.*2011_09_26_calib\.zip"
    ):
        frames.lidar_depth(FIRST)
    write_calibration(tmp_path / "raw/2011_09_26", 700.0, 600.0, 170.0)
    depth = frames.lidar_depth(FIRST)
    assert depth is not None
    assert depth.shape == (352, 1216)
    # u = 600 -+ 70, v = 170 - 35, rounded less one, less the crop's corner (23, 13)
    assert {(int(r), int(c)): float(depth[r, c]) for r, c in np.argwhere(depth)} == {
        (111, 516): 10.0,
        (111, 656): 20.0,
    }
    assert frames.load(FIRST, with_gt=True).gt_depth is None


# ------------------------------------------------------------------------------------------------ the object


def test_subset_keeps_the_order_and_reaches_frames_outside_the_split(kitti: Path) -> None:
    frames = KittiFrames.open(kitti)
    chosen = frames.subset([OTHER_DATE, FIRST])
    assert list(chosen.frame_ids) == [OTHER_DATE, FIRST]
    assert chosen.load(OTHER_DATE, with_gt=True).gt_depth is not None
    assert not chosen.has_gt(FIRST)  # the split says None
    assert chosen.root == kitti
    with pytest.raises(DataError, match=r":\n  .*0000000099\.png is missing\n"):
        frames.subset(["2011_09_26_drive_0001_sync/image_02/0000000099"])
    with pytest.raises(DataError, match="'street/0' is not a KITTI frame"):
        frames.subset(["street/0"])
    with pytest.raises(DataError, match="asked for twice"):
        frames.subset([FIRST, FIRST])


def test_a_frame_of_another_split_is_refused(kitti: Path) -> None:
    frames = KittiFrames.open(kitti)
    for call in (frames.load, frames.lidar_depth, frames.has_lidar, frames.has_gt):
        with pytest.raises(DataError, match=r"is not among the 2 frames of splits/eigen_train\.txt"):
            call(OTHER_DATE)


def test_it_pickles_into_workers(kitti: Path) -> None:
    frames = KittiFrames.open(kitti)
    frames.load(SECOND)
    copy = pickle.loads(pickle.dumps(frames))
    assert copy.frame_ids == frames.frame_ids
    assert copy.split_note == frames.split_note
    np.testing.assert_array_equal(copy.load(SECOND).image, frames.load(SECOND).image)


def test_frame_ids_and_keys_are_each_others_inverse() -> None:
    key = FrameKey.parse(FIRST)
    assert key == FrameKey("2011_09_26_drive_0001_sync", "image_02", "0000000005")
    assert (key.frame_id, key.date) == (FIRST, "2011_09_26")


# ------------------------------------------------------------------------------------------------ real frames


@pytest.mark.shared
def test_the_sample_has_13_training_and_4_test_frames(shared_dir: Path) -> None:
    root = shared_dir / "kitti_sample"
    assert detect_layout(root).name == "raw + depth"
    train, test = KittiFrames.open(root), KittiFrames.open(root, purpose="test")
    assert (len(train.frame_ids), len(test.frame_ids), len(KittiFrames.open(root, "all").frame_ids)) == (13, 4, 17)
    none = "2011_09_29_drive_9021_sync/image_02/0000000000"
    assert [frame_id for frame_id in train.frame_ids if not train.has_gt(frame_id)] == [none]
    assert not train.has_lidar(none)
    assert train.lidar_depth(none) is None
    for frames in (train, test):
        for frame_id in frames.frame_ids:
            frame = frames.load(frame_id, with_gt=True)
            assert frame.image.shape == (352, 1216, 3)
            assert 30 < frame.image.mean() < 200
            assert (frame.gt_depth is not None) == frames.has_gt(frame_id)
            assert frame.focal_px == pytest.approx(
                {"2011_09_28": 707.0493, "2011_09_29": 718.3351}.get(frame_id[:10], 721.5377)
            )


@pytest.mark.shared
def test_scan_and_depth_map_of_a_real_frame_agree(shared_dir: Path, tmp_path: Path) -> None:
    sample = shared_dir / "kitti_sample"
    frame_id = "2011_09_28_drive_9011_sync/image_02/0000000000"
    (tmp_path / "raw").symlink_to(sample / "raw")
    from_scan = KittiFrames.open(tmp_path, "all").lidar_depth(frame_id)
    from_map = KittiFrames.open(sample).lidar_depth(frame_id)
    assert from_scan is not None
    assert from_map is not None
    assert np.abs(from_scan - from_map).max() <= 1 / 512
    full = read_depth_png(sample / "depth" / f"{frame_id.split('/')[0]}/proj_depth/groundtruth/image_02/0000000000.png")
    np.testing.assert_array_equal(from_map, full[18:, 4:1220])
