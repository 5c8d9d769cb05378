"""Every setting of stage two arrives in the object that it is meant for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fakes import MemoryFrames

from tiekd_cache import config as c
from tiekd_cache.distill_config import DistillConfig
from tiekd_cache.errors import ConfigError
from tiekd_cache.store import ResponseStore
from tiekd_cache.training_parts import TrainingParts, build_parts, build_student_from, num_workers

BASE: dict[str, Any] = {
    "student": {"pretrained": False, "decoder_width": 0.125, "num_bins": 33},
    "train": {"crop": [48, 64], "row_cut": 20, "steps": 50, "batch_size": 2},
}


def build(store: ResponseStore, **changes: Any) -> TrainingParts:
    return build_parts(config_with(**changes), MemoryFrames(6), [store], torch.device("cpu"))


def config_with(**changes: Any) -> DistillConfig:
    mapping: dict[str, Any] = {key: dict(value) for key, value in BASE.items()}
    for dotted, value in changes.items():
        c.set_value(mapping, dotted.replace("__", "."), value)
    return c.from_mapping(DistillConfig, mapping)


# name of the setting: (another value, where it must show in the built objects)
ARRIVES: dict[str, tuple[Any, Callable[[TrainingParts], Any]]] = {
    "student.decoder_width": (0.25, lambda p: p.student.settings()["decoder_width"]),
    "student.decoder": ("slim", lambda p: p.student.settings()["decoder"]),
    "student.num_bins": (65, lambda p: p.student.head.out_channels),
    "student.spacing": ("log", lambda p: p.student.bins.spacing),
    "student.min_depth": (0.5, lambda p: round(p.student.bins.min_depth, 6)),
    "student.max_depth": (90.0, lambda p: p.student.bins.max_depth),
    "loss.name": ("tie-kd-dpm", lambda p: p.objective.weights),
    "loss.terms": ({"dpm": 0.5, "gt_si": 2.0}, lambda p: p.objective.weights),
    "loss.alpha": (0.7, lambda p: p.objective.weights["dpm"]),
    "loss.sigma": (0.33, lambda p: p.objective.target.sigma),
    "loss.sigma_share": (0.02, lambda p: p.objective.target.sigma_share),
    "loss.form": ("gaussian", lambda p: p.objective.target.form),
    "loss.scale": (3.0, lambda p: p.objective.scale),
    "augmentation.rotate_deg": (7.0, lambda p: p.dataset.transform.augmentation.rotate_deg),
    "augmentation.rotate_p": (0.25, lambda p: p.dataset.transform.augmentation.rotate_p),
    "augmentation.flip_p": (0.125, lambda p: p.dataset.transform.augmentation.flip_p),
    "augmentation.colour_p": (0.75, lambda p: p.dataset.transform.augmentation.colour_p),
    "augmentation.gamma": ((0.7, 1.3), lambda p: p.dataset.transform.augmentation.gamma),
    "augmentation.brightness": ((0.8, 1.2), lambda p: p.dataset.transform.augmentation.brightness),
    "augmentation.channel": ((0.6, 1.1), lambda p: p.dataset.transform.augmentation.channel),
    "optimiser.lr": (5e-4, lambda p: p.optimiser.param_groups[0]["max_lr"]),
    "optimiser.betas": ((0.8, 0.88), lambda p: p.optimiser.param_groups[0]["betas"]),
    "optimiser.weight_decay": (0.3, lambda p: p.optimiser.param_groups[0]["weight_decay"]),
    "optimiser.warmup_share": (0.5, lambda p: p.schedule._schedule_phases[0]["end_step"]),
    "optimiser.div_factor": (10.0, lambda p: p.optimiser.param_groups[0]["initial_lr"]),
    "optimiser.final_div_factor": (10.0, lambda p: p.optimiser.param_groups[0]["min_lr"]),
    "train.epochs": (7, lambda p: p.total_steps),
    "train.steps": (60, lambda p: p.total_steps),
    "train.batch_size": (3, lambda p: p.total_steps),
    "train.crop": ((32, 64), lambda p: p.dataset.transform.crop),
    "train.row_cut": (10, lambda p: p.dataset.transform.row_cut),
    "train.precision": ("bf16", lambda p: p.module.precision),
    "train.channels_last": (True, lambda p: p.module.channels_last),
    "train.accumulate": (2, lambda p: p.accumulate),
    "train.ema_decay": (0.5, lambda p: 0.0 if p.average is None else p.average.decay),
    "teachers.mix": ("sample", lambda p: p.dataset.mix),
    "teachers.weights": ((2.0,), lambda p: p.dataset.weights),
    "train.seed": (9, lambda p: (p.dataset.seed, float(p.student.head.weight.detach().sum()))),
}
EXPECTED: dict[str, Any] = {
    "loss.name": {"dpm": 1.0},
    "optimiser.warmup_share": 0.5 * 51 - 1,
    "optimiser.div_factor": 1e-3 / 10,
    "optimiser.final_div_factor": 1e-3 / 25 / 10,
    "train.epochs": 21,
    "train.batch_size": 96,
}
# Settings of the loop itself: held by the tests named here.
ELSEWHERE = {
    "student.name": "test_an_unknown_student_is_refused",
    "student.pretrained": "tests/test_students.py",
    "student.output": "test_the_output_follows_the_loss",
    "optimiser.grad_clip": "tests/test_distill.py",
    "train.limit_frames": "tests/test_distill.py",
    "train.workers": "test_workers",
    "train.save_every": "tests/test_distill.py",
    "train.picture_frames": "tests/test_distill.py",
    "train.compile": "tests/test_training_step.py",
    "train.validate_every": "tests/test_validation.py",
    "train.validate_frames": "tests/test_validation.py",
    "train.tensorboard": "tests/test_validation.py",
}


def test_no_setting_is_forgotten_here() -> None:
    assert sorted([*ARRIVES, *ELSEWHERE]) == sorted(c.leaf_names(DistillConfig))


@pytest.mark.parametrize("name", ARRIVES)
def test_a_changed_setting_arrives(name: str, store: ResponseStore) -> None:
    value, where = ARRIVES[name]
    base: dict[str, Any] = {}
    if name in ("train.epochs", "train.batch_size"):
        base = {"train__steps": None, "train__epochs": 48 if name == "train.batch_size" else 24}
    if name == "student.spacing":  # the released form needs finer bins
        base = {"loss__form": "gaussian"}
    plain = where(build(store, **base))
    changed = where(
        build(store, **{**base, name.replace(".", "__"): list(value) if isinstance(value, tuple) else value})
    )
    assert changed != plain
    if name == "train.seed":
        assert changed[0] == 9
    else:
        assert changed == pytest.approx(EXPECTED.get(name, value))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("optimiser.lr", -1.0),
        ("optimiser.lr", float("nan")),
        ("optimiser.betas", [0.9, 1.0]),
        ("optimiser.weight_decay", -0.1),
        ("optimiser.warmup_share", 1.5),
        ("optimiser.div_factor", 0.0),
        ("optimiser.final_div_factor", 0.0),
        ("optimiser.grad_clip", -1.0),
        ("train.seed", -1),
        ("train.workers", -1),
    ],
)
def test_a_setting_that_trains_nothing_is_named(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{setting} = .*: "):
        config_with(**{setting.replace(".", "__"): value})


def test_workers() -> None:
    assert num_workers(config_with(train__workers=3)) == 3
    assert num_workers(config_with()) >= 0


def test_an_unknown_student_is_refused(store: ResponseStore) -> None:
    with pytest.raises(ConfigError, match="resnet18"):
        build(store, student__name="resnet19")


@pytest.mark.parametrize(
    ("loss", "output", "expected"),
    [
        ("tie-kd", "auto", "dpm"),
        ("tie-kd-depth", "auto", "dpm"),
        ("baseline", "auto", "depth"),
        ("baseline", "dpm", "dpm"),
        ("tie-kd-depth", "depth", "depth"),
        ("res-kd-ssim-si", "auto", "depth"),
    ],
)
def test_the_output_follows_the_loss(loss: str, output: str, expected: str) -> None:
    config = config_with(loss__name=loss, student__output=output)
    assert build_student_from(config, pretrained=False).output == expected


def test_a_crop_larger_than_the_images_is_refused(store: ResponseStore) -> None:
    with pytest.raises(ConfigError, match="larger than the images"):
        build(store, train__crop=[352, 704])


@pytest.mark.parametrize("terms", [{"gt_si": 1.0}, {"ssim": 1.0, "gt_si": 0.0}])
def test_ground_truth_that_no_frame_has_is_refused(store: ResponseStore, terms: dict[str, float]) -> None:
    without, config = MemoryFrames(6, without_gt=range(6)), config_with(loss__terms=terms)
    with pytest.raises(ConfigError, match="needs ground truth, and none of the 6 frames"):
        build_parts(config, without, [store], torch.device("cpu"))
    build_parts(config_with(), without, [store], torch.device("cpu"))  # the default loss needs none


def test_the_row_cut_is_the_data_sets_where_none_is_given(store: ResponseStore) -> None:
    mapping = {key: dict(value) for key, value in BASE.items()}
    del mapping["train"]["row_cut"]
    for name, expected in (("kitti", 110), ("nyu", 0), ("pictures", 0)):
        source = MemoryFrames(6)
        source.name = name
        parts = build_parts(c.from_mapping(DistillConfig, mapping), source, [store], torch.device("cpu"))
        assert parts.dataset.transform.row_cut == expected
