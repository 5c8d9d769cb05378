"""Stage two learns, repeats itself to the last bit, resumes as if undisturbed, and says what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import FormulaTeacher, MemoryFrames

from tiekd_cache import config as c
from tiekd_cache.distill import InterruptedRunError, _errors_in_one_line, distill
from tiekd_cache.distill_config import DistillConfig
from tiekd_cache.errors import CheckpointError, ConfigError, RangeError, StoreError
from tiekd_cache.losses.loss_config import OBJECTIVES, LossConfig
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.run_folder import RunFolder
from tiekd_cache.stages import run_distill
from tiekd_cache.store import ResponseStore, open_store
from tiekd_cache.students import load_student
from tiekd_cache.teacher_stores import choose_frames

CONFIG = c.from_mapping(
    DistillConfig,
    {
        "student": {"name": "timm:lcnet_035", "pretrained": False, "decoder_width": 0.125, "num_bins": 33},
        "loss": {"form": "gaussian", "sigma": 2.5},
        "train": {"crop": [48, 64], "row_cut": 16, "steps": 6, "batch_size": 2, "workers": 0, "picture_frames": 1},
    },
)


def with_train(**changes: Any) -> DistillConfig:
    return replace(CONFIG, train=replace(CONFIG.train, **changes))


@pytest.fixture(scope="module")
def stopped(store: ResponseStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, with its last checkpoint."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    train(store, run)
    return run


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in RunFolder(run).metrics()]


def train(store: ResponseStore, run: Path, config: DistillConfig = CONFIG, **kwargs: Any) -> list[float]:
    source = MemoryFrames(6).subset(choose_frames(MemoryFrames(6).frame_ids, [store], config.train.limit_frames))
    distill(config, source, [store], run, device=torch.device("cpu"), **kwargs)
    return losses(run)


def test_the_loss_falls_and_the_run_folder_is_whole(store: ResponseStore, tmp_path: Path) -> None:
    config = with_train(steps=40)
    run_distill(config, MemoryFrames(6), [store.info.path], tmp_path / "run", device="cpu")
    values = losses(tmp_path / "run")
    assert len(values) == 40
    assert sum(values[-10:]) < 0.85 * sum(values[:10])
    folder = RunFolder.open(tmp_path / "run")
    assert folder.config() == config
    assert folder.run()["fingerprint"] == store.info.schema.fingerprint
    record = folder.metrics()[-1]
    assert {"step", "epoch", "loss", "lr", "grad_norm", "l_dpm", "l_ssim"} <= set(record)
    for picture in (folder.loss_picture, folder.pictures):
        assert picture.read_bytes().startswith(b"\x89PNG")
    student = load_student(folder.best_checkpoint)
    assert student.predict(torch.zeros(1, 3, 64, 96)).shape == (1, 1, 64, 96)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in ("tie-kd", "baseline") else pytest.mark.slow) for n in OBJECTIVES]
)
def test_a_step_of_every_objective(store: ResponseStore, tmp_path: Path, name: str) -> None:
    config = replace(with_train(steps=1), loss=LossConfig(name, form="gaussian", sigma=2.5))
    values = train(store, tmp_path / "run", config)
    records = RunFolder(tmp_path / "run").metrics()
    for record, value in zip(records, values, strict=True):
        terms = {key.removeprefix("l_"): value for key, value in record.items() if key.startswith("l_")}
        assert terms.keys() == OBJECTIVES[name].keys()
        assert value == pytest.approx(
            config.loss.total_scale * sum(weight * terms[term] for term, weight in OBJECTIVES[name].items()), rel=1e-5
        )
        assert record["grad_norm"] > 0
    regresses = name == "baseline" or name.startswith("res-kd")
    assert load_student(tmp_path / "run" / "best.pt").output == ("depth" if regresses else "dpm")


def test_same_seed_same_losses_to_the_last_bit_with_any_number_of_workers(store: ResponseStore, tmp_path: Path) -> None:
    first = train(store, tmp_path / "a")
    assert train(store, tmp_path / "b") == first
    assert train(store, tmp_path / "c", with_train(workers=2)) == first
    assert train(store, tmp_path / "d", with_train(seed=1)) != first


class StopAfter:
    """A progress bar that sends this process a signal after so many steps."""

    def __init__(self, steps: int, number: int) -> None:
        self.left, self.number = steps, number

    def __call__(self, total: int, description: str, unit: str, done: int = 0) -> StopAfter:
        return self

    def __enter__(self) -> StopAfter:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def set_postfix(self, *args: object, **kwargs: object) -> None:
        pass

    def update(self, count: int = 1) -> None:
        self.left -= count
        if self.left == 0:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_run_stopped_and_resumed_equals_an_undisturbed_one(
    store: ResponseStore, tmp_path: Path, number: signal.Signals
) -> None:
    whole = train(store, tmp_path / "whole")
    with pytest.raises(InterruptedRunError, match=r"after step \d of 6, which is saved.*--resume"):
        train(store, tmp_path / "run", progress=StopAfter(2, number))
    assert 2 <= len(losses(tmp_path / "run")) < 6
    assert train(store, tmp_path / "run", resume=True) == whole
    final, expected = (load_student(tmp_path / name / "best.pt").state_dict() for name in ("run", "whole"))
    assert all(torch.equal(final[key], expected[key]) for key in expected)


@pytest.mark.slow
def test_lines_after_the_last_checkpoint_are_written_anew(store: ResponseStore, tmp_path: Path) -> None:
    whole = train(store, tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        train(store, tmp_path / "run", progress=StopAfter(2, signal.SIGINT))
    metrics = tmp_path / "run" / "metrics.jsonl"
    done = len(losses(tmp_path / "run"))
    metrics.write_text(metrics.read_text() + json.dumps({"step": done + 1, "loss": 99.0}) + '\n{"step": ')
    assert train(store, tmp_path / "run", resume=True) == whole


@pytest.mark.slow
def test_save_every(store: ResponseStore, tmp_path: Path) -> None:
    class Boom(StopAfter):
        def update(self, count: int = 1) -> None:
            self.left -= count
            if self.left == 0:
                raise OSError("the machine is gone")

    with pytest.raises(OSError, match="gone"):
        train(store, tmp_path / "run", with_train(save_every=2), progress=Boom(4, 0))
    whole = train(store, tmp_path / "whole", with_train(save_every=2))
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"] == 2
    assert train(store, tmp_path / "run", resume=True) == whole


def test_limit_frames_and_picture_frames(store: ResponseStore, tmp_path: Path) -> None:
    train(store, tmp_path / "run", with_train(limit_frames=2, epochs=2, steps=None))
    assert RunFolder(tmp_path / "run").run()["frames"] == 2
    assert len(losses(tmp_path / "run")) == 2


def test_the_gradient_is_clipped(store: ResponseStore, tmp_path: Path) -> None:
    free = train(store, tmp_path / "free")
    tiny = replace(CONFIG, optimiser=replace(CONFIG.optimiser, grad_clip=1e-9))
    assert train(store, tmp_path / "tiny", tiny) != free


def test_a_loss_that_is_not_finite_names_the_frames(store: ResponseStore, tmp_path: Path) -> None:
    wild = replace(CONFIG, optimiser=replace(CONFIG.optimiser, lr=1e18, grad_clip=1e30))
    with pytest.raises(RangeError, match=r"loss is (nan|inf).*drive_0"):
        train(store, tmp_path / "run", wild)


def test_a_crop_that_the_student_does_not_meet_is_one_error(store: ResponseStore, tmp_path: Path) -> None:
    config = replace(with_train(crop=(47, 63)), student=replace(CONFIG.student, name="resnet18"))
    with pytest.raises(ConfigError, match=r"answers crops of 47x63 px with 48x64 px.*multiples of 2"):
        train(store, tmp_path / "run", config)


@pytest.mark.slow
def test_bins_may_begin_at_the_nearest_depth_that_the_store_has_seen(tmp_path: Path) -> None:
    source = MemoryFrames(2)
    config = with_train(crop=(64, 96), row_cut=0)
    log_bins = replace(config, student=replace(config.student, spacing="log", min_depth=1.0))
    precompute(FormulaTeacher(), source, tmp_path / "a.zarr", PrecomputeConfig())
    run_distill(log_bins, source, [tmp_path / "a.zarr"], tmp_path / "run", device="cpu")
    too_far = replace(log_bins, student=replace(log_bins.student, min_depth=70.0))
    with pytest.raises(ConfigError, match=r"range of 70 \.\. 80 m does not hold .*student\.min_depth=\d"):
        run_distill(too_far, source, [tmp_path / "a.zarr"], tmp_path / "far", device="cpu")
    spoiled = FormulaTeacher(spoil=(source.frame_ids[1], 0.5))  # at a pixel that the statistics do not look at
    precompute(spoiled, source, tmp_path / "b.zarr", PrecomputeConfig(flip_average=False))
    with pytest.raises(RangeError, match=rf"Depth 0\.5 m .*outside the bins.*{source.frame_ids[1]}"):
        run_distill(log_bins, source, [tmp_path / "b.zarr"], tmp_path / "near", device="cpu")
    for file in (tmp_path / "a.zarr" / "statistics").iterdir():
        file.unlink()
    with pytest.raises(ConfigError, match=r"range of 1 \.\. 80 m does not hold that of the store"):
        run_distill(log_bins, source, [tmp_path / "a.zarr"], tmp_path / "unknown", device="cpu")


@pytest.mark.slow
def test_a_run_folder_in_use_is_not_overwritten(store: ResponseStore, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        train(store, tmp_path / "run", progress=StopAfter(2, signal.SIGINT))
    with pytest.raises(ConfigError, match="--resume"):
        train(store, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"train\.steps \(6, now 7\).*Pass --resume.* its own, or pass another"):
        train(store, tmp_path / "run", with_train(steps=7))
    whole = train(store, tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match=r"finished run with other settings: train\.steps \(6, now 7\)") as refused:
        train(store, tmp_path / "run", with_train(steps=7))
    assert "--resume" not in str(refused.value), "it would be refused, too"
    assert train(store, tmp_path / "run") == whole, "nothing is left to do"


def test_resuming_on_another_store_is_refused(store: ResponseStore, tmp_path: Path) -> None:
    train(store, tmp_path / "run")
    precompute(FormulaTeacher(gain=1.1), MemoryFrames(6), tmp_path / "b.zarr", PrecomputeConfig())
    with pytest.raises(StoreError, match="other answers"):
        train(open_store(tmp_path / "b.zarr"), tmp_path / "run", resume=True)


def _state(payload: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, Any] = payload["optimiser"]["state"][0]
    return first


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda payload: payload.update(step=-1), "no number of its 6 steps"),
        (lambda payload: payload.update(step="3"), "no number of its 6 steps"),
        (lambda payload: payload.update(optimiser=[]), "does not fit this run"),
        (lambda payload: payload["optimiser"]["param_groups"][0].update(lr="fast"), "something else in lr"),
        (lambda payload: _state(payload).update(exp_avg=torch.zeros(1).expand(9, 9)), "of other weights"),
        (lambda payload: payload["optimiser"]["state"].update({10**6: {"exp_avg": torch.zeros(1)}}), "does not fit"),
        (lambda payload: payload["schedule"].update(step=3), "something else in step"),
        (lambda payload: payload["schedule"].update(base_lrs=1), "something else in base_lrs"),
        (lambda payload: payload.pop("schedule"), "does not fit this run"),
    ],
)
def test_a_checkpoint_with_other_things_in_it_is_one_clear_error(
    stopped: Path, store: ResponseStore, tmp_path: Path, change: Any, words: str
) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    RunFolder(run).update_run(finished=False)
    payload = torch.load(run / "last.pt", weights_only=True)
    change(payload)
    torch.save(payload, run / "last.pt")
    with pytest.raises(CheckpointError, match=words):
        train(store, run, resume=True)


def test_a_truncated_checkpoint_is_one_clear_error_unless_nothing_is_left_to_do(
    stopped: Path, store: ResponseStore, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    last = run / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    best = (run / "best.pt").read_bytes()
    assert train(store, run, resume=True) == losses(stopped)
    last.unlink()
    assert train(store, run, resume=True) == losses(stopped)
    assert (run / "best.pt").read_bytes() == best
    last.write_bytes(b"PK")
    RunFolder(run).update_run(finished=False)
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        train(store, run, resume=True)


def test_frames_without_a_response_are_left_out_only_with_a_reason(store: ResponseStore, tmp_path: Path) -> None:
    more = MemoryFrames(8)
    with pytest.raises(StoreError, match="lacks 2 of the split's 8 frames"):
        choose_frames(more.frame_ids, [store], None)
    with pytest.raises(ConfigError, match="none of the split's 1 frames"):
        choose_frames(["elsewhere/image_02/0000000000"], [store], None)
    assert choose_frames(more.frame_ids[:3], [store], 2) == more.frame_ids[:2]


def test_an_unfinished_store_is_refused_unless_allowed(tmp_path: Path) -> None:
    source = MemoryFrames(6)
    spoiled = FormulaTeacher(spoil=(source.frame_ids[5], -1.0))
    with pytest.raises(RangeError):
        precompute(spoiled, source, tmp_path / "a.zarr", PrecomputeConfig(shard_frames=2))
    path = tmp_path / "a.zarr"
    with pytest.raises(StoreError, match="4 of 6"):
        run_distill(CONFIG, source, [path], tmp_path / "run", device="cpu")
    run_distill(CONFIG, source, [path], tmp_path / "run", device="cpu", allow_partial=True)
    assert RunFolder(tmp_path / "run").run()["frames"] == 4


def test_a_store_of_other_data_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    source = MemoryFrames(2)
    precompute(FormulaTeacher(), source, tmp_path / "a.zarr", PrecomputeConfig())
    source.name = "elsewhere"
    with pytest.raises(ConfigError, match="was made from memory, the frames to train on are elsewhere"):
        run_distill(CONFIG, source, [tmp_path / "a.zarr"], tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (("Caught it.\nTraceback:\ntiekd_cache.errors.StoreError: a: b",), ("a: b",)),
        (("a: b",), ("a: b",)),
        (("a", "b"), ("a", "b")),
        ((), ()),
    ],
)
def test_an_error_of_a_loader_worker_is_what_it_says(said: tuple[str, ...], expected: tuple[str, ...]) -> None:
    def batches() -> Any:
        raise StoreError(*said)
        yield

    with pytest.raises(StoreError) as caught:
        next(_errors_in_one_line(batches()))
    assert caught.value.args == expected
