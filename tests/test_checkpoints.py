"""Weights are read however they are wrapped, found where they should lie, and nothing else passes or runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tiekd_cache.device import resolve_device
from tiekd_cache.errors import CheckpointError, ConfigError, DeviceError
from tiekd_cache.teachers import TEACHERS, LidarTeacher, load_teacher
from tiekd_cache.teachers.checkpoints import find_weights, fit_state, weights_files, weights_name, where_to_get
from tiekd_cache.teachers.layouts import BTS_DENSENET161, BTS_RESNET50, Layout, recognise
from tiekd_cache.teachers.weights_file import read_state

STATE = {"encoder.a": torch.arange(600.0).view(20, 30), "decoder.b": torch.tensor([1.5, -2.0])}
WRAPPED = {"module." + key: value for key, value in STATE.items()}
COUNTER = {"module.decoder.bn.num_batches_tracked": torch.tensor(3)}


class Code:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def saved(content: object, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def archived(content: bytes, *names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bts_eigen/readme.py", "import os")
        for name in names:
            archive.writestr(name, content)
    return stream.getvalue()


def same(state: dict[str, torch.Tensor]) -> bool:
    return list(state) == list(STATE) and all(torch.equal(state[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        WRAPPED,
        {"model": WRAPPED | COUNTER, "global_step": 50000},
        {"state_dict": STATE, "meta": {"epoch": 3, "classes": None}},
        {"model": {"module.encoder.a": STATE["encoder.a"], "decoder.b": STATE["decoder.b"]}},
        {"model": STATE, "best_eval_steps": np.zeros(9, np.int32), "best": np.float64(0.06)},
    ],
    ids=["bare", "parallel", "model", "state_dict", "mixed", "numpy beside"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["new format", "old format"])
def test_every_published_wrapping_is_read(tmp_path: Path, content: object, zipped: bool) -> None:
    (tmp_path / "model").write_bytes(saved(content, _use_new_zipfile_serialization=zipped))
    assert same(read_state(tmp_path / "model"))
    assert same(read_state(tmp_path))  # the folder that holds it


def test_numpy_one_names_are_read(tmp_path: Path) -> None:
    new = saved({"model": STATE, "steps": np.zeros(9, np.int32)}, _use_new_zipfile_serialization=False)
    assert b"numpy._core.multiarray" in new
    (tmp_path / "model").write_bytes(new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert same(read_state(tmp_path / "model"))


def test_archives_and_safetensors_are_read(tmp_path: Path) -> None:
    (tmp_path / "bts.zip").write_bytes(archived(saved({"model": WRAPPED}), "bts_eigen/model"))
    assert same(read_state(tmp_path / "bts.zip"))
    save_file(WRAPPED, tmp_path / "bts.safetensors")
    state = read_state(tmp_path / "bts.safetensors")
    assert same({key: state[key] for key in STATE})


@pytest.mark.parametrize("zipped", [True, False], ids=["new format", "old format"])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_one_clear_error(tmp_path: Path, zipped: bool, part: float) -> None:
    whole = saved({"model": WRAPPED}, _use_new_zipfile_serialization=zipped)
    (tmp_path / "a.pt").write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(CheckpointError, match=r"a\.pt is truncated, damaged or no checkpoint") as caught:
        read_state(tmp_path / "a.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!DOCTYPE html>\n<html>\n",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"version https://git-lfs.github.com/spec/v1\n",
    ],
    ids=["empty", "html", "png", "lfs pointer"],
)
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.zip"])
def test_other_files_are_one_clear_error(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="truncated, damaged or no checkpoint") as caught:
        read_state(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "pack",
    [
        lambda code: saved({"model": STATE, "extra": code}),
        lambda code: saved({"model": STATE, "extra": code}, _use_new_zipfile_serialization=False),
        lambda code: saved({"model": STATE, "extra": code}, pickle_protocol=4),
        lambda code: pickle.dumps(code, protocol=0),
        lambda code: pickle.dumps(code, protocol=2),
        lambda code: pickle.dumps(code, protocol=5),
        lambda code: archived(saved({"model": code}), "bts_eigen/model"),
        lambda code: archived(pickle.dumps(code, protocol=4), "bts_eigen/model"),
    ],
    ids=["torch", "torch old", "torch protocol 4", "pickle 0", "pickle 2", "pickle 5", "archive", "archived pickle"],
)
def test_code_is_refused_and_does_not_run(tmp_path: Path, pack: Callable[[Code], bytes]) -> None:
    (tmp_path / "evil").write_bytes(pack(Code(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match=r"holds code.*, not only weights; refused") as caught:
        read_state(tmp_path / "evil")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Code(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()  # it would have


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"holds code \(torch\.nn\.modules\.linear\.Linear\), not only weights"):
        read_state(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [{}, {"model": {}}, {"epoch": 3}, [STATE], {"model": {"a": 1}}, torch.zeros(3)])
def test_files_without_weights_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt holds a .*, not weights\. A checkpoint is"):
        read_state(tmp_path / "a.pt")


def test_missing_files_empty_folders_and_doubled_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"No file .*a\.pt"):
        read_state(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="folder without a file 'model'"):
        read_state(tmp_path)
    torch.save({**STATE, **WRAPPED}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"holds 'encoder\.a' twice"):
        read_state(tmp_path / "a.pt")
    (tmp_path / "b.zip").write_bytes(archived(b"", "a/model", "b/model"))
    with pytest.raises(CheckpointError, match="2 files called 'model'"):
        read_state(tmp_path / "b.zip")


SMALL = Layout("small", "the small network", {}, renames=((r"^old\.", "0."), ("gain$", "weight")), dead=r"fc\..*")


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def small_state() -> dict[str, torch.Tensor]:
    norm = {f"1.{name}": torch.full((3,), 2.0) for name in ("weight", "bias", "running_mean", "running_var")}
    return {"old.gain": torch.ones(3, 2), "old.bias": torch.zeros(3), "fc.weight": torch.zeros(9), **norm}


def test_a_layout_renames_and_drops() -> None:
    network = small()
    fit_state(network, small_state(), SMALL, Path("a.pt"))
    assert torch.equal(network.get_parameter("0.weight"), torch.ones(3, 2))
    assert torch.equal(network.get_buffer("1.running_var"), torch.full((3,), 2.0))


def test_what_does_not_fit_is_named_and_nothing_is_loaded() -> None:
    network, state = small(), small_state()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    for key in ("1.weight", "1.bias", "1.running_mean", "1.running_var"):
        del state[key]
    state |= {"old.bias": torch.zeros(4), "x": torch.zeros(1), "layer4.0.conv1.weight": torch.zeros(1)}
    state |= {"fc.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        fit_state(network, state, SMALL, Path("a.pt"))
    assert str(caught.value) == (
        "a.pt does not fit the small network: 4 missing (1.weight, 1.bias, 1.running_mean, …); "
        "2 not known (x, layer4.0.conv1.weight); 1 of another shape (0.bias ([4] for [3])). "
        "It looks like a ResNet classifier without a depth decoder."
    )
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    ["bts_densenet161", "bts_resnet50", "tiekd_bts_r50", "adabins", "tiekd_adabins", "tiekd_depthformer_swinl"]
    + [f"tiekd_{kind}_{encoder}" for kind in ("student", "baseline") for encoder in ("mbv2", "r18", "r50")],
)
def test_every_published_layout_is_recognised(shared_dir: Path, name: str) -> None:
    rows = json.loads((shared_dir / "parity" / f"{name}.keys.json").read_text())
    found = recognise({key: torch.empty(shape, device="meta") for key, shape, _ in rows})
    assert found is not None
    ours = {"tiekd_bts_r50": "bts_toolbox", "tiekd_adabins": "adabins_toolbox"}
    expected = "tiekd_student" if name.startswith(("tiekd_student", "tiekd_baseline")) else ours.get(name, name)
    assert found.name == expected


def test_other_encoders_of_bts_are_told_apart() -> None:
    def bts(deepest: int, **more: tuple[int, ...]) -> Layout | None:
        shapes = {"decoder.upconv5.conv.weight": (512, deepest, 3, 3), **more}
        shapes["decoder.reduc8x8.reduc.plane_params.weight"] = (3, 8, 1, 1)
        return recognise({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})

    first, later = "encoder.base_model.layer1.0.conv1.weight", "encoder.base_model.layer3.6.conv1.weight"
    assert bts(2048, **{first: (64, 64, 1, 1)}) is BTS_RESNET50
    for other in (
        bts(2048, **{first: (64, 64, 1, 1), later: (256, 1024, 1, 1)}),  # ResNet-101
        bts(2048, **{first: (128, 64, 1, 1)}),  # ResNeXt-50
        bts(1024, **{"encoder.base_model.conv0.weight": (64, 3, 7, 7)}),  # DenseNet-121
    ):
        assert other is not None
        assert other not in (BTS_RESNET50, BTS_DENSENET161)
        assert other.title.startswith("BTS with")
        assert other.teacher is None
    assert recognise(STATE) is None


@pytest.mark.parametrize(
    "path",
    [
        "bts_eigen_v2_pytorch_densenet161/model",
        "models/bts_eigen_v2_pytorch_resnet50/model-50000-best_abs_rel_0.05958",
        "BTS_mine.PTH",
        "bts/kitti.safetensors",
        "kitti/bts-r50.ckpt",
        "bts_eigen_v2_pytorch_densenet161.zip",
    ],
)
def test_weights_are_found_by_name(tmp_path: Path, path: str) -> None:
    others = ["adabins.pt", "bts_eigen_v2_pytorch_densenet161/model.py", "bts_nyu_v2_pytorch_densenet161/model"]
    for name in (*others, "a/b/c/bts.pt", "bts/._kitti.pt", "bts.txt", path):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_weights("bts", tmp_path) == tmp_path / path


def test_several_weights_are_listed_unless_the_name_decides(tmp_path: Path) -> None:
    both = [tmp_path / f"bts_eigen_v2_pytorch_{encoder}/model" for encoder in ("densenet161", "resnet50")]
    for path in both:
        path.parent.mkdir()
        path.touch()
        path.parent.with_suffix(".zip").touch()  # the archive that it was unpacked from does not count
    with pytest.raises(
        CheckpointError, match=r"2 files .*densenet161/model, .*resnet50/model.*one with --weights FILE"
    ):
        find_weights("bts", tmp_path)
    assert [find_weights(f"bts-{encoder}", tmp_path) for encoder in ("densenet161", "resnet50")] == both
    assert weights_files("bts", tmp_path) == both


@pytest.mark.parametrize("folder", ["checkpoints", "none"])
def test_without_weights_the_error_says_where_they_are(tmp_path: Path, folder: str) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError) as caught:
        find_weights("bts", tmp_path / folder)
    for part in (
        str(tmp_path / folder),
        "cleinc/bts",
        "bts_eigen_v2_pytorch_densenet161",
        "--weights FILE",
        "random:0",
    ):
        assert part in str(caught.value)
    assert "--teacher lidar" in str(caught.value)
    assert ("no folder" in str(caught.value)) == (folder == "none")
    assert "resnet50" in where_to_get("bts-resnet50")


def test_load_teacher_looks_into_the_checkpoints_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIEKD_CHECKPOINTS", str(tmp_path))
    (tmp_path / "bts.pt").write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match=r"bts\.pt is truncated, damaged or no checkpoint"):
        load_teacher("bts")
    monkeypatch.delenv("TIEKD_CHECKPOINTS")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="No weights for teacher bts since there is no folder checkpoints"):
        load_teacher("bts")


def test_names_of_weights_say_something(tmp_path: Path) -> None:
    (tmp_path / "bts_eigen").mkdir()
    for name, expected in {"bts_eigen/model": "bts_eigen/model", "b.pth": "b.pth"}.items():
        (tmp_path / name).touch()
        assert weights_name(tmp_path / name) == expected
    assert weights_name(tmp_path / "bts_eigen") == "bts_eigen"


@pytest.mark.parametrize("weights", ["random", "random:", "random:x", "random:-1", "random:1.5"])
def test_random_weights_must_be_said_in_full(weights: str) -> None:
    with pytest.raises(CheckpointError, match="random:0"):
        load_teacher("bts", weights=weights)


def test_unknown_teachers_devices_and_needless_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=f'Unknown teacher "midas".*{", ".join(TEACHERS)}'):
        load_teacher("midas")
    with pytest.raises(CheckpointError, match="lidar has no weights"):
        load_teacher("lidar", weights="random:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match='"cuda:1" asked for'):
        load_teacher("lidar", device="cuda:1")
    assert isinstance(load_teacher("lidar", device="auto"), LidarTeacher)


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(resolve_device(name)) for name in ("cpu", "auto", "cuda", "cuda:1")] == [
        "cpu",
        "cuda",
        "cuda",
        "cuda:1",
    ]
    with pytest.raises(DeviceError, match=r"has 2 GPU\(s\): cuda:0 to cuda:1"):
        resolve_device("cuda:2")
    with pytest.raises(DeviceError, match='Unknown device "gpu"'):
        resolve_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert str(resolve_device("auto")) == "cpu"
    with pytest.raises(DeviceError, match="--device cpu"):
        resolve_device("cuda")
