"""`tiekd-cache students`: its figures are those of the networks, and one's own student can be looked at first."""

from __future__ import annotations

import functools
import json
import math
import sys
from pathlib import Path

import pytest

from tiekd_cache.students import STUDENTS, cards
from tiekd_cache.students.cards import LISTED, PUBLISHED

sys.path.insert(0, str(Path(__file__).resolve().parent / "e2e"))

from command_line import Outcome, fail, succeed, tiekd

GMAC = {  # of the public networks at 352x1216
    ("mobilenetv2", "dpm"): 295.5,
    ("resnet18", "dpm"): 223.0,
    ("resnet50", "dpm"): 421.5,
    ("mobilenetv2", "depth"): 281.9,
    ("resnet18", "depth"): 209.4,
    ("resnet50", "depth"): 407.9,
}
UNUSED_DPM, UNUSED_REGRESSION, UNUSED_DOUBLING = 256 * 129, 9 * 128 + 1, 2 * (9 * 128 * 128 + 128)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Outcome]:
    folder = tmp_path_factory.mktemp("students")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cards, "student_cost", functools.cache(cards.student_cost))  # counted once for both
        return succeed("students", cwd=folder), succeed("students", "--json", cwd=folder)


def test_costs_are_those_of_the_public_networks(table: tuple[Outcome, Outcome]) -> None:
    rows = {(row["name"], row["output"]): row for row in table[1].json if row["decoder"] == "densedepth"}
    assert rows.keys() == GMAC.keys() == PUBLISHED.keys()
    assert {name for name, _ in GMAC} == set(STUDENTS)
    for key, gmac in GMAC.items():
        assert rows[key]["gmac"] == pytest.approx(gmac, abs=0.06), key


@pytest.mark.shared
def test_parameters_are_those_of_the_published_layout(table: tuple[Outcome, Outcome], shared_dir: Path) -> None:
    for row in table[1].json:
        if row["decoder"] != "densedepth":
            continue
        kind = "student" if row["output"] == "dpm" else "baseline"
        stem = {"mobilenetv2": "mbv2", "resnet18": "r18", "resnet50": "r50"}[row["name"]]
        keys = json.loads((shared_dir / "parity" / f"tiekd_{kind}_{stem}.keys.json").read_text())
        buffers = ("running_mean", "running_var", "num_batches_tracked")
        published = sum(math.prod(shape) for key, shape, _ in keys if not key.endswith(buffers))
        unused = UNUSED_REGRESSION if kind == "student" else UNUSED_DPM
        unused += 0 if stem == "mbv2" else UNUSED_DOUBLING
        assert row["parameters"] == published - unused


def test_the_table(table: tuple[Outcome, Outcome]) -> None:
    header, *lines = table[0].out.splitlines()
    assert header.split()[:5] == ["student", "decoder", "output", "M", "param."]
    assert len(lines) == len(LISTED) == len(table[1].json)
    assert lines[0].split() == [
        *("mobilenetv2", "densedepth", "dpm", "17.6", "295.5"),
        *("0.0654", "/", "2.4315", "0.0656", "/", "2.4984", "0.0657", "/", "2.4402", "-"),
    ]
    assert "mobilenetv2              densedepth  depth" in table[0].out
    assert len(table[0].err.splitlines()) == 1
    light = [row for row in table[1].json if row["name"].startswith("timm:")]
    assert len(light) == 2
    assert all(row["decoder"] == "slim" and row["gmac"] < 10 and row["errors"] == {} for row in light)
    assert table[1].json[3]["errors"] == {"ground truth": {"abs_rel": 0.0663, "rmse": 2.5625}}


def test_a_student_of_ones_own(tmp_path: Path) -> None:
    def one(*options: str) -> dict[str, object]:
        [row] = succeed("students", "--student", "resnet18", *options, "--json", cwd=tmp_path).json
        return dict(row)

    whole, narrow, small = one(), one("--decoder-width", "0.5"), one("--size", "704x2432")
    assert set(whole["errors"]) == {"AdaBins", "BTS", "DepthFormer"}  # type: ignore[call-overload]
    assert narrow["errors"] == {}
    assert (narrow["decoder_width"], narrow["name"]) == (0.5, "resnet18")
    assert float(str(small["gmac"])) == pytest.approx(4 * float(str(whole["gmac"])))
    slim = one("--decoder", "slim", "--output", "depth")
    assert (slim["decoder"], slim["output"]) == ("slim", "depth")


def test_what_cannot_be_shown(tmp_path: Path) -> None:
    assert "no model 'resnet19'" in fail("students", "--student", "timm:resnet19", cwd=tmp_path)
    assert "decoder 'thin'" in fail("students", "--student", "resnet18", "--decoder", "thin", cwd=tmp_path)
    assert tiekd("students", "--decoder", "slim", cwd=tmp_path).code == 2
    assert tiekd("students", "--size", "352", cwd=tmp_path).code == 2
