"""Several teachers: one transform for all their maps, frames that all of them answer, and a record of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import FormulaTeacher, MemoryFrames
from test_distill import CONFIG, losses

from tiekd_cache.data.transforms import TrainTransform
from tiekd_cache.dataset import ResponseDataset
from tiekd_cache.distill import distill
from tiekd_cache.distill_config import TeachersConfig
from tiekd_cache.errors import ConfigError, StoreError
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.recipe import read_recipe
from tiekd_cache.run_folder import RunFolder
from tiekd_cache.stages import run_distill
from tiekd_cache.store import ResponseStore, open_store
from tiekd_cache.teacher_stores import choose_frames, open_stores, recorded_stores

FRAMES = MemoryFrames(6)
SIZE = FRAMES.image_size


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[ResponseStore]:
    """Two teachers of the same frames; the second says 1.2 times what the first says, at half the resolution."""
    folder = tmp_path_factory.mktemp("stores")
    precompute(FormulaTeacher(), FRAMES, folder / "a.zarr", PrecomputeConfig())
    precompute(FormulaTeacher(gain=1.2, scale=2), FRAMES, folder / "b.zarr", PrecomputeConfig())
    return [open_store(folder / name) for name in ("a.zarr", "b.zarr")]


def dataset(stores: list[ResponseStore], **changes: Any) -> ResponseDataset:
    return ResponseDataset(FRAMES, stores, TrainTransform((48, 64), 10), seed=4, **changes)


def test_every_store_is_moved_by_the_transform_of_a_single_one(stores: list[ResponseStore]) -> None:
    both = dataset(stores, with_gt=True)
    alone = [dataset([store], with_gt=True) for store in stores]
    for position in ((epoch, index) for epoch in range(3) for index in range(6)):
        sample, single = both[position], [one[position] for one in alone]
        assert sample.teacher_depth.shape == sample.valid_mask.shape == (2, 48, 64)
        assert torch.equal(sample.valid_mask, sample.teacher_depth > 0)
        for t in range(2):
            assert torch.equal(sample.image, single[t].image)
            assert torch.equal(sample.gt_depth, single[t].gt_depth)
            assert torch.equal(sample.teacher_depth[t], single[t].teacher_depth[0])
        assert not torch.equal(sample.teacher_depth[0], sample.teacher_depth[1])


def test_a_batch_is_its_samples(stores: list[ResponseStore]) -> None:
    for mix in ("average", "sample"):
        chosen = dataset(stores, with_gt=True, mix=mix)
        positions = [(0, 3), (0, 1), (1, 3)]
        batch = chosen.__getitems__(positions).to(torch.device("cpu"))
        for i, position in enumerate(positions):
            sample = chosen[position]
            assert batch.frame_ids[i] == sample.frame_ids[0]
            for name in ("image", "teacher_depth", "gt_depth", "valid_mask"):
                assert torch.equal(getattr(batch, name)[i], getattr(sample, name)), name


def test_sample_draws_one_store_and_leaves_the_augmentation_as_it_is(stores: list[ResponseStore]) -> None:
    both, drawn = dataset(stores), dataset(stores, mix="sample", weights=(1.0, 3.0))
    counts = [0, 0]
    for position in ((epoch, index) for epoch in range(50) for index in range(6)):
        sample, all_of_them = drawn[position], both[position]
        assert sample.teacher_depth.shape == (1, 48, 64)
        assert torch.equal(sample.image, all_of_them.image)
        same = [torch.equal(sample.teacher_depth[0], one) for one in all_of_them.teacher_depth]
        assert same.count(True) == 1
        counts[same.index(True)] += 1
    assert 50 < counts[0] < 100, "75 expected"


def test_ground_truth_that_is_not_asked_for_is_zero(stores: list[ResponseStore]) -> None:
    assert dataset(stores).__getitems__([(0, 0)]).gt_depth is None
    gt_depth = dataset(stores)[(0, 0)].gt_depth
    assert gt_depth.shape == (1, 48, 64)
    assert not gt_depth.any()


@pytest.mark.slow
def test_only_frames_that_every_store_answers(stores: list[ResponseStore], tmp_path: Path) -> None:
    fewer = FRAMES.subset(FRAMES.frame_ids[2:])
    precompute(FormulaTeacher(gain=1.1), fewer, tmp_path / "c.zarr", PrecomputeConfig())
    chosen = [stores[0], open_store(tmp_path / "c.zarr")]
    assert choose_frames(FRAMES.frame_ids, chosen, None) == FRAMES.frame_ids[2:]
    assert choose_frames(FRAMES.frame_ids, chosen, 1) == FRAMES.frame_ids[2:3]
    with pytest.raises(StoreError, match="lacks 2 of the split's 6 frames"):
        choose_frames(FRAMES.frame_ids, chosen[1:], None)
    other = FRAMES.subset(FRAMES.frame_ids[:2])
    precompute(FormulaTeacher(gain=1.3), other, tmp_path / "d.zarr", PrecomputeConfig())
    with pytest.raises(ConfigError, match=r"No frame of the split is answered by all of .*c\.zarr, .*d\.zarr"):
        choose_frames(FRAMES.frame_ids, [chosen[1], open_store(tmp_path / "d.zarr")], None)
    said: list[str] = []
    paths = [store.info.path for store in chosen]
    config = replace(CONFIG, teachers=TeachersConfig("sample"), train=replace(CONFIG.train, steps=1))
    run_distill(config, FRAMES, paths, tmp_path / "run", device="cpu", note=said.append)  # type: ignore[arg-type]
    assert f"Training on 4 frames that {paths[0]} and {paths[1]} answer" in said
    assert "Left out: 2 of 6 frames, which not every store answers" in said
    assert RunFolder(tmp_path / "run").run()["frames"] == 4


@pytest.mark.slow
def test_a_run_records_its_stores_and_resumes_from_these_alone(stores: list[ResponseStore], tmp_path: Path) -> None:
    config = replace(CONFIG, teachers=TeachersConfig("sample", (1.0, 2.0)))

    def train(run: Path, chosen: list[ResponseStore], **kwargs: Any) -> list[float]:
        distill(config, FRAMES, chosen, run, device=torch.device("cpu"), **kwargs)
        return losses(run)

    first = train(tmp_path / "run", stores)
    assert train(tmp_path / "again", stores) == first
    run = RunFolder(tmp_path / "run").run()
    assert [entry["fingerprint"] for entry in run["stores"]] == [store.schema.fingerprint for store in stores]
    assert recorded_stores(run) == [store.info.path for store in stores]
    assert recorded_stores({"store": "old.zarr"}) == [Path("old.zarr")]
    with pytest.raises(ConfigError, match="name it with --store"):
        recorded_stores({"fingerprint": "0", "stores": [{"fingerprint": "0"}]})
    for wrong in (stores[:1], stores[::-1]):
        with pytest.raises(StoreError, match="other answers"):
            train(tmp_path / "run", wrong, resume=True)
    assert train(tmp_path / "run", stores, resume=True) == first


def test_stores_that_do_not_go_together_are_refused(stores: list[ResponseStore], tmp_path: Path) -> None:
    paths = [store.info.path for store in stores]
    assert [store.info.path for store in open_stores(paths, FRAMES)] == paths
    with pytest.raises(ConfigError, match="hold the same answers"):
        open_stores([paths[0], paths[1], paths[0]], FRAMES)
    small = MemoryFrames(6, (32, 48))
    precompute(FormulaTeacher(), small, tmp_path / "small.zarr", PrecomputeConfig())
    with pytest.raises(ConfigError, match=r"small\.zarr answers images of 32x48 px.*64x96 px"):
        open_stores([paths[0], tmp_path / "small.zarr"], FRAMES)
    small.name = "elsewhere"
    precompute(FormulaTeacher(), small, tmp_path / "other.zarr", PrecomputeConfig())
    with pytest.raises(ConfigError, match="was made from elsewhere, the frames to train on are memory"):
        open_stores([paths[0], tmp_path / "other.zarr"], FRAMES)


@pytest.mark.parametrize(
    ("mix", "weights", "message"),
    [
        ("mean", (), "teachers.mix = 'mean' is not known. Use one of: average, sample"),
        ("average", (1.0, 0.0), "positive and finite"),
        ("sample", (1.0, float("nan")), "positive and finite"),
        ("sample", (1.0, 2.0, 3.0), "3 teachers.weights for 2 stores"),
    ],
)
def test_settings_that_make_no_sense(
    stores: list[ResponseStore], mix: str, weights: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        dataset(stores, mix=mix, weights=weights)


def test_shares_sum_to_one() -> None:
    assert TeachersConfig().shares(4) == (0.25, 0.25, 0.25, 0.25)
    assert TeachersConfig(weights=(1.0, 3.0)).shares(2) == (0.25, 0.75)


def test_the_transform_takes_maps_one_by_one_or_stacked() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 80, 3), np.uint8)
    maps = rng.uniform(1, 80, (3, 60, 80)).astype(np.float32)
    transform = TrainTransform((32, 40), 0)
    for seed in range(12):
        _, stacked, _ = transform(image, maps, None, np.random.default_rng(seed))
        for one, moved in zip(maps, stacked, strict=True):
            _, alone, _ = transform(image, one, None, np.random.default_rng(seed))
            np.testing.assert_array_equal(moved, alone)


def test_a_recipe_names_further_stores_and_how_they_are_mixed(tmp_path: Path) -> None:
    file = tmp_path / "two.toml"
    file.write_text('[teacher]\nfurther_stores = ["b.zarr"]\n[teachers]\nmix = "sample"\nweights = [1, 2]\n')
    recipe = read_recipe(file)
    assert recipe.store_paths == [recipe.store_path, Path("b.zarr")]
    assert recipe.distill.teachers == TeachersConfig("sample", (1.0, 2.0))
