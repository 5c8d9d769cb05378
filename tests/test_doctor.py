"""The doctor counts what is there, names what is missing with what to do, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kitti_helpers import (
    FRAMES,
    depth_path,
    image_path,
    scan_path,
    write_calibration,
    write_split,
)

from tiekd_cache.data.places import default_checkpoints_dir, default_kitti_root
from tiekd_cache.doctor import Report, diagnose
from tiekd_cache.teachers import NETWORKS
from tiekd_cache.teachers.cards import CARDS


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with nothing in it, and empty caches."""
    for name in ("TIEKD_KITTI", "TIEKD_CHECKPOINTS", "HF_HOME", "HF_HUB_CACHE", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def full_kitti(root: Path) -> Path:
    """Three frames whose files hold one byte, both splits, calibration of both dates."""
    for frame_id in FRAMES:
        for path in (image_path(root, "raw + depth", frame_id), depth_path(root, "raw + depth", frame_id)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    write_split(root / "splits/eigen_train.txt", FRAMES, none=FRAMES[:1])
    write_split(root / "splits/eigen_test.txt", FRAMES[2:])
    for date in ("2011_09_26", "2011_09_28"):
        write_calibration(root / "raw" / date)
    return root


def put_weights(folder: Path) -> None:
    model = folder / "bts_eigen_v2_pytorch_densenet161/model"
    model.parent.mkdir(parents=True)
    model.write_bytes(bytes(3 * 2**20))


def matching(report: Report, part: str) -> list[str]:
    return [problem for problem in report.problems if part in problem]


def test_with_everything_there_nothing_is_to_mend(home: Path) -> None:
    full_kitti(home / "work/data/kitti")
    put_weights(home / "work/checkpoints")
    report = diagnose()
    assert report.problems == []
    assert report.data.layout == "raw + depth: images in raw; depth in depth"
    assert report.data.num_drives == 2
    assert [(date.date, date.drives, date.calibration) for date in report.data.dates] == [
        ("2011_09_26", 1, True),
        ("2011_09_28", 1, True),
    ]
    train, test = report.data.splits
    assert (train.purpose, train.lines, train.none_lines, train.images_found, train.depth_found) == (
        "train",
        3,
        1,
        3,
        2,
    )
    assert (test.purpose, test.lines, test.depth_missing, test.images_missing) == ("test", 1, 0, 0)
    assert [file.size_bytes for file in report.weights.files] == [3 * 2**20]
    assert [one.teacher for one in report.weights.teachers if one.files] == ["bts-densenet161"]
    text = "\n".join(report.lines())
    assert "eigen_train.txt: 3 frames; images 3 found, 0 missing; depth maps 2 found, 0 missing, 1 None" in text
    assert "3.0 MiB" in text
    assert text.endswith("No problems found.")


def test_versions_and_devices_are_said(home: Path) -> None:
    report = diagnose()
    assert {"tiekd-cache", "python", "torch", "zarr", "numcodecs"} <= set(report.versions)
    assert report.devices.cpu_cores >= 1
    assert f"{report.devices.cpu_cores} CPU cores" in report.lines()[1]


def test_with_nothing_there_every_thing_has_its_remedy(home: Path) -> None:
    report = diagnose()
    assert report.data.layout is None
    assert len(report.problems) == 2
    (data,) = matching(report, "No KITTI data: data/kitti is not a folder")
    assert "raw_data.php" in data
    assert "data_depth_annotated.zip" in data
    assert len(matching(report, "No teacher's weights in checkpoints")) == 1
    said = {line.split()[3]: line for line in report.lines() if line.startswith("Weights of teacher ")}
    assert said.keys() == {*NETWORKS} - {"bts"}
    for name, line in said.items():
        assert "none. They are published at github.com/" in line
        assert CARDS[name].weights.split()[0] in line
    assert "bts_eigen_v2_pytorch_resnet50" in said["bts-resnet50"]
    assert any("--no-pretrained" in line for line in report.lines())
    assert list((home / "work").iterdir()) == []


def test_weights_of_every_teacher_are_found_in_both_layouts(home: Path) -> None:
    files = {
        "bts_eigen_v2_pytorch_densenet161/model": "bts-densenet161",
        "bts_nyu_v2_pytorch_resnet50/model": "bts-resnet50",
        "bts_r50_kitti_24e.pth": "bts-toolbox",
        "bts_latest.pth": "bts",
        "AdaBins_kitti.pt": "adabins",
        "AdaBins_nyu.pt": "adabins",
        "toolbox/adabins_efnetb5ap_kitti_24e.pth": "adabins-toolbox",
        "depthformer_swinl_22k_w7_kitti.pth": "depthformer",
        "resnet18-f37072fd.pth": None,
    }
    for name in files:
        (home / "c" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "c" / name).write_bytes(b"x")
    report = diagnose(checkpoints=home / "c")
    found = {Path(path): one.teacher for one in report.weights.teachers for path in one.files}
    assert found == {home / "c" / name: teacher for name, teacher in files.items() if teacher}
    assert matching(report, "weights") == []
    [line] = [line for line in report.lines() if line.startswith("Weights of teacher adabins ")]
    assert line.endswith(f": {home / 'c/AdaBins_kitti.pt'}, {home / 'c/AdaBins_nyu.pt'}")


def test_missing_files_and_calibration_are_counted(home: Path) -> None:
    root = full_kitti(home / "kitti")
    image_path(root, "raw + depth", FRAMES[0]).unlink()
    image_path(root, "raw + depth", FRAMES[1]).write_bytes(b"")
    depth_path(root, "raw + depth", FRAMES[2]).unlink()
    (root / "raw/2011_09_28/calib_velo_to_cam.txt").unlink()
    report = diagnose(root)
    train = report.data.splits[0]
    assert (train.images_found, train.images_missing, train.depth_found, train.depth_missing) == (1, 2, 1, 1)
    assert len(matching(report, "2 images missing")) == 1
    assert len(matching(report, "1 depth maps missing. Unpack data_depth_annotated.zip")) == 2
    (calibration,) = matching(report, "No calibration for 2011_09_28:")
    assert "2011_09_28_calib.zip" in calibration


def test_split_files_absent_or_malformed(home: Path) -> None:
    root = full_kitti(home / "kitti")
    (root / "splits/eigen_test.txt").unlink()
    (root / "splits/eigen_train.txt").write_text("a.png b.png\n")
    report = diagnose(root)
    assert report.data.splits[0].error is not None
    assert len(matching(report, "eigen_train.txt:1: 'a.png' is not")) == 1
    assert len(matching(report, "No usual test split file beside the data")) == 1
    assert any("unreadable" in line for line in report.lines())


def test_no_depth_maps_at_all(home: Path) -> None:
    root = home / "kitti"
    image = image_path(root, "official", FRAMES[0])
    image.parent.mkdir(parents=True)
    image.write_bytes(b"x")
    assert scan_path(root, "official", FRAMES[0]).exists() is False
    report = diagnose(root)
    assert len(matching(report, "No depth maps in")) == 1
    assert "(no folder found)" in (report.data.layout or "")


def test_empty_weights_cached_imagenet_weights_and_stores(home: Path) -> None:
    put_weights(home / "work/checkpoints")
    (home / "work/checkpoints/bts_eigen_v2_pytorch_densenet161/model").write_bytes(b"")
    cached = home / "cache/huggingface/hub/models--timm--resnet18.a1_in1k/snapshots/abc/model.safetensors"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"12345")
    good, bad = home / "work/stores/good.zarr", home / "work/stores/bad.zarr"
    for store in (good, bad):
        store.mkdir(parents=True)
    attributes = {"teacher": {"name": "bts"}, "dataset": {"num_frames": 13}}
    (good / "zarr.json").write_text(json.dumps({"attributes": attributes}))
    (bad / "zarr.json").write_text("{")
    report = diagnose()
    assert len(matching(report, "model is empty (0 bytes): download it again")) == 1
    assert [(file.path, file.size_bytes) for file in report.weights.imagenet] == [(str(cached), 5)]
    assert [(store.teacher, store.frames) for store in report.stores] == [(None, None), ("bts", 13)]
    assert len(matching(report, "bad.zarr is no store that can be read")) == 1
    assert "  stores/good.zarr: 13 frames of teacher bts" in report.lines()


def test_a_package_that_cannot_be_imported_is_a_problem(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(home))
    (home / "h5py.py").write_text("raise ValueError(\"invalid literal for int(): 'post0'\")\n")
    monkeypatch.delitem(__import__("sys").modules, "h5py", raising=False)
    report = diagnose()
    assert report.versions["h5py"] == "cannot be imported"
    assert len(matching(report, "`import h5py` fails (ValueError: invalid literal")) == 1


def test_the_report_is_json_and_says_the_same(home: Path) -> None:
    report = diagnose(full_kitti(home / "kitti"))
    values = json.loads(json.dumps(report.to_json()))
    assert values["data"]["num_drives"] == 2
    assert values["data"]["splits"][0]["lines"] == 3
    assert values["problems"] == report.problems


def test_places_come_from_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (default_kitti_root(), default_checkpoints_dir()) == (Path("data/kitti"), Path("checkpoints"))
    monkeypatch.setenv("TIEKD_KITTI", str(home / "k"))
    monkeypatch.setenv("TIEKD_CHECKPOINTS", str(home / "c"))
    assert (default_kitti_root(), default_checkpoints_dir()) == (home / "k", home / "c")
    report = diagnose()
    assert (report.data.root, report.weights.folder) == (str(home / "k"), str(home / "c"))


@pytest.mark.shared
def test_the_sample_of_real_frames_is_whole(home: Path, shared_dir: Path) -> None:
    report = diagnose(shared_dir / "kitti_sample")
    assert [problem for problem in report.problems if "kitti_sample" in problem] == []
    assert (len(report.data.dates), report.data.num_drives) == (3, 6)
    assert [(split.lines, split.images_found, split.depth_found, split.none_lines) for split in report.data.splits] == [
        (13, 13, 12, 1),
        (4, 4, 4, 0),
    ]
