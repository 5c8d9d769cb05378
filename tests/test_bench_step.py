"""The step benchmark: every way takes the same step, and a teacher online says what its store does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fakes import FormulaTeacher, MemoryFrames
from test_precompute_pipeline import SmallNetwork

from tiekd_cache import config as c
from tiekd_cache.bench import OnlineTeacher
from tiekd_cache.bench.distill_step import use_released_formulas
from tiekd_cache.cli import main
from tiekd_cache.dataset import StepBatches
from tiekd_cache.distill_config import DistillConfig
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.ranks import Ranks
from tiekd_cache.store import ResponseStore, open_store
from tiekd_cache.teachers import Teacher
from tiekd_cache.training_parts import TrainingParts, build_parts
from tiekd_cache.training_step import training_step

CONFIG = c.from_mapping(
    DistillConfig,
    {
        "student": {"name": "resnet18", "pretrained": False, "decoder_width": 0.125, "num_bins": 65},
        "loss": {"sigma": 1.5},
        "train": {"batch_size": 2, "crop": [32, 64], "row_cut": 4, "steps": 6},
    },
)
SOURCE = MemoryFrames(6)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ResponseStore:
    path = tmp_path_factory.mktemp("store") / "a.zarr"
    precompute(FormulaTeacher(), SOURCE, path, PrecomputeConfig(flip_average=False))
    return open_store(path)


def parts_of(store: ResponseStore) -> TrainingParts:
    return build_parts(CONFIG, SOURCE, [store], torch.device("cpu"))


def curve(parts: TrainingParts) -> list[float]:
    """The loss of every step of a run."""
    parts.student.train()
    order = StepBatches(len(SOURCE.frame_ids), CONFIG.train.batch_size, 0, parts.total_steps, CONFIG.train.seed)
    losses = []
    for number, positions in enumerate(order, start=1):
        batch = parts.dataset.__getitems__(positions).to(torch.device("cpu"))
        losses.append(training_step(parts, [batch], number, 35.0, Ranks())[0]["loss"])
    return losses


@pytest.mark.slow
def test_the_released_formulas_give_the_same_curve(store: ResponseStore) -> None:
    plain = parts_of(store)
    use_released_formulas(plain)
    assert curve(plain) == pytest.approx(curve(parts_of(store)), rel=1e-3)


def test_a_student_of_the_cache_learns_what_one_with_the_teacher_online_does(store: ResponseStore) -> None:
    online = parts_of(store)
    online.dataset.stores = [OnlineTeacher(FormulaTeacher(), SOURCE, 2)]  # type: ignore[list-item]
    cached, other = curve(parts_of(store)), curve(online)
    assert cached == pytest.approx(other, rel=1e-3)
    assert cached != other, "half a step of rounding lies between them"


@pytest.mark.parametrize("teacher", [FormulaTeacher(), SmallNetwork()])
def test_online_and_stored_responses_differ_by_half_a_step(teacher: Teacher, tmp_path: Path) -> None:
    precompute(teacher, SOURCE, tmp_path / "a.zarr", PrecomputeConfig(flip_average=False))
    stored, online = open_store(tmp_path / "a.zarr"), OnlineTeacher(teacher, SOURCE, 3)
    wanted = list(SOURCE.frame_ids[1:4])
    difference = np.abs(online.read(wanted) - stored.read(wanted))
    assert difference.max() <= stored.schema.step / 2 + 1e-5
    assert np.array_equal(online.read([SOURCE.frame_ids[5]])[0], online.read(SOURCE.frame_ids[5:6])[0])


@pytest.mark.slow
def test_the_command_prints_a_row_a_way() -> None:
    small = ["--batch-size", "1", "--crop", "64x96", "--decoder-width", "0.125", "--steps", "1", "--repeats", "1"]
    result = CliRunner().invoke(main, ["bench", "step", *small, "--json", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    rows = {row["way"]: row for row in json.loads(result.stdout)}
    assert len(rows) == 3
    assert rows["from the store"]["time_ratio"] == 1
    assert rows["from the store, released formulas"]["memory_ratio"] > 1
