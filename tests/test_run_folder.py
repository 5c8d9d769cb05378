"""A run's folder is written whole or not at all, and the newest one is found."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tiekd_cache.distill_config import DistillConfig
from tiekd_cache.errors import ConfigError, DataError
from tiekd_cache.run_folder import RunFolder, new_run_path, newest_run, write_text


def test_settings_and_record_come_back(tmp_path: Path) -> None:
    RunFolder(tmp_path / "a").create(DistillConfig(), {"fingerprint": "f"})
    folder = RunFolder.open(tmp_path / "a")
    assert folder.config() == DistillConfig()
    assert folder.run() == {"fingerprint": "f"}


def test_the_newest_run_is_found(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No run found"):
        newest_run(tmp_path)
    for i, name in enumerate("ab"):
        RunFolder(tmp_path / name).create(DistillConfig(), {"fingerprint": "f"})
        os.utime(tmp_path / name / "config.toml", (100 - i, 100 - i))
    assert newest_run(tmp_path) == tmp_path / "a"


def test_new_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    first = new_run_path("resnet18", "bts", tmp_path)
    first.mkdir()
    assert new_run_path("resnet18", "bts", tmp_path) != first


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run folder"):
        RunFolder.open(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="--run"):
        RunFolder(tmp_path / "file" / "run").create(DistillConfig(), {})


@pytest.mark.parametrize("damage", [b'{"step": 2, "lo', b"\xff\xfe\x00", b"3", b'{"step": 2}', b"[]"])
def test_lines_end_before_a_damaged_one(tmp_path: Path, damage: bytes) -> None:
    folder = RunFolder(tmp_path)
    for step in (1, 2):
        folder.append(folder.metrics_file, {"step": step, "loss": 0.5})
    whole = folder.metrics_file.read_bytes()
    folder.metrics_file.write_bytes(whole + damage + b"\n" + whole)
    assert folder.metrics() == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.5}]
    folder.cut_after(2)
    assert folder.metrics_file.read_bytes() == whole


def test_a_disk_that_refuses_is_one_error(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create(DistillConfig(), {"fingerprint": "f"})
    with pytest.raises(DataError, match=r"Cannot write the run folder .*/run: No space left"):
        folder.append(Path("/dev/full"), {"step": 1})
    shutil.move(tmp_path / "run", tmp_path / "moved")
    with pytest.raises(DataError, match="No such file"):
        folder.append(folder.metrics_file, {"step": 1})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"fingerprint": '])
def test_a_damaged_record_of_a_run_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ConfigError, match=r"run\.json cannot be read"):
        RunFolder(tmp_path).run()


def test_a_text_is_replaced_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
