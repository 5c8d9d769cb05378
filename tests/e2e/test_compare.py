"""`tiekd-cache compare`: tables, verdicts, and the refusal of what cannot be compared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import environment, fail, succeed, tiekd

from tiekd_cache.data.protocol import protocol_of
from tiekd_cache.evaluation import Evaluation, ImageMetrics
from tiekd_cache.metrics import METRICS
from tiekd_cache.results import summary, write_csv, write_json

IDS = [f"drive_{i // 5}/image_02/{i:010d}" for i in range(30)]


def write_run(
    folder: Path, errors: np.ndarray, frame_ids: list[str] = IDS, pixels: int = 100, crop: str = "garg"
) -> None:
    """A run folder whose every metric has these values, and a CSV file beside it."""
    images = [
        ImageMetrics(frame_id, pixels, values, {"0-20": values}, 50, dict.fromkeys(METRICS, 0.5))
        for frame_id, error in zip(frame_ids, errors, strict=True)
        for values in [dict.fromkeys(METRICS, float(error))]
    ]
    mean = dict.fromkeys(METRICS, float(errors.mean()))
    protocol = protocol_of("kitti", 80.0, crop=crop)
    result = Evaluation(mean, mean, len(images), len(images), (), tuple(images), protocol, True, "abc", 1.0)
    folder.mkdir()
    write_json(folder / "evaluation.json", summary(result), images)
    write_csv(folder.with_suffix(".csv"), images)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    errors = rng.uniform(0.1, 0.3, 30)
    write_run(tmp_path / "a", errors)
    write_run(tmp_path / "better", errors - 0.02 + rng.normal(0, 0.005, 30))
    order = rng.permutation(30)
    write_run(tmp_path / "same", errors[order], [IDS[i] for i in order])
    return tmp_path


def test_differences_are_paired_and_say_better_or_worse(home: Path) -> None:
    said = succeed("compare", "a", "better", "same", "--json", cwd=home).json
    assert (said["frames"], said["groups"], said["by"], said["level"]) == (30, 30, "image", 0.95)
    first, better, same = said["runs"]
    assert first["differences"] == {}
    for row in (first, better, same):
        for one in row["means"].values():
            assert one["low"] < one["mean"] < one["high"]
    assert better["differences"]["abs_rel"]["verdict"] == "better"
    assert better["differences"]["a1"]["verdict"] == "worse", "a higher a1 is better"
    assert better["differences"]["rmse"]["mean"] == pytest.approx(-0.02, abs=0.004)
    assert same["differences"]["rmse"] == {"mean": 0, "low": 0, "high": 0, "excludes_zero": False, "verdict": ""}
    assert same["means"] == first["means"] or same["means"]["rmse"]["mean"] == pytest.approx(
        first["means"]["rmse"]["mean"]
    )


def test_it_answers_without_torch(home: Path) -> None:
    """Whose import takes seconds, and a Ctrl-C in it aborted the process."""
    program = "import sys; from tiekd_cache.cli import main; main(standalone_mode=False); print('torch' in sys.modules)"
    command = [sys.executable, "-c", program, "compare", "a", "same"]
    done = subprocess.run(command, cwd=home, env=environment(), capture_output=True, text=True, timeout=150)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_tables_for_people_and_for_pages(home: Path) -> None:
    text = succeed("compare", "a", "better.csv", "--metrics", "abs_rel,a2", cwd=home)
    assert "95 % intervals from 10000 resamples of 30 images, seed 0" in text.err
    assert "2 of 2 differences exclude 0 at 95 %" in text.out
    lines = text.out.splitlines()
    assert lines[0].split() == ["run", "abs_rel", "a2"]
    assert next(line for line in lines if line.startswith("less a")).split() == ["less", "a", "abs_rel", "a2"]
    table = succeed("compare", "a", "better", "--markdown", "--by", "drive", cwd=home)
    assert "30 images of 6 drives" in table.err
    rows = [line for line in table.out.splitlines() if line.startswith("|")]
    assert len(rows) == 3 + 1 + 3
    assert {row.count("|") for row in rows} == {6}
    assert "better |" in rows[-1]
    alone = succeed("compare", "a", "--range", "0-20", cwd=home)
    assert "differences" not in alone.out


def test_what_cannot_be_compared_is_one_line(home: Path) -> None:
    errors = np.full(30, 0.2)
    write_run(home / "eigen", errors, crop="eigen")
    write_run(home / "fewer", errors[:29], IDS[:29])
    write_run(home / "pixels", errors, pixels=99)
    write_run(home / "one", errors[:1], IDS[:1])
    (home / "fresh").mkdir()
    assert fail("compare", "a", "fresh", cwd=home) == (
        "Error: fresh has no evaluation yet. First: tiekd-cache evaluate --run fresh"
    )
    assert "eigen was evaluated with crop eigen, a with garg" in fail("compare", "a", "eigen", cwd=home)
    succeed("compare", "a", "eigen", "--against", "teacher", cwd=home)  # the crop is of the ground truth
    assert "other frames than a: 1 are missing and 0 more" in fail("compare", "a", "fewer.csv", cwd=home)
    assert "0 are missing and 1 more" in fail("compare", "fewer", "a", cwd=home)
    assert "99 pixels count for pixels.csv, 100 for a" in fail("compare", "a", "pixels.csv", cwd=home)
    assert "1 image(s)" in fail("compare", "one", cwd=home)
    assert "'rsme' is no metric" in fail("compare", "a", "--metrics", "rsme", cwd=home)
    assert "Ranges there: 0-20." in fail("compare", "a", "--range", "20-40", cwd=home)
    record = json.loads((home / "a" / "evaluation.json").read_text())
    (home / "other.json").write_text(json.dumps({**record, "store_fingerprint": "def"}))
    succeed("compare", "a", "other.json", cwd=home)
    assert "store_fingerprint" in fail("compare", "a", "other.json", "--against", "teacher", cwd=home)
    for arguments in ((), ("a", "--range", "0-20", "--against", "teacher"), ("a", "--resamples", "3")):
        assert tiekd("compare", *arguments, cwd=home).code == 2
