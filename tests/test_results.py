"""Evaluations go to JSON and CSV and come back; what is not there or damaged is one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fakes import FormulaTeacher, MemoryFrames

from tiekd_cache.errors import ConfigError, DataError
from tiekd_cache.evaluate import EvaluateConfig, Evaluation, evaluate_predictor
from tiekd_cache.metrics import METRICS
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.results import CSV_COLUMNS, read_results, summary, write_csv, write_json
from tiekd_cache.store import open_store


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """Four frames, one of them without ground truth, three with a teacher's response."""
    source = MemoryFrames(4, without_gt=[1])
    path = tmp_path_factory.mktemp("store") / "a.zarr"
    precompute(FormulaTeacher(), source.subset(source.frame_ids[:3]), path, PrecomputeConfig())
    return evaluate_predictor(
        lambda image: np.full((64, 96), 15.0, np.float32), source, EvaluateConfig(), store=open_store(path)
    )


@pytest.fixture
def run(evaluation: Evaluation, tmp_path: Path) -> Path:
    write_json(tmp_path / "evaluation.json", {"split": "made up", **summary(evaluation)}, evaluation.images)
    write_csv(tmp_path / "images.csv", evaluation.images)
    return tmp_path


def test_json_and_csv_hold_the_same_numbers_to_the_last_bit(evaluation: Evaluation, run: Path) -> None:
    record = json.loads((run / "evaluation.json").read_text())
    assert record["ground_truth"] == evaluation.ground_truth
    assert record["ground_truth_frames"] == 3
    assert record["ranges"]["40-80"]["frames"] == 3
    assert len(record["images"]) == 4
    for against, expected in (("gt", evaluation.ground_truth), ("teacher", evaluation.teacher)):
        from_json, from_csv = read_results(run, against), read_results(run / "images.csv", against)
        assert from_json.frame_ids == from_csv.frame_ids
        assert from_json.pixels == from_csv.pixels
        assert expected is not None
        for name in METRICS:
            assert np.array_equal(from_json.values[name], from_csv.values[name])
            assert from_json.values[name].mean() == pytest.approx(expected[name], rel=1e-12)
        assert len(from_json.frame_ids) == 3
    assert read_results(run).protocol["crop"] == "none"
    far = read_results(run, depth_range="40-80")
    metrics = record["ranges"]["40-80"]["metrics"]
    assert far.values["rmse"].mean() == pytest.approx(metrics["rmse"], rel=1e-12)


def test_a_line_an_image_with_nothing_where_there_is_nothing(run: Path) -> None:
    lines = (run / "images.csv").read_text().splitlines()
    assert lines[0].split(",") == list(CSV_COLUMNS)
    assert len(lines[0].split(",")) == 21
    without_gt = lines[2].split(",")
    assert without_gt[:11] == ["drive_0000/image_02/0000000001", "0", *[""] * 9]
    assert without_gt[11] == str(64 * 96)
    assert lines[4].split(",")[11:] == ["0", *[""] * 9]


def test_what_cannot_be_read_is_one_line(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty has no evaluation yet\. First: tiekd-cache evaluate --run .*empty"):
        read_results(tmp_path / "empty")
    with pytest.raises(DataError, match=r"nowhere\.csv cannot be read"):
        read_results(tmp_path / "nowhere.csv")
    with pytest.raises(ConfigError, match=r"with ground truth of 80-90 m\. Ranges there: 0-20, 20-40, 40-80\."):
        read_results(run, depth_range="80-90")
    good, table = json.loads((run / "evaluation.json").read_text()), (run / "images.csv").read_text()
    old = {key: value for key, value in good.items() if key != "images"}
    strange = {**good, "images": [{"frame_id": "a", "shape": 3}]}
    endless = {**good, "images": [{**good["images"][0], "ground_truth": dict.fromkeys(METRICS, float("nan"))}]}
    twice = {**good, "images": good["images"][:1] * 2}
    for name, text in (
        ("old.json", json.dumps(old)),
        ("strange.json", json.dumps(strange)),
        ("list.json", "[1, 2]"),
        ("torn.json", (run / "evaluation.json").read_text()[:500]),
        ("endless.json", json.dumps(endless)),
        ("twice.json", json.dumps(twice)),
        ("torn.csv", table[: len(table) // 2]),
        ("other.csv", "a,b\n1,2\n"),
        ("others-without-lines.csv", "a,b\n"),
        ("without-a-line.csv", ""),
        ("words.csv", table.replace("4096", "many").replace("6144", "many")),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=name.replace(".", r"\.") + " is no evaluation with its images"):
            read_results(tmp_path / name)
    with pytest.raises(DataError, match=r"other\.csv.* lacks the columns frame_id, gt_pixels, a1, .*, teacher_silog\)"):
        read_results(tmp_path / "other.csv")
    (tmp_path / "empty.csv").write_text(",".join(CSV_COLUMNS) + "\n")
    with pytest.raises(ConfigError, match="compares no image with its teacher"):
        read_results(tmp_path / "empty.csv", "teacher")
    with pytest.raises(DataError, match="Does its folder exist"):
        write_csv(tmp_path / "absent" / "a.csv", [])
