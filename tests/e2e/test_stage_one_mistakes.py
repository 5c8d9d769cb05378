"""A user's mistakes in stage one, for every network alike: one line that says what is wrong, exit 1, and no store."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from command_line import tiekd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hf_models import save_model
from kitti_helpers import FRAMES, image_path, write_kitti, write_picture, write_split
from test_checkpoints import Code, saved

from tiekd_cache.teachers import layouts

DEPTHFORMER = pytest.param("depthformer", marks=pytest.mark.slow)  # 274 million parameters to draw
LAYOUT = "raw + depth"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small depth model of transformers, in a folder."""
    return save_model("glpn", tmp_path_factory.mktemp("hub") / "glpn")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A working directory with one KITTI frame, its split file and a file of weights that is none, `w.pt`."""
    write_kitti(tmp_path / "data" / "kitti", frames=FRAMES[:1])
    write_split(tmp_path / "split.txt", FRAMES[:1])
    (tmp_path / "w.pt").write_bytes(b"")
    return tmp_path


def only_line(home: Path, teacher: str, *options: str, device: str = "cpu") -> str:
    """The one line with which stage one ends; it has exited with 1 and begun no store."""
    data = () if "--images" in options else ("--kitti", "data/kitti", "--split", "split.txt")
    said = tiekd("precompute", "--teacher", teacher, "--device", device, "--store", "s.zarr", *data, *options, cwd=home)
    assert said.code == 1, said
    lines = [line for line in said.err.splitlines() if not line.startswith(("Data: ", "UNTRAINED: "))]
    assert len(lines) == 1, said.err
    assert lines[0].startswith("Error: ")
    assert not said.out
    assert not (home / "s.zarr").exists()
    return lines[0]


def like(layout: layouts.Layout) -> bytes:
    """A checkpoint that has the marks of a published layout, and no more."""
    return saved({key: torch.zeros(shape or (1,)) for key, shape in layout.signature.items()})


@pytest.mark.parametrize(
    ("teacher", "file", "looks_like", "advice"),
    [
        ("bts", layouts.ADABINS, "It looks like AdaBins in its authors' layout", "--teacher adabins."),
        ("bts", layouts.DEPTHFORMER, "It looks like DepthFormer with Swin-L", "--teacher depthformer."),
        ("bts-resnet50", layouts.BTS_TOOLBOX, "in the depth toolbox's layout", "--teacher bts-toolbox."),
        ("adabins", layouts.BTS_RESNET50, "It looks like BTS with ResNet-50", "--teacher bts-resnet50."),
        ("depthformer", layouts.ADABINS_TOOLBOX, "It looks like AdaBins in the depth", "--teacher adabins-toolbox."),
        ("depthformer", layouts.BTS_DENSENET161, "It looks like BTS with DenseNet-161", "--teacher bts-densenet161."),
    ],
)
def test_another_teachers_file_is_named(
    home: Path, teacher: str, file: layouts.Layout, looks_like: str, advice: str
) -> None:
    (home / "w.pt").write_bytes(like(file))
    line = only_line(home, teacher, "--weights", "w.pt")
    assert line.startswith("Error: w.pt does not fit ")
    assert looks_like in line
    assert line.endswith(f"load it with {advice}")


@pytest.mark.parametrize("teacher", ["bts", "adabins", "depthformer"])
def test_damaged_and_unsafe_weights(home: Path, teacher: str) -> None:
    whole = saved({"model": {"a": torch.zeros(1000)}})
    (home / "w.pt").write_bytes(whole[: len(whole) // 2])
    assert "w.pt is truncated, damaged or no checkpoint" in only_line(home, teacher, "--weights", "w.pt")
    (home / "w.pt").write_bytes(saved({"model": {"a": torch.zeros(1)}, "extra": Code(home / "ran")}))
    assert "w.pt holds code (" in only_line(home, teacher, "--weights", "w.pt")
    assert not (home / "ran").exists()
    assert "No file absent.pt" in only_line(home, teacher, "--weights", "absent.pt")
    line = only_line(home, teacher)
    assert f"No weights for teacher {teacher} since there is no folder checkpoints" in line
    assert "github.com/" in line


def test_damaged_and_unsafe_folders_of_a_model(home: Path, model: Path) -> None:
    (home / "glpn").mkdir()
    for file in model.iterdir():
        (home / "glpn" / file.name).write_bytes(file.read_bytes())
    weights = home / "glpn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "holds no depth model that can be loaded" in only_line(home, "hf:./glpn")
    weights.unlink()
    (home / "glpn" / "pytorch_model.bin").write_bytes(saved({"a": Code(home / "ran")}))
    assert "holds no depth model that can be loaded" in only_line(home, "hf:./glpn")
    assert not (home / "ran").exists()
    assert "No folder ./absent" in only_line(home, "hf:./absent")


@pytest.mark.parametrize(
    "teacher", ["bts-resnet50", pytest.param("adabins", marks=pytest.mark.slow), DEPTHFORMER, "hf:"]
)
def test_pictures_that_are_none_or_too_small(home: Path, model: Path, teacher: str) -> None:
    named = [f"hf:{model}"] if teacher == "hf:" else [teacher, "--weights", "random:0"]
    image = image_path(home / "data" / "kitti", LAYOUT, FRAMES[0])
    image.write_bytes(b"<!DOCTYPE html>\n<html>\n" * 50)
    assert f"{image.name} is not a PNG or JPEG file" in only_line(home, *named)
    write_picture(image, torch.zeros(320, 1216, 3, dtype=torch.uint8).numpy())
    line = only_line(home, *named)
    assert f"{image.name} is 320x1216 pixels" in line
    assert "352x1216" in line
    assert "split.txt is not a whole PNG or JPEG file" in only_line(home, *named, "--images", "split.txt")
    line = only_line(home, *named, "--images", "data/**/data/*.png", "--size", "330x400")
    assert f"{image.name} is 320x1216 px, smaller than the crop of 330x400" in line


@pytest.mark.parametrize("teacher", ["bts", "adabins", "depthformer", "hf:nobody/nothing"])
def test_a_gpu_that_is_not_there(home: Path, teacher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = only_line(home, teacher, device="cuda")
    assert line.startswith('Error: Device "cuda" asked for, but ')
    assert line.endswith("Use --device cpu, or auto.")
