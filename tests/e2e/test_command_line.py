"""The commands as a new user types them: defaults as they stand, stops and resumes, and every mistake."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from command_line import environment, fail, start, succeed, tiekd, wait_until
from kitti_helpers import depth_path, image_path
from servers import HOST, free_port

from tiekd_cache.data.synthetic_kitti import write_synthetic_kitti
from tiekd_cache.store import open_store
from tiekd_cache.store.catalogue import open_catalogue
from tiekd_cache.store.claims import claim_shard
from tiekd_cache.students import load_student
from tiekd_cache.training_step import training_step

LAYOUT = "raw + depth"
SMALL = [
    "--no-pretrained", "--batch-size", "2", "--crop", "64x96", "--decoder-width", "0.125", "--workers", "0", "--set",
    "student.num_bins=33", "--sigma", "2.5", "--set", "train.picture_frames=1",
]  # fmt: skip
TINY = [*SMALL, "--student", "timm:lcnet_035", "--validate-frames", "0", "--set", "train.picture_frames=0"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/kitti and one finished store, as after the first stage."""
    home = tmp_path_factory.mktemp("home")
    write_synthetic_kitti(home / "data" / "kitti", train_frames=3, test_frames=1)
    succeed("precompute", "--teacher", "lidar", cwd=home)
    return home


@pytest.fixture
def fresh(home: Path, tmp_path: Path) -> Path:
    """A copy of `home` that a test may break."""
    shutil.copytree(home, tmp_path / "home")
    return tmp_path / "home"


def test_both_stages_with_the_data_in_their_default_places(home: Path) -> None:
    again = succeed("precompute", "--teacher", "lidar", "--json", cwd=home)
    assert again.json["responses"] == 3
    assert again.json["made_now"] == 0
    assert "3 frames" in again.err
    trained = succeed("distill", "--student", "resnet18", "--steps", "4", *SMALL, "--json", cwd=home)
    assert "stores/lidar.zarr (the only one under stores/)" in trained.err
    run = home / trained.json["run"]
    assert {path.name for path in run.iterdir()} >= {"best.pt", "last.pt", "loss.png", "pictures.png", "metrics.jsonl"}
    evaluated = succeed("evaluate", "--no-flip", cwd=home)
    assert "abs_rel" in evaluated.out
    assert "no frame of splits/eigen_test.txt" in evaluated.err
    on_training = succeed("evaluate", "--no-flip", "--split", "splits/eigen_train.txt", cwd=home)
    assert "teacher (rows from 110)" in on_training.out
    assert json.loads((run / "evaluation.json").read_text())["crop"] == "garg"
    info = succeed("info", cwd=home)
    assert "lidar" in info.out
    assert succeed("verify", "--json", cwd=home).json["problems"] == []
    assert "kitti" in succeed("doctor", cwd=home).out


@pytest.mark.slow
def test_a_sum_of_terms_and_the_width_and_the_bins_by_options(home: Path) -> None:
    loss = ["--term", "dpm=0.5", "--term", "gt_si=2", "--dpm-form", "gaussian", "--sigma-share", "0.05"]
    succeed("distill", *loss, "--bins", "log", "--steps", "1", *SMALL, "--run", "summed", cwd=home)
    settings = tomllib.loads((home / "summed" / "config.toml").read_text())
    assert settings["loss"]["terms"] == {"dpm": 0.5, "gt_si": 2.0}
    assert settings["loss"]["sigma_share"] == 0.05
    assert settings["student"]["spacing"] == "log"
    record = json.loads((home / "summed" / "metrics.jsonl").read_text())
    assert record["loss"] == pytest.approx(0.5 * record["l_dpm"] + 2 * record["l_gt_si"], rel=1e-4)
    for mistake in (
        ["--term", "gt_si"],
        ["--term", "gt_si=much"],
        ["--term", "gt_si=1", "--loss", "tie-kd"],
        ["--term=si=1"] * 2,
        ["--other-store"],
    ):
        assert tiekd("distill", *mistake, cwd=home).code == 2


@pytest.mark.slow
def test_two_stores_are_named_mixed_weighted_and_found_again(home: Path) -> None:
    succeed("precompute", "--teacher", "lidar", "--max-depth", "85", "--store", "far.zarr", cwd=home)
    both = ["--store", "stores/lidar.zarr", "--store", "far.zarr", "--set", "student.max_depth=85.0"]
    mixed = [*both, "--mix", "sample", "--store-weight", "1", "--store-weight", "3"]
    trained = succeed("distill", *mixed, "--steps", "1", *SMALL, "--run", "mixed", cwd=home)
    assert "Training on 3 frames that" in trained.err
    settings = (home / "mixed" / "config.toml").read_text()
    assert 'mix = "sample"' in settings
    resumed = succeed("distill", "--resume", "--run", "mixed", "--steps", "1", *SMALL, "--json", cwd=home)
    assert resumed.json["steps"] == 1
    for options, words in (
        (["--student", "resnet50"], "The run mixed goes on with its own settings"),
        (["--student", "resnet50", "--lr", "0.5"], "student.name (resnet18, now resnet50); optimiser.lr (0.001, now"),
        (["--store-weight", "1", "--store-weight", "1"], "teachers.weights ((1.0, 3.0), now (1.0, 1.0))"),
        (["--term", "gt_si=1"], "loss.terms ({}, now {'gt_si': 1.0})"),
    ):
        assert words in fail("distill", "--resume", "--run", "mixed", *options, cwd=home)
    assert "1 teachers.weights for 2 stores" in fail("distill", *both, "--store-weight", "1", *SMALL, cwd=home)


@pytest.mark.slow
def test_a_store_with_images_is_all_that_stage_two_needs(fresh: Path) -> None:
    assert "Storing 3 images first" in succeed("precompute", "--teacher", "lidar", "--with-images", cwd=fresh).err
    assert succeed("info", "--json", cwd=fresh).json["images"]["frames"] == 3
    (fresh / "data" / "kitti").rename(fresh / "elsewhere")
    trained = succeed("distill", "--steps", "1", *SMALL, "--run", "alone", cwd=fresh)
    assert "3 images of splits/eigen_train.txt in the store; no ground truth" in trained.err
    (fresh / "elsewhere").rename(fresh / "data" / "kitti")
    resumed = succeed("distill", "--resume", "--run", "alone", cwd=fresh)
    assert "images of splits/eigen_train.txt in the store" in resumed.err
    assert "needs ground truth" in fail("distill", "--images-from-store", "--loss", "baseline", *SMALL, cwd=fresh)
    assert tiekd("distill", "--images-from-store", "--split", "all", cwd=fresh).code == 2


@pytest.mark.slow
def test_the_same_seed_gives_the_same_losses(home: Path) -> None:
    runs = []
    for name in ("a", "b"):
        succeed("distill", "--steps", "3", *SMALL, "--run", f"same/{name}", cwd=home)
        lines = (home / "same" / name / "metrics.jsonl").read_text().splitlines()
        runs.append([(json.loads(line)["loss"], json.loads(line)["grad_norm"]) for line in lines])
    assert runs[0] == runs[1]
    assert len(runs[0]) == 3


def interrupt_at(step: int, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, so many times, in a step of the training that comes."""

    def interrupted(parts: Any, samples: Any, number: int, *rest: Any) -> Any:
        for _ in range(times if number == step else 0):
            os.kill(os.getpid(), signal.SIGINT)
        return training_step(parts, samples, number, *rest)

    monkeypatch.setattr("tiekd_cache.training_loop.training_step", interrupted)


@pytest.mark.parametrize(
    ("times", "last_step", "said"),
    [
        (1, 3, "Stopped after step 3 of 4, which is saved."),
        pytest.param(2, 1, "Interrupted.", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_in_training_ends_with_130_and_the_command_that_goes_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, last_step: int, said: str
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(2, times, patch)
        stopped = tiekd("distill", "--steps", "4", "--save-every", "1", *TINY, "--run", run, cwd=home)
    assert stopped.code == 130
    last = stopped.err.splitlines()[-1]
    assert said in last
    assert torch.load(run / "last.pt", weights_only=True)["step"] == last_step
    resume = last.partition("`tiekd-cache ")[2].partition("`")[0].split()
    resumed = succeed(*resume, cwd=home)
    assert "Going on with" in resumed.err
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]


@pytest.mark.slow
def test_ctrl_c_before_the_first_checkpoint_starts_anew(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["distill", "--steps", "2", *TINY, "--run", tmp_path / "run"]
    with monkeypatch.context() as patch:
        interrupt_at(1, 2, patch)
        stopped = tiekd(*command, cwd=home)
    assert stopped.code == 130
    assert stopped.err.splitlines()[-1] == "Interrupted.", "nothing is kept"
    succeed(*command, cwd=home)


@pytest.mark.slow
def test_a_finished_run_says_that_nothing_was_left_to_do(home: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["distill", "--steps", "1", *TINY, "--run", run]
    assert "finished already" not in succeed(*command, cwd=home).err
    written = (run / "best.pt").read_bytes()
    for again in (["distill", "--resume", "--run", run], command):
        said = succeed(*again, cwd=home).err
        assert said.count(f"{run} is finished already, nothing was left to do") == 1
        assert "Going on" not in said
        assert (run / "best.pt").read_bytes() == written
    assert "finished run with other settings: optimiser.lr (0.001, now 0.5)" in fail(*command, "--lr", "0.5", cwd=home)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_ctrl_c_in_training_keeps_the_step_and_resume_goes_on(home: Path, tmp_path: Path, ranks: int) -> None:
    run = tmp_path / "stopped"
    command = ["distill", "--steps", "25", *TINY, "--run", str(run)]
    common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": HOST, "MASTER_PORT": str(free_port())}
    processes = [start(command, home, **common, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(ranks)]
    metrics = run / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") >= 2, processes[0])
    processes[-1].send_signal(signal.SIGINT)  # one is asked, all stop after the same step
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [130] * ranks, said
    assert "".join(said).count("which is saved") == 1
    assert "Traceback" not in "".join(said)
    resumed = succeed("distill", "--resume", "--run", run, "--json", cwd=home)
    assert resumed.json["steps"] == 25
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, 26))


@pytest.mark.slow
def test_torchrun_trains_one_student_in_two_processes(home: Path, tmp_path: Path) -> None:
    """Started as docs/training.md says."""
    run = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    command = [*launcher, "tiekd_cache", "distill", "--run", str(run), "--json"]
    for options in (["--steps", "3", *TINY], ["--resume"]):
        done = subprocess.run(
            [*command, *options], cwd=home, env=environment(), capture_output=True, text=True, timeout=160, check=False
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["steps"] == 3, "one process speaks"
    assert done.stderr.count("is finished already") == 1
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert load_student(run / "best.pt").predict(torch.zeros(1, 3, 64, 96)).shape == (1, 1, 64, 96)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGKILL, -signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_ctrl_c_and_sigkill_in_stage_one_keep_finished_shards(
    home: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    command = ["precompute", "--teacher", "lidar", "--store", str(tmp_path / "a.zarr"), "--shard-frames", "1"]
    succeed(*command, "--shard-range", "0:1", cwd=home)
    layout = open_catalogue(tmp_path / "a.zarr").layout
    with claim_shard(layout, 2):  # so that the process does not end before the signal comes
        process = start(command, home)
        wait_until(layout.record_file(1).exists, process)
        process.send_signal(number)
        _, err = process.communicate()
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert succeed(*command, "--json", cwd=home).json["made_now"] == 1
    a, b = open_store(tmp_path / "a.zarr"), open_store(home / "stores" / "lidar.zarr")
    assert list(a) == list(b)
    assert all(np.array_equal(a[frame_id], b[frame_id]) for frame_id in b)


def test_mistakes_in_stage_one_are_one_line_each(fresh: Path) -> None:
    assert "bts, bts-densenet161" in fail("precompute", "--teacher", "bst", cwd=fresh)
    assert "nowhere" in fail("precompute", "--teacher", "lidar", "--kitti", "nowhere", cwd=fresh)
    assert "missing.txt" in fail("precompute", "--teacher", "lidar", "--split", "missing.txt", cwd=fresh)
    no_weights = fail("precompute", "--teacher", "bts", cwd=fresh)
    assert "cleinc/bts" in no_weights
    assert "random:0" in no_weights
    assert "random:0" in fail("precompute", "--teacher", "bts", "--weights", "random", cwd=fresh)
    assert "cuda" in fail("precompute", "--teacher", "lidar", "--device", "cuda:7", cwd=fresh)
    assert "stores/lidar.zarr" in fail("precompute", "--teacher", "lidar", "--clip", cwd=fresh)
    assert "11/8192" in fail("precompute", "--teacher", "lidar", "--step", "1/100", "--store", "x.zarr", cwd=fresh)
    (fresh / "file").write_text("no store")
    assert "file" in fail("precompute", "--teacher", "lidar", "--store", "file", cwd=fresh)
    assert (fresh / "file").read_text() == "no store"
    (fresh / "cut.pt").write_bytes(b"PK\x03\x04 and no more")
    assert "cut.pt" in fail("precompute", "--teacher", "bts", "--weights", "cut.pt", cwd=fresh)


def test_truncated_and_missing_pictures_are_named(fresh: Path) -> None:
    kitti = fresh / "data" / "kitti"
    frame = list(open_store(fresh / "stores" / "lidar.zarr"))[1]
    picture = image_path(kitti, LAYOUT, frame)
    picture.write_bytes(picture.read_bytes()[:-30])
    line = fail("precompute", "--teacher", "lidar", "--store", "other.zarr", cwd=fresh)
    assert picture.name in line
    assert "truncated" in line
    picture.unlink()
    outcome = tiekd("precompute", "--teacher", "lidar", "--store", "other.zarr", "--split", "all", cwd=fresh)
    assert outcome.code in (0, 1)
    assert "Traceback" not in outcome.err


def test_mistakes_in_stage_two_are_one_line_each(fresh: Path) -> None:
    assert "resnet18" in fail("distill", "--student", "resnet19", *SMALL, cwd=fresh)
    assert "loss.sigma" in fail("distill", "--set", "loss.sigma=wide", "--no-pretrained", cwd=fresh)
    assert "did you mean 'sigma'" in fail("distill", "--set", "loss.sigmma=1", "--no-pretrained", cwd=fresh)
    assert "gt_ssim" in fail("distill", "--term", "l1=1", *SMALL, cwd=fresh)
    assert "needs a student with a DPM" in fail("distill", "--set", "student.output=depth", *SMALL, cwd=fresh)
    assert "res-kd-ssim-mse" in fail("distill", "--loss", "res-kd", *SMALL, cwd=fresh)
    assert "inverse" in fail("distill", "--bins", "even", *SMALL, cwd=fresh)
    assert "larger than the images" in fail("distill", *SMALL, "--crop", "400x96", cwd=fresh)
    assert "nowhere.zarr" in fail("distill", *SMALL, "--store", "nowhere.zarr", cwd=fresh)
    shutil.rmtree(fresh / "runs", ignore_errors=True)
    assert "No run found" in fail("evaluate", cwd=fresh)
    assert "No run found" in fail("distill", "--resume", cwd=fresh)
    assert "nothing.pt" in fail("evaluate", "--checkpoint", "nothing.pt", cwd=fresh)
    shutil.copytree(fresh / "stores" / "lidar.zarr", fresh / "stores" / "second.zarr")
    several = fail("distill", *SMALL, cwd=fresh)
    assert "stores/lidar.zarr, stores/second.zarr" in several
    assert "--store" in several
    shutil.rmtree(fresh / "stores")
    assert "precompute" in fail("distill", *SMALL, cwd=fresh)


@pytest.mark.slow
def test_pretrained_weights_that_cannot_be_had_say_so(fresh: Path) -> None:
    process = start(["distill", "--steps", "1"], fresh, HF_HUB_OFFLINE="1", HF_HOME=str(fresh / "empty"))
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "--no-pretrained" in err
    assert "Traceback" not in err


def test_a_damaged_store_is_never_zeros(fresh: Path) -> None:
    store = fresh / "stores" / "lidar.zarr"
    [shard] = [path for path in (store / "residual" / "c").rglob("*") if path.is_file()]
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 16
    shard.write_bytes(content)
    found = tiekd("verify", "stores/lidar.zarr", cwd=fresh)
    assert found.code == 1
    assert "--repair" in found.err
    assert "verify" in fail("distill", "--steps", "2", *SMALL, cwd=fresh)
    succeed("verify", "stores/lidar.zarr", "--repair", cwd=fresh)
    succeed("precompute", "--teacher", "lidar", cwd=fresh)
    succeed("verify", "stores/lidar.zarr", cwd=fresh)


def test_usage_errors_exit_with_2_and_nothing_is_shown_without_a_terminal(home: Path) -> None:
    assert tiekd("distill", "--crop", "big", cwd=home).code == 2
    assert tiekd("precompute", cwd=home).code == 2
    assert tiekd("precompute", "--teacher", "lidar", "--step", "thin", cwd=home).code == 2
    quiet = succeed("precompute", "--teacher", "lidar", cwd=home)
    assert "%|" not in quiet.err
    assert "TIEKD_KITTI" not in environment()


def test_depth_png_of_the_helper_is_what_the_store_holds(home: Path) -> None:
    store = open_store(home / "stores" / "lidar.zarr")
    for frame in store:
        png = cv2.imread(str(depth_path(home / "data" / "kitti", LAYOUT, frame)), cv2.IMREAD_UNCHANGED)
        assert png is not None
        measured = png[-352:, int((png.shape[1] - 1216) / 2) :][:, :1216].astype(np.float32) / 256
        seen = (measured > 0) & (measured < 80)
        assert np.median(np.abs(store[frame][seen] / measured[seen] - 1)) < 0.01
