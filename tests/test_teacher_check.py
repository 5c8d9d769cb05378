"""Running a teacher again: the same one agrees with its store, another one or a changed answer is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import FormulaTeacher, MemoryFrames
from store_helpers import build_schema, frame_list

from tiekd_cache.errors import ConfigError, StoreError
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.store import open_store
from tiekd_cache.teacher_check import check_against_teacher, teacher_settings, teacher_to_run


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("flip", [False, True])
def test_the_teacher_that_made_a_store_agrees_with_it(tmp_path: Path, scale: int, flip: bool) -> None:
    source = MemoryFrames(6)
    precompute(FormulaTeacher(scale), source, tmp_path / "a.zarr", PrecomputeConfig(flip_average=flip))
    check = check_against_teacher(open_store(tmp_path / "a.zarr"), FormulaTeacher(scale), source, 4)
    assert len(check.frames) == 4
    assert check.problems == []
    assert check.worst.difference <= 1 / 128 + 1e-6
    assert check.worst.difference == max(frame.difference for frame in check.frames)


def test_the_frames_are_random_but_the_same_for_a_seed(tmp_path: Path) -> None:
    source = MemoryFrames(9)
    precompute(FormulaTeacher(), source, tmp_path / "a.zarr", PrecomputeConfig())
    store = open_store(tmp_path / "a.zarr")
    chosen = [
        {frame.frame_id for frame in check_against_teacher(store, FormulaTeacher(), source, 3, seed=seed).frames}
        for seed in (0, 0, 1)
    ]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(check_against_teacher(store, FormulaTeacher(), source, 100).frames) == 9, "at most all"


def test_a_changed_answer_is_found_and_named(tmp_path: Path) -> None:
    source = MemoryFrames(4)
    precompute(FormulaTeacher(), source, tmp_path / "a.zarr", PrecomputeConfig(flip_average=False))
    changed = FormulaTeacher(spoil=(source.frame_ids[2], 33.0))  # the digest does not tell
    check = check_against_teacher(open_store(tmp_path / "a.zarr"), changed, source, 4)
    [problem] = check.problems
    assert source.frame_ids[2] in problem
    assert "now says 33.0000 m at row 3, column 5" in problem
    assert check.to_json()["worst"]["frame_id"] == source.frame_ids[2]
    assert len(check.to_json()["problems"]) == 1


def test_another_teacher_or_other_data_are_refused(tmp_path: Path) -> None:
    source = MemoryFrames(3)
    precompute(FormulaTeacher(), source, tmp_path / "a.zarr", PrecomputeConfig())
    store = open_store(tmp_path / "a.zarr")
    with pytest.raises(StoreError, match=r"teacher\.digest"):
        check_against_teacher(store, FormulaTeacher(gain=1.5), source, 2)
    with pytest.raises(StoreError, match=r"input\.image_size"):
        check_against_teacher(store, FormulaTeacher(), MemoryFrames(3, image_size=(32, 96)), 2)


def test_which_teacher_is_to_run() -> None:
    def schema(**teacher: object) -> object:
        plain = {"name": "bts", "digest": "0", "architecture": "bts_resnet50", "weights": "random:3", "trained": False}
        return build_schema(frame_list(2), teacher={**plain, **teacher})

    assert teacher_to_run(schema(), None) == ("bts-resnet50", "random:3")  # type: ignore[arg-type]
    assert teacher_to_run(schema(weights="bts.pth"), None) == ("bts-resnet50", None)  # type: ignore[arg-type]
    assert teacher_to_run(schema(weights="bts.pth"), "x.pth") == ("bts-resnet50", "x.pth")  # type: ignore[arg-type]
    lidar = schema(name="lidar", architecture="lidar_delaunay", weights="none", trained=True)
    assert teacher_to_run(lidar, None) == ("lidar", None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="imported"):
        teacher_to_run(schema(architecture="imported"), None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="does not have"):
        teacher_to_run(schema(name="other", architecture="other_v1"), None)  # type: ignore[arg-type]


def test_a_store_never_decides_which_code_runs() -> None:
    named = {"name": "os:abort", "digest": "0", "architecture": "x_v1", "weights": "none", "trained": True}
    schema = build_schema(frame_list(2), teacher=named)
    with pytest.raises(ConfigError, match=r"--teacher package\.module:factory"):
        teacher_to_run(schema, None)
    assert teacher_to_run(schema, None, "mine:build") == ("mine:build", None)
    assert teacher_to_run(schema, "x.pth", "mine:build") == ("mine:build", "x.pth")


@pytest.mark.parametrize(
    ("preprocessing", "settings"),
    [
        ({}, {}),
        ({"max_depth": 80.0}, {"trained_on": "kitti"}),
        ({"max_depth": 10.0}, {"trained_on": "nyu"}),
        ({"align": {"method": "gt", "max_depth": 10.0}}, {"align": "gt", "trained_on": "nyu"}),
    ],
)
def test_the_other_settings_come_from_the_store(preprocessing: object, settings: object) -> None:
    images = {"crop": "none", "image_size": (96, 128), "flip_average": True, "preprocessing": preprocessing}
    schema = build_schema(frame_list(2), input=images, native_size=(96, 128))
    assert teacher_settings(schema) == settings
