"""Stage two from a store alone: the same samples as from the data set, and one clear line where that cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes import FormulaTeacher, MemoryFrames
from test_distill import CONFIG, losses

from tiekd_cache.data.kitti import KittiFrames
from tiekd_cache.data.transforms import TrainTransform
from tiekd_cache.dataset import ResponseDataset
from tiekd_cache.errors import ConfigError
from tiekd_cache.losses.objective import LossConfig
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.run_folder import RunFolder
from tiekd_cache.stages import run_distill
from tiekd_cache.store import open_store
from tiekd_cache.store_frames import StoreFrames
from tiekd_cache.teachers import load_teacher

SOURCE = MemoryFrames(6)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "a.zarr"
    precompute(FormulaTeacher(), SOURCE, path, PrecomputeConfig(shard_frames=4, with_images=True))
    return path


def test_samples_are_those_of_the_data_set_bit_for_bit(path: Path) -> None:
    store, frames = open_store(path), StoreFrames.open(path)
    assert list(frames.frame_ids) == SOURCE.frame_ids
    assert (frames.name, frames.image_size, frames.crop) == (SOURCE.name, SOURCE.image_size, SOURCE.crop)
    theirs, ours = (ResponseDataset(source, [store], TrainTransform((48, 64), 10), 5) for source in (SOURCE, frames))
    for position in ((epoch, index) for epoch in range(4) for index in range(6)):
        for name in ("image", "teacher_depth", "valid_mask", "gt_depth"):
            assert torch.equal(getattr(theirs[position], name), getattr(ours[position], name))


def test_a_frame_is_whole_but_for_ground_truth(path: Path) -> None:
    frames = StoreFrames.open(path).subset(SOURCE.frame_ids[2:4])
    frame = frames.load(SOURCE.frame_ids[2], with_gt=True)
    assert frame.focal_px == SOURCE.load(SOURCE.frame_ids[2]).focal_px
    assert frame.gt_depth is None
    assert len(frames.frame_ids) == 2
    assert not frames.has_gt(frame.frame_id)
    assert not frames.has_lidar(frame.frame_id)
    assert frames.lidar_depth(frame.frame_id) is None


@pytest.mark.slow
def test_a_run_without_the_data_set_equals_one_with_it(path: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, train=replace(CONFIG.train, steps=2))
    run_distill(config, StoreFrames.open(path), [path], tmp_path / "a", device="cpu")
    run_distill(config, SOURCE, [path], tmp_path / "b", device="cpu")  # type: ignore[arg-type]
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    record = RunFolder(tmp_path / "a").run()
    assert (record["data"], record["source"]) == (str(path), {"images_from_store": True})
    assert "images_from_store" not in RunFolder(tmp_path / "b").run()["source"]


def test_a_loss_on_ground_truth_is_refused(path: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, loss=LossConfig(name="baseline"))
    with pytest.raises(ConfigError, match="needs ground truth, and none of the 6 frames"):
        run_distill(config, StoreFrames.open(path), [path], tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_store_without_images_or_with_some_of_them_is_refused(path: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.zarr"
    precompute(FormulaTeacher(), SOURCE, plain, PrecomputeConfig(shard_frames=4))
    with pytest.raises(ConfigError, match=r"no image of 6 of its 6 frames.*--with-images"):
        StoreFrames.open(plain, allow_partial=True)
    some = tmp_path / "some.zarr"
    precompute(FormulaTeacher(), SOURCE, some, PrecomputeConfig(shard_frames=4, with_images=True))
    (some / "images" / "done" / "00001.json").unlink()
    with pytest.raises(ConfigError, match="no image of 2 of its 6 frames"):
        StoreFrames.open(some)
    assert list(StoreFrames.open(some, allow_partial=True).frame_ids) == SOURCE.frame_ids[:4]


@pytest.mark.slow
@pytest.mark.shared
def test_real_frames_out_of_a_store_are_those_of_their_png_files(shared_dir: Path, tmp_path: Path) -> None:
    source = KittiFrames.open(shared_dir / "kitti_sample", "all")
    source = source.subset([frame_id for frame_id in source.frame_ids if source.has_lidar(frame_id)][:3])
    teacher = load_teacher("lidar", weights=None, device="cpu")
    precompute(teacher, source, tmp_path / "a.zarr", PrecomputeConfig(with_images=True))
    store, frames = open_store(tmp_path / "a.zarr"), StoreFrames.open(tmp_path / "a.zarr")
    theirs, ours = (ResponseDataset(one, [store], TrainTransform(), 5) for one in (source, frames))
    for index, frame_id in enumerate(source.frame_ids):
        assert (frames.load(frame_id).intrinsics == source.load(frame_id).intrinsics).all()
        for name in ("image", "teacher_depth", "valid_mask"):
            assert torch.equal(getattr(theirs[(1, index)], name), getattr(ours[(1, index)], name))
