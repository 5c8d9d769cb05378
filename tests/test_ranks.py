"""Several processes train one student as one process would, save once, resume in another number, and end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import MemoryFrames
from servers import HOST, free_port

from tiekd_cache.config import from_mapping
from tiekd_cache.dataset import StepBatches
from tiekd_cache.distill_config import DistillConfig
from tiekd_cache.errors import ConfigError
from tiekd_cache.ranks import Ranks
from tiekd_cache.run_folder import RunFolder
from tiekd_cache.store import ResponseStore
from tiekd_cache.students import build_student
from tiekd_cache.training_parts import build_parts, lay_out
from tiekd_cache.training_step import ShareOfBatches

SETTINGS: dict[str, Any] = {
    "student": {"pretrained": False, "decoder_width": 0.125, "num_bins": 33},
    # not SSIM: its |covariance| has a kink, and rounding decides on which side a flat window lies
    "loss": {"terms": {"dpm": 1.0, "mse": 0.01}, "form": "gaussian", "sigma": 2.5},
    "augmentation": {"rotate_p": 0.0},  # a turned image has corners that do not count: the mean of means is another
    "train": {"crop": [48, 64], "row_cut": 16, "steps": 5, "batch_size": 4, "workers": 0, "picture_frames": 0},
}


def settings(**train: Any) -> dict[str, Any]:
    return {**SETTINGS, "train": {**SETTINGS["train"], **train}}


def launch(
    count: int, store: Path, run: Path, said: dict[str, Any], *, resume: bool = False
) -> list[subprocess.Popen[str]]:
    """`count` processes of one run, as a launcher starts them."""
    command = [str(Path(__file__).parent / "rank_worker.py"), str(store), str(run), json.dumps(said)]
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": HOST, "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, *command, "yes" if resume else "no"],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def outcomes(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    said = [process.communicate(timeout=150) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


def finish(processes: list[subprocess.Popen[str]]) -> None:
    for code, out, err in outcomes(processes):
        assert code == 0, out + err


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (2, 1), (3, 2), (1, 4)])
def test_shares_together_are_the_batches_of_one_process(world_size: int, accumulate: int) -> None:
    order = StepBatches(num_frames=7, batch_size=12, start=3, stop=8, seed=5)
    shares = [list(ShareOfBatches(order, Ranks(rank, world_size), accumulate)) for rank in range(world_size)]
    assert {len(ShareOfBatches(order, Ranks(0, world_size), accumulate)), *map(len, shares)} == {5 * accumulate}
    for step, whole in enumerate(order):
        pieces = [share[step * accumulate + i] for share in shares for i in range(accumulate)]
        assert [position for piece in pieces for position in piece] == whole


def test_a_batch_that_cannot_be_divided_is_refused(store: ResponseStore) -> None:
    config = from_mapping(DistillConfig, settings(accumulate=3))
    with pytest.raises(ConfigError, match=r"batch_size = 4.*2 processes x train.accumulate = 3.*multiple of 6"):
        build_parts(config, MemoryFrames(6), store, torch.device("cpu"), ranks=Ranks(rank=0, world_size=2))


@pytest.mark.parametrize(
    ("world_size", "device", "synchronised"), [(2, "cuda", True), (1, "cuda", False), (2, "cpu", False)]
)
def test_batch_norm_is_over_all_gpus_and_names_stay(world_size: int, device: str, synchronised: bool) -> None:
    for name in ("resnet18", "timm:efficientnet_b0"):  # timm has layers of its own that norm and activate
        student = build_student(name, pretrained=False, decoder_width=0.125)
        before = {key: value.shape for key, value in student.state_dict().items()}
        weights = {id(weight) for weight in student.parameters()}
        lay_out(student, from_mapping(DistillConfig, settings()), Ranks(0, world_size, torch.device(device)))
        kinds = [isinstance(m, torch.nn.SyncBatchNorm) for m in student.modules() if hasattr(m, "running_mean")]
        assert len(kinds) >= 20
        assert all(kinds) if synchronised else not any(kinds)
        assert {key: value.shape for key, value in student.state_dict().items()} == before
        assert {id(weight) for weight in student.parameters()} == weights


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_processes_learn_what_one_does_and_resume_as_one(store: ResponseStore, tmp_path: Path) -> None:
    for name, count, said in (
        ("one", 1, settings()),
        ("two", 2, settings()),
        ("pieces", 2, settings(accumulate=2, ema_decay=0.5)),
    ):
        finish(launch(count, store.info.path, tmp_path / name, said))
    records = {name: RunFolder(tmp_path / name).metrics() for name in ("one", "two", "pieces")}
    assert [record["step"] for record in records["two"]] == [1, 2, 3, 4, 5], "one process writes"
    for name in ("two", "pieces"):
        for key in ("loss", "l_dpm", "l_mse", "grad_norm"):
            assert [record[key] for record in records[name]] == pytest.approx(
                [record[key] for record in records["one"]], rel=1e-5
            ), (name, key)
    assert records["one"][-1]["loss"] < 0.95 * records["one"][0]["loss"]

    # stopped in two processes, gone on with in one
    processes = launch(2, store.info.path, tmp_path / "stopped", settings(steps=30))
    metrics = RunFolder(tmp_path / "stopped")
    deadline = time.monotonic() + 100
    while len(metrics.metrics()) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGINT)  # one is asked, all stop after the same step
    first, second = outcomes(processes)
    assert (first[0], second[0]) == (130, 130)
    assert first[1].startswith("InterruptedRunError: Stopped after step ")
    assert first[1] == second[1]
    assert first[2] + second[2] == ""
    done = torch.load(metrics.last_checkpoint, weights_only=True)["step"]
    assert 2 <= done == metrics.metrics()[-1]["step"] < 30
    finish(launch(1, store.info.path, tmp_path / "stopped", settings(steps=30), resume=True))
    assert [record["step"] for record in metrics.metrics()] == list(range(1, 31))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_process_ends_the_others_and_a_loss_that_is_not_finite_ends_all(
    store: ResponseStore, tmp_path: Path
) -> None:
    processes = launch(2, store.info.path, tmp_path / "killed", settings(steps=500))
    deadline = time.monotonic() + 100
    while len(RunFolder(tmp_path / "killed").metrics()) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    processes[1].kill()
    left = outcomes(processes)[0]
    assert left[0] == 1
    assert left[1].startswith("LostProcessError: Another of the run's 2 processes ended")
    assert left[1].count("\n") == 1
    wild = {**settings(), "optimiser": {"lr": 1e18, "grad_clip": 1e30}}
    first, second = outcomes(launch(2, store.info.path, tmp_path / "wild", wild))
    assert first[1].startswith("NotFiniteError: The ")
    assert first[1] == second[1]
    assert first[1].count("drive_000") == 4, "the frames of both processes"
