"""Validation shows mistakes early, keeps the best student, and disturbs nothing; numbers go to TensorBoard too."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import MemoryFrames
from test_distill import StopAfter, losses, with_train

from tiekd_cache import training_loop
from tiekd_cache.distill import DistillReport, InterruptedRunError
from tiekd_cache.errors import CheckpointError, ConfigError
from tiekd_cache.progress import no_progress_bar
from tiekd_cache.run_folder import RunFolder
from tiekd_cache.stages import run_distill
from tiekd_cache.store import ResponseStore
from tiekd_cache.students import export_student, load_student
from tiekd_cache.validation import is_better, validate, validation_frames


def run(
    store: ResponseStore,
    path: Path,
    note: Callable[[str], None] = print,
    resume: bool = False,
    progress: Any = no_progress_bar,
    **train: Any,
) -> DistillReport:
    return run_distill(
        with_train(picture_frames=0, **train),
        MemoryFrames(6),  # type: ignore[arg-type]
        [store.info.path],
        path,
        device="cpu",
        validation=MemoryFrames(4, without_gt=[1]),  # type: ignore[arg-type]
        note=note,
        resume=resume,
        progress=progress,
    )


def test_frames_are_spread_over_those_with_ground_truth() -> None:
    source: Any = MemoryFrames(10, without_gt=[0])
    frames = validation_frames(source, 3)
    assert frames is not None
    assert list(frames.frame_ids) == [source.frame_ids[i] for i in (1, 5, 9)]
    assert validation_frames(source, 0) is None
    said: list[str] = []
    assert validation_frames(MemoryFrames(2, without_gt=[0, 1]), 3, said.append) is None  # type: ignore[arg-type]
    assert validation_frames(None, 3, said.append) is None
    assert [text.startswith("No validation") for text in said] == [True, True]
    assert [is_better(0.2, None), is_better(0.2, 0.3), is_better(0.3, 0.3), is_better(float("nan"), None)] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.slow
def test_the_best_validated_student_is_kept_and_training_is_undisturbed(
    store: ResponseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    report = run(store, tmp_path / "run", said.append, validate_every=2, validate_frames=2)
    folder = RunFolder(tmp_path / "run")
    records = folder.validations()
    assert [record["step"] for record in records] == [1, 2, 4, 6]
    assert {"abs_rel", "rmse", "a1", "frames", "seconds"} <= set(records[0])
    assert records[0]["frames"] == 2
    assert sum("abs_rel" in text for text in said) == 4
    best = min(records, key=lambda record: record["abs_rel"])
    assert report.best == {"step": best["step"], "abs_rel": best["abs_rel"]}
    frames = validation_frames(MemoryFrames(4, without_gt=[1]), 2)  # type: ignore[arg-type]
    assert frames is not None
    assert validate(load_student(folder.best_checkpoint), frames)["abs_rel"] == pytest.approx(best["abs_rel"])
    assert run(store, tmp_path / "off", said.append, validate_frames=0).best is None
    assert losses(tmp_path / "off") == losses(tmp_path / "run")
    off = load_student(tmp_path / "off" / "best.pt").state_dict()
    last = load_student(folder.last_checkpoint).state_dict()
    assert all(torch.equal(off[name], last[name]) for name in off)

    # where the first validation is the best one, its student is kept
    answers = iter([0.1, 0.2, float("nan"), 0.3])
    monkeypatch.setattr(
        training_loop, "validate", lambda *args: {**dict.fromkeys(("rmse", "a1"), 1.0), "abs_rel": next(answers)}
    )
    assert run(store, tmp_path / "early", validate_every=2, validate_frames=2).best == {"step": 1, "abs_rel": 0.1}
    early = load_student(tmp_path / "early" / "best.pt").state_dict()
    assert not torch.equal(early["head.weight"], last["head.weight"])
    assert RunFolder(tmp_path / "early").is_finished()


@pytest.mark.slow
def test_a_run_stopped_where_it_would_validate_does_so_when_it_goes_on(store: ResponseStore, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 3, "validate_every": 2, "validate_frames": 1}
    whole = run(store, tmp_path / "whole", **settings)
    with pytest.raises(InterruptedRunError):
        run(store, tmp_path / "run", progress=StopAfter(1, signal.SIGINT), **settings)
    folder = RunFolder(tmp_path / "run")
    assert [record["step"] for record in folder.validations()] == [1]
    assert run(store, tmp_path / "run", resume=True, **settings).best == whole.best
    assert [record["step"] for record in folder.validations()] == [1, 2, 3]
    kept, expected = (load_student(tmp_path / name / "best.pt").state_dict() for name in ("run", "whole"))
    assert all(torch.equal(kept[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_numbers_go_to_tensorboard_and_come_back(store: ResponseStore, tmp_path: Path) -> None:
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    settings: dict[str, Any] = {"steps": 3, "tensorboard": True, "validate_frames": 1}
    with pytest.raises(InterruptedRunError):
        run(store, tmp_path / "run", progress=StopAfter(1, signal.SIGINT), **settings)
    run(store, tmp_path / "run", resume=True, **settings)
    events = reader.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) >= {"train/loss", "train/lr", "train/l_dpm", "validation/abs_rel"}
    found = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert found == [(step, pytest.approx(loss)) for step, loss in enumerate(losses(tmp_path / "run"), 1)]


def test_without_tensorboard_one_line_says_what_to_install(
    store: ResponseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"TensorBoard.*pip install 'tiekd-cache\[tensorboard\]'"):
        run(store, tmp_path / "other", tensorboard=True)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("suffix", [".safetensors", pytest.param(".pt", marks=pytest.mark.slow)])
def test_a_student_is_exported_by_itself(store: ResponseStore, tmp_path: Path, suffix: str) -> None:
    run(store, tmp_path / "run", steps=1, validate_frames=0, channels_last=True)
    target = tmp_path / f"student{suffix}"
    size = export_student(tmp_path / "run" / "last.pt", target)
    assert size == target.stat().st_size < 0.5 * (tmp_path / "run" / "last.pt").stat().st_size
    exported, own = load_student(target), load_student(tmp_path / "run" / "last.pt")
    assert exported.settings() == own.settings()
    assert all(torch.equal(exported.state_dict()[name], weights) for name, weights in own.state_dict().items())
    target.write_bytes(target.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=f"student{suffix} is truncated"):
        load_student(target)


def test_files_that_are_no_students_are_named(tmp_path: Path) -> None:
    import safetensors.torch

    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.safetensors lacks a student's settings"):
        load_student(tmp_path / "a.safetensors")
    meta = {"format": "tiekd-student/9", "settings": json.dumps({}), "meta": json.dumps({})}
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "b.safetensors", metadata=meta)
    with pytest.raises(CheckpointError, match="no student's file of format"):
        load_student(tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match="No checkpoint at"):
        load_student(tmp_path / "c.safetensors")
    with pytest.raises(ConfigError, match=r"ends in \.pt or \.safetensors"):
        export_student(tmp_path / "b.safetensors", tmp_path / "a.onnx")
