"""`list`, `distill --teacher` and `precompute --catalogue` as a team uses them."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from command_line import fail, succeed, tiekd
from store_helpers import build_schema, frame_list, make_store

from tiekd_cache.cli.catalogue import choose_stores, refuse_made_already
from tiekd_cache.data.synthetic_kitti import write_synthetic_kitti
from tiekd_cache.errors import ConfigError, SharedError
from tiekd_cache.store import StoreWriter

SMALL = [
    "--no-pretrained", "--batch-size", "1", "--crop", "64x96", "--decoder-width", "0.125", "--workers", "0", "--set",
    "student.num_bins=33", "--sigma", "2.5", "--set", "train.picture_frames=1", "--steps", "1", "--validate-frames",
    "0",
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/kitti, and a colleague's catalogue `team` that has a store of it and one of something else."""
    home = tmp_path_factory.mktemp("home")
    write_synthetic_kitti(home / "data" / "kitti", train_frames=2, test_frames=1)
    command = ["precompute", "--teacher", "lidar", "--store", "team/lidar.zarr", "--catalogue", "team"]
    made = succeed(*command, cwd=home, TIEKD_MAKER="Ada <ada@example.org>")
    assert "Warning: the catalogue cannot be read" in made.err  # there is none yet
    make_store(home / "team" / "rooms.zarr", dataset={"name": "nyu", "split": "labelled"})
    return home


def test_what_a_colleague_has_made_is_not_computed_again_unless_asked_for(home: Path) -> None:
    line = fail("precompute", "--teacher", "lidar", cwd=home, TIEKD_CATALOGUE="team")
    assert "A colleague's store with this fingerprint exists: team/lidar.zarr" in line
    assert "made by Ada <ada@example.org>" in line
    assert "tiekd-cache pull team/lidar.zarr stores/lidar.zarr" in line
    assert "--anyway" in line
    assert not (home / "stores").exists()
    outcome = tiekd("precompute", "--teacher", "lidar", cwd=home, TIEKD_CATALOGUE="team", **SECOND)

    assert (outcome.code, outcome.err) == (1, "")  # the first of several processes speaks for all
    made = succeed("precompute", "--teacher", "lidar", "--anyway", "--json", cwd=home, TIEKD_CATALOGUE="team").json
    assert made["teacher"] == succeed("list", "--json", cwd=home).json[0]["teacher"] == "lidar"
    succeed("precompute", "--teacher", "lidar", cwd=home, TIEKD_CATALOGUE="team")  # begun: it goes on
    shutil.rmtree(home / "stores")
    succeed("precompute", "--teacher", "lidar", "--max-depth", "85", cwd=home, TIEKD_CATALOGUE="team")  # other answers
    succeed("precompute", "--teacher", "lidar", "--store", "team/lidar.zarr", cwd=home, TIEKD_CATALOGUE="team")
    shutil.rmtree(home / "stores")


def test_a_store_that_is_begun_and_a_place_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TIEKD_CATALOGUE", raising=False)
    make_store(tmp_path / "team" / "a.zarr")
    schema = build_schema(frame_list(10))
    with pytest.raises(SharedError, match=r"a\.zarr"):
        refuse_made_already(tmp_path / "team", tmp_path / "b.zarr")(schema)
    StoreWriter.open(tmp_path / "b.zarr", schema, frame_list(10), shard_frames=4)
    refuse_made_already(tmp_path / "team", tmp_path / "b.zarr")(schema)
    refuse_made_already(None, tmp_path / "c.zarr")(schema)
    assert capsys.readouterr().err == ""
    refuse_made_already("ftp://team", tmp_path / "c.zarr")(schema)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("Warning: the catalogue cannot be read")


SECOND = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
NO_DATA = {"kitti": None, "nyu": None, "images": None}


def test_the_stores_that_distill_takes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    choose = partial(choose_stores, any_data=False, partial=False)
    found = Path("team/lidar.zarr")
    assert choose([Path("team")], ["lidar"], NO_DATA) == (found,)
    assert choose([Path("team")], [], NO_DATA) == (found,)  # the data in their usual place say which of two is meant
    assert choose([Path("team")], ["formula"], NO_DATA | {"nyu": Path("rooms")}) == (Path("team/rooms.zarr"),)
    both = choose_stores([Path("team")], ["lidar", "formula"], NO_DATA, any_data=True, partial=False)
    assert both == (found, Path("team/rooms.zarr"))
    assert choose([found, Path("nowhere")], [], NO_DATA) == (found, Path("nowhere"))
    with pytest.raises(ConfigError, match=r"No store for pictures in team: it has team/lidar.zarr .*rooms.zarr"):
        choose([Path("team")], [], NO_DATA | {"images": "photos"})


def test_a_teacher_that_is_not_there_is_one_line_with_what_is(home: Path) -> None:
    line = fail("distill", "--store", "team", "--teacher", "formula", *SMALL, cwd=home)
    assert "No store of teacher 'formula' for kitti in team: it has team/lidar.zarr (lidar, kitti, 2/2 frames" in line
    line = fail("distill", "--store", "team/rooms.zarr", "--teacher", "lidar", *SMALL, cwd=home)
    assert "No store of teacher 'lidar'" in line
    assert "no folder stores" in fail("distill", "--teacher", "lidar", *SMALL, cwd=home)
    two = tiekd("distill", "--store", "team", "--store", "team", "--teacher", "lidar", *SMALL, cwd=home)
    assert two.code == 2
    assert "one --store" in two.err


@pytest.mark.slow
def test_distill_from_the_store_of_a_teacher_in_a_catalogue(home: Path) -> None:
    trained = succeed("distill", "--store", "team", "--teacher", "lidar", *SMALL, "--run", "a", cwd=home)
    assert "Store: team/lidar.zarr" in trained.err
    again = succeed("distill", "--resume", "--run", "a", cwd=home)
    assert "Store:" not in again.err  # the run knows which one it was


def test_list_prints_a_table_json_and_a_page(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "team", tmp_path / "stores")
    (tmp_path / "stores" / "rooms.zarr" / "zarr.json").write_text("{")
    said = succeed("list", "--html", "page/index.html", cwd=tmp_path)
    header, first, second = said.out.splitlines()
    assert header.split()[:3] == ["store", "teacher", "data"]
    assert first.split()[:3] == ["lidar.zarr", "lidar", "kitti"]
    assert "2/2" in first
    assert "Ada <ada@example.org>" in first
    assert second.split()[0] == "rooms.zarr"
    assert "Problem: rooms.zarr: zarr.json cannot be read" in said.err
    assert "Ada &lt;ada@example.org&gt;" in (tmp_path / "page" / "index.html").read_text()
    found = succeed("list", "stores", "--json", cwd=tmp_path).json
    assert [store["finished"] for store in found] == [True, False]
    (tmp_path / "empty").mkdir()
    assert succeed("list", "empty", "--json", cwd=tmp_path).json == []
    assert "No store in empty" in succeed("list", "empty", cwd=tmp_path).err
    assert "no folder nowhere" in fail("list", "nowhere", cwd=tmp_path)


def test_control_characters_of_a_store_do_not_reach_the_terminal(tmp_path: Path) -> None:
    ids = frame_list(1)
    schema = build_schema(ids, dataset={"name": "kitti", "split": "\x1b]0;owned\x07\nsplit"})
    writer = StoreWriter.open(tmp_path / "stores" / "a.zarr", schema, ids, shard_frames=1)
    with writer.claim(0):
        writer.write_shard(0, np.full((1, 12, 20), 20.0, np.float32))
    said = succeed("list", cwd=tmp_path).out
    assert len(said.splitlines()) == 2
    assert r"\x1b]0;owned\x07\nsplit" in said
