"""The whole chain through the command line on real KITTI frames."""

from __future__ import annotations

import json
import math
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import start, succeed

from tiekd_cache.store import open_store

pytestmark = [pytest.mark.shared, pytest.mark.slow, pytest.mark.timeout(1500)]

SMALL = ["--no-pretrained", "--batch-size", "2", "--crop", "96x320", "--decoder-width", "0.25"]


@pytest.fixture(scope="module")
def kitti(shared_dir: Path) -> Path:
    return shared_dir / "kitti_sample"


def test_lidar_teacher_to_evaluated_student(kitti: Path, tmp_path: Path) -> None:
    split = kitti / "splits" / "eigen_train.txt"
    made = succeed(
        "precompute", "--teacher", "lidar", "--kitti", kitti, "--split", split, "--store", "out/lidar.zarr", "--json",
        cwd=tmp_path,
    )  # fmt: skip
    assert made.json["responses"] == 12
    assert made.json["without_response"] == 1
    assert "No response to 2011_09_29_drive_9021_sync/image_02/0000000000: no depth PNG" in made.err
    succeed("verify", "out/lidar.zarr", cwd=tmp_path)

    trained = succeed(
        "distill", "--student", "resnet18", "--store", "out/lidar.zarr", "--kitti", kitti, "--steps", "40", *SMALL,
        "--json", cwd=tmp_path,
    )  # fmt: skip
    assert trained.json["loss_last"] < 0.95 * trained.json["loss_first"]
    run = tmp_path / trained.json["run"]
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 40
    assert all(math.isfinite(loss) for loss in losses)

    metrics = succeed("evaluate", "--json", cwd=tmp_path).json
    assert metrics["ground_truth_frames"] == 4
    assert all(math.isfinite(value) for value in metrics["ground_truth"].values())
    table = succeed("evaluate", "--run", run, "--kitti", kitti, "--no-flip", cwd=tmp_path)
    assert "abs_rel" in table.out
    on_training = succeed("evaluate", "--split", split, "--kitti", kitti, "--limit-frames", "2", "--json", cwd=tmp_path)
    assert on_training.json["teacher_frames"] == 2


def test_bts_killed_at_any_moment_gives_the_same_store(kitti: Path, tmp_path: Path) -> None:
    split = kitti / "splits" / "eigen_train.txt"
    command = [
        "precompute", "--teacher", "bts-resnet50", "--weights", "random:0", "--kitti", str(kitti),
        "--split", str(split),
        "--no-flip", "--shard-frames", "4", "--batch-size", "2", "--device", "cpu",
    ]  # fmt: skip
    whole = succeed(*command, "--store", "whole.zarr", "--json", cwd=tmp_path)
    assert whole.json["responses"] == 13
    assert "UNTRAINED" in whole.err
    rng = random.Random(0)
    for _ in range(6):
        process = start([*command, "--store", "killed.zarr"], tmp_path)
        time.sleep(rng.uniform(4, 14))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finished = succeed(*command, "--store", "killed.zarr", "--json", cwd=tmp_path)
    assert finished.json["responses"] == 13
    a, b = open_store(tmp_path / "whole.zarr"), open_store(tmp_path / "killed.zarr")
    assert list(a) == list(b)
    assert all(np.array_equal(a[frame_id], b[frame_id]) for frame_id in a)
    assert a.info.schema.fingerprint == b.info.schema.fingerprint
