"""A run that was killed and resumed equals an undisturbed one, to the last bit; on other answers only when told to."""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import FormulaTeacher, MemoryFrames
from test_distill import CONFIG, StopAfter, losses, train, with_train

from tiekd_cache import training_parts
from tiekd_cache.data.synthetic_kitti import write_synthetic_kitti
from tiekd_cache.distill import InterruptedRunError, distill
from tiekd_cache.errors import StoreError
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.run_folder import RunFolder
from tiekd_cache.stages import run_distill
from tiekd_cache.store import ResponseStore, open_store
from tiekd_cache.students import load_student
from tiekd_cache.teacher_stores import choose_frames

sys.path.insert(0, str(Path(__file__).parent / "e2e"))

from command_line import start, succeed


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_student(run / "best.pt").state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[key], b[key]) for key in b)


def without_seconds(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in RunFolder(run).metrics()]


def drawing(build: Callable[..., Any]) -> Callable[..., Any]:
    """A student that draws random numbers while it learns, as backbones with dropout do."""

    def built(*args: Any, **kwargs: Any) -> Any:
        student = build(*args, **kwargs)
        student.register_forward_hook(lambda m, i, out: torch.nn.functional.dropout(out, 0.3, m.training))
        return student

    return built


@pytest.mark.slow
def test_what_a_student_draws_is_the_same_after_a_resume(
    store: ResponseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_train(ema_decay=0.9)
    plain = train(store, tmp_path / "plain", with_train(steps=1))
    monkeypatch.setattr(training_parts, "build_student", drawing(training_parts.build_student))
    whole = train(store, tmp_path / "whole", config)
    assert whole[0] != plain[0], "the student draws nothing"
    with pytest.raises(InterruptedRunError):
        train(store, tmp_path / "run", config, progress=StopAfter(2, signal.SIGINT))
    torch.manual_seed(1234)  # whatever the process did meanwhile
    train(store, tmp_path / "run", resume=True)
    assert without_seconds(tmp_path / "run") == without_seconds(tmp_path / "whole")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole")), "the averaged weights differ"


@pytest.mark.slow
def test_another_store_only_when_told_and_it_is_recorded(store: ResponseStore, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        train(store, tmp_path / "run", progress=StopAfter(2, signal.SIGINT))
    done = len(losses(tmp_path / "run"))
    precompute(FormulaTeacher(gain=1.1), MemoryFrames(6), tmp_path / "b.zarr", PrecomputeConfig())
    other = open_store(tmp_path / "b.zarr")
    with pytest.raises(StoreError, match=r"other answers.*--other-store"):
        train(other, tmp_path / "run", resume=True)
    train(other, tmp_path / "run", resume=True, other_store=True)
    run = RunFolder(tmp_path / "run").run()
    assert run["fingerprint"] == other.info.schema.fingerprint
    [earlier] = run["earlier_stores"]
    assert (earlier["fingerprint"], earlier["until_step"]) == (store.info.schema.fingerprint, done)
    kept = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["meta"]
    assert kept["fingerprint"] == other.info.schema.fingerprint
    with pytest.raises(StoreError, match="other answers"):
        train(store, tmp_path / "run", resume=True)
    train(store, tmp_path / "run", resume=True, other_store=True)  # it is finished: nothing is learned any more
    assert RunFolder(tmp_path / "run").run() == {**run, "finished": True}


@pytest.mark.slow
def test_a_finished_run_keeps_its_pictures(store: ResponseStore, tmp_path: Path) -> None:
    path, source = tmp_path / "run", MemoryFrames(6)
    run_distill(with_train(steps=1), source, [store.info.path], path, device="cpu")
    drawn = RunFolder(path).pictures.read_bytes()
    precompute(FormulaTeacher(gain=1.3), source, tmp_path / "b.zarr", PrecomputeConfig())
    run_distill(CONFIG, source, [tmp_path / "b.zarr"], path, device="cpu", resume=True, other_store=True)
    assert RunFolder(path).pictures.read_bytes() == drawn
    RunFolder(path).pictures.unlink()  # as a kill between training and drawing leaves it
    run_distill(CONFIG, source, [store.info.path], path, device="cpu", resume=True)
    assert RunFolder(path).pictures.read_bytes() == drawn


def test_other_frames_of_the_same_store_are_refused_too(store: ResponseStore, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        train(store, tmp_path / "run", progress=StopAfter(2, signal.SIGINT))
    fewer = MemoryFrames(6).subset(choose_frames(MemoryFrames(6).frame_ids, [store], 4))
    with pytest.raises(StoreError, match="trained on 6 frames, but these 4 are others"):
        distill(CONFIG, fewer, [store], tmp_path / "run", device=torch.device("cpu"), resume=True)


@pytest.mark.slow
def test_a_run_without_a_checkpoint_starts_anew_and_leaves_nothing_old(store: ResponseStore, tmp_path: Path) -> None:
    run = tmp_path / "run"
    whole = train(store, run)
    folder = RunFolder(run)
    assert folder.is_finished()
    folder.last_checkpoint.unlink()
    folder.best_checkpoint.unlink()
    folder.validation_file.write_text('{"step": 1, "abs_rel": 0.0}\n')
    assert train(store, run, resume=True) == whole
    assert folder.validations() == []
    assert train(store, run, resume=True) == whole, "a finished run is left as it is"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_random_steps_through_the_command_line(tmp_path: Path) -> None:
    write_synthetic_kitti(tmp_path / "data" / "kitti", train_frames=3, test_frames=1)
    succeed("precompute", "--teacher", "lidar", cwd=tmp_path)
    command = [
        "distill", "--steps", "16", "--no-pretrained", "--batch-size", "2", "--crop", "64x96", "--decoder-width",
        "0.125", "--workers", "0", "--set", "student.num_bins=33", "--sigma", "2.5", "--save-every", "3",
        "--ema-decay", "0.9", "--validate-frames", "1", "--validate-every", "5", "--set", "train.picture_frames=0",
    ]  # fmt: skip
    succeed(*command, "--run", "whole", cwd=tmp_path)
    rng, run = random.Random(1), tmp_path / "killed"
    for target in sorted(rng.sample(range(2, 15), 3)):
        resume = ["--resume"] if run.exists() else []
        process = start([*(["distill", *resume] if resume else command), "--run", "killed"], tmp_path)
        deadline = time.monotonic() + 120
        while len(RunFolder(run).metrics()) < target and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    succeed("distill", "--resume", "--run", "killed", cwd=tmp_path)
    assert without_seconds(run) == without_seconds(tmp_path / "whole")
    assert same(weights(run), weights(tmp_path / "whole"))
    lines = [[json.loads(line) for line in (tmp_path / name / "validation.jsonl").read_text().splitlines()]
             for name in ("killed", "whole")]  # fmt: skip
    assert [(line["step"], line["abs_rel"]) for line in lines[0]] == [(n["step"], n["abs_rel"]) for n in lines[1]]
    assert RunFolder(run).config() == RunFolder(tmp_path / "whole").config()
