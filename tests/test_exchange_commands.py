"""Import, export, info and verify as a user types them, from depth files to a store that students learn from."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tiekd_cache.cli import main
from tiekd_cache.data.kitti import KittiFrames
from tiekd_cache.data.synthetic_kitti import write_synthetic_kitti
from tiekd_cache.store import open_store
from tiekd_cache.store.layout import statistics_file


def tiekd(*arguments: str, cwd: Path) -> Result:
    """The command in this process, with `cwd` as its folder and nothing of ours in the environment."""
    with contextlib.chdir(cwd):
        return CliRunner(env={"TIEKD_KITTI": None, "TIEKD_CHECKPOINTS": None}).invoke(main, arguments)


def succeed(*arguments: str, cwd: Path) -> Result:
    """The command, which must end well."""
    result = tiekd(*arguments, cwd=cwd)
    assert result.exit_code == 0, f"{arguments}\n{result.output}\n{result.exception!r}"
    return result


def values(*arguments: str, cwd: Path) -> Any:
    """What a command that must end well says with --json."""
    return json.loads(succeed(*arguments, "--json", cwd=cwd).stdout)


def fail(*arguments: str, cwd: Path) -> str:
    """The one line of a command that must end with an error that the user can mend."""
    result = tiekd(*arguments, cwd=cwd)
    assert result.exit_code == 1, f"{arguments} ended with {result.exit_code}\n{result.output}"
    [error] = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return error


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/kitti and the store of its lidar teacher."""
    home = tmp_path_factory.mktemp("exchange")
    write_synthetic_kitti(home / "data" / "kitti", train_frames=3, test_frames=1)
    succeed("precompute", "--teacher", "lidar", "--shard-frames", "2", cwd=home)
    return home


def test_a_folder_of_the_release_becomes_a_store_in_one_command(home: Path) -> None:
    succeed("export-store", "--to", "png16", "--out", "nested", "--scale", "65535/80", cwd=home)
    flat = home / "gt_kd_lidar"
    flat.mkdir()
    for file in sorted((home / "nested").rglob("*.png")):
        drive, camera, name = file.relative_to(home / "nested").parts
        file.rename(flat / f"{drive[:10]}_{drive}_{camera}_data_{name}")
    refused = fail("import", "gt_kd_lidar", "--teacher", "release", cwd=home)
    assert "--scale 256 (KITTI)" in refused
    wrong = fail("import", "gt_kd_lidar", "--teacher", "release", "--scale", "256", cwd=home)
    assert "times the ground truth" in wrong
    assert "--scale 65535/80" in wrong
    assert not (home / "stores" / "release.zarr").exists()
    words = ("import", "gt_kd_lidar", "--teacher", "release", "--scale", "65535/80")
    made = succeed(*words, "--json", cwd=home)
    said = json.loads(made.stdout)
    assert (said["responses"], said["scale"]) == (3, "65535/80")
    assert said["median_ratio_to_ground_truth"] == pytest.approx(1, abs=0.02)
    assert "{date}_{drive}_{camera}_data_{index}.png" in made.stderr
    assert "Next: tiekd-cache distill" in made.stderr
    assert values(*words, cwd=home)["made_now"] == 0
    first, second = open_store(home / "stores/lidar.zarr"), open_store(home / "stores/release.zarr")
    for frame_id in first:
        assert np.abs(first[frame_id] - second[frame_id]).max() <= 1 / 64
    (home / "stores" / "release.zarr").rename(home / "release.zarr")  # the other tests want one store
    again = fail("verify", "release.zarr", "--against-teacher", "1", cwd=home)
    assert "imported" in again


def test_hdf5_there_and_back(home: Path) -> None:
    succeed("export-store", "--to", "hdf5", "--out", "out/lidar.h5", cwd=home)
    assert values("export-store", "--to", "hdf5", "--out", "out/lidar.h5", cwd=home)["written_now"] == 0
    needless = tiekd("import", "out/lidar.h5", "--teacher", "mine", "--scale", "256", cwd=home)
    assert needless.exit_code == 2
    assert "leave --teacher, --scale out" in needless.stderr
    succeed("import", "out/lidar.h5", "--store", "back.zarr", cwd=home)
    first, second = (values("info", name, cwd=home) for name in ("stores/lidar.zarr", "back.zarr"))
    assert first["fingerprint"] == second["fingerprint"]
    assert first["statistics"] == second["statistics"]
    assert values("verify", "back.zarr", cwd=home)["problems"] == []


def test_info_shows_statistics_and_warns_of_a_wrong_unit(home: Path) -> None:
    facts = values("info", cwd=home)
    assert facts["warning"] is None
    assert facts["statistics"]["ground_truth"]["frames"] == 3
    assert facts["statistics"]["ground_truth"]["median_ratio"] == pytest.approx(1, abs=0.02)
    assert sum(facts["statistics"]["histogram"].values()) == pytest.approx(1, abs=1e-3)
    assert facts["created_by"]["device"] == "cpu"
    shown = succeed("info", cwd=home).stdout
    assert "ground truth    3 frames, abs_rel" in shown
    assert "10-15 m" in shown
    source = KittiFrames.open(home / "data" / "kitti")
    (home / "maps").mkdir()
    for frame_id in source.frame_ids:
        np.save(
            home / "maps" / f"{frame_id.replace('/', '_')}.npy", open_store(home / "stores/lidar.zarr")[frame_id] / 4
        )
    trusted = succeed("import", "maps", "--teacher", "near", "--store", "near.zarr", "--trust-scale", cwd=home)
    assert "Warning: WRONG UNIT?" in trusted.stderr
    outcome = succeed("info", "near.zarr", cwd=home)
    assert "WRONG UNIT? Responses are 0.25 times the ground truth (median of 3 frames" in outcome.stdout


def test_verify_runs_the_teacher_again(home: Path) -> None:
    outcome = values("verify", "--against-teacher", "2", cwd=home)
    assert outcome["teacher"]["frames"] == 2
    assert outcome["teacher"]["problems"] == []
    assert outcome["teacher"]["worst"]["difference"] <= 1 / 128 + 1e-3
    store = open_store(home / "stores/lidar.zarr")
    depth = (home / "data" / "kitti" / "depth").rglob(f"{store.frame_ids[0].split('/')[-1]}.png")
    other = [file for file in depth if store.frame_ids[0].split("/")[0] in str(file)]
    whole = {file: file.read_bytes() for file in other}
    donor = next(file for file in (home / "data" / "kitti" / "depth").rglob("*.png") if file not in whole)
    try:
        for file in other:
            file.write_bytes(donor.read_bytes())
        found = tiekd("verify", "--against-teacher", "3", cwd=home)
    finally:
        for file, data in whole.items():
            file.write_bytes(data)
    assert found.exit_code == 1
    assert f"Problem: frame {store.frame_ids[0]}: the teacher now says" in found.stderr
    assert found.stderr.count("Problem:") == 1


def test_statistics_are_no_part_of_the_answers(home: Path) -> None:
    file = statistics_file(home / "stores" / "lidar.zarr", 0)
    whole = file.read_bytes()
    try:
        file.write_bytes(whole.replace(b'"frames":2', b'"frames":9'))
        outcome = succeed("info", "--json", cwd=home)
        assert "was changed" in outcome.stderr
        assert json.loads(outcome.stdout)["statistics"]["frames"] == 1
        found = tiekd("verify", "--json", cwd=home)
        assert found.exit_code == 1
        [problem] = json.loads(found.stdout)["problems"]
        assert f"{file}: statistics do not match" in problem
        assert succeed("verify", "--repair", cwd=home).exit_code == 0
        assert not file.exists()
        assert len(open_store(home / "stores" / "lidar.zarr")) == 3, "no shard was dropped"
    finally:
        file.write_bytes(whole)


def test_a_damaged_store_is_reported_before_any_teacher_is_asked(home: Path) -> None:
    file = home / "stores" / "lidar.zarr" / "residual" / "c" / "0" / "0" / "0"
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[: len(whole) // 2])
        found = tiekd("verify", "--against-teacher", "1", cwd=home)
    finally:
        file.write_bytes(whole)
    assert found.exit_code == 1
    assert "Problem: " in found.stderr
    assert "The teacher was not run" in found.stderr
