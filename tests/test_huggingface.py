"""Hugging Face models: metric ones say what their own image processor says, relative ones are aligned or refused."""

from __future__ import annotations

import errno
import json
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from e2e.command_line import fail, succeed
from fakes import MemoryFrames
from hf_models import save_model
from kitti_helpers import write_kitti, write_split

from tiekd_cache.data.frame import DepthMap, Frame
from tiekd_cache.errors import CheckpointError, ConfigError, DataError, ShapeError
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.store import open_store
from tiekd_cache.teacher_check import check_against_teacher, teacher_settings, teacher_to_run
from tiekd_cache.teachers import Resize, load_teacher
from tiekd_cache.teachers.huggingface import HuggingFaceTeacher
from tiekd_cache.timm_compat import timm_module

timm_module()  # before transformers, which imports torchvision too
pytest.importorskip("transformers", reason="needs transformers: pip install 'tiekd-cache[hf]'")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def folder_of(models: Path, family: str) -> Path:
    return models / family if (models / family).exists() else save_model(family, models / family)


def load(models: Path, family: str, **options: Any) -> HuggingFaceTeacher:
    teacher = load_teacher(f"hf:{folder_of(models, family)}", **options)
    assert isinstance(teacher, HuggingFaceTeacher)
    return teacher


def two_frames() -> list[Frame]:
    source = MemoryFrames(2)
    return [source.load(frame_id) for frame_id in source.frame_ids]


def outputs_of(teacher: HuggingFaceTeacher, frames: Sequence[Frame]) -> Any:
    """The model's own output for frames, by transformers' own calls."""
    inputs = teacher.processor(images=[frame.image for frame in frames], return_tensors="pt")
    with torch.inference_mode():
        return teacher.model(**inputs)


@pytest.mark.parametrize(
    ("family", "size", "far"), [("depth_anything_metric", (56, 84), 60.0), ("glpn", (64, 96), 80.0)]
)
def test_metric_models_are_used_as_they_are(models: Path, family: str, size: tuple[int, int], far: float) -> None:
    teacher = load(models, family)
    frames = two_frames()
    said = teacher.predict_frames(frames)
    assert said.depth.shape == (2, 1, *size)
    assert said.resize == Resize((64, 96))
    assert teacher.clamps_to == (1e-3, far)
    torch.testing.assert_close(said.depth[:, 0], outputs_of(teacher, frames).predicted_depth)
    assert said.depth.std() > 1
    assert not said.depth.is_inference()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # transformers 4, new torch
def test_zoedepth_is_resized_and_cropped_as_its_processor_does(models: Path) -> None:
    teacher = load(models, "zoedepth")
    frames = two_frames()
    said = teacher.predict_frames(frames)
    outputs = outputs_of(teacher, frames)
    published = teacher.processor.post_process_depth_estimation(outputs, source_sizes=[(64, 96)] * 2)
    torch.testing.assert_close(said.depth[:, 0], torch.stack([one["predicted_depth"] for one in published]))
    assert said.resize is None
    teacher.processor.do_pad = False
    bare = teacher.predict_frames(frames).depth
    assert bare.shape == said.depth.shape
    assert (bare - said.depth).abs().max() > 1e-4


def test_depth_pro_takes_the_cameras_focal_length(models: Path) -> None:
    teacher = load(models, "depth_pro")
    frames = two_frames()
    said = teacher.predict_frames(frames)
    outputs = outputs_of(teacher, frames)
    degrees = 2 * np.rad2deg(np.arctan(0.5 * 96 / frames[0].focal_px))
    outputs.field_of_view = torch.full((2,), degrees)
    native = tuple(said.depth.shape[-2:])
    published = teacher.processor.post_process_depth_estimation(outputs, target_sizes=[native] * 2)
    torch.testing.assert_close(said.depth[:, 0], torch.stack([one["predicted_depth"] for one in published]))
    assert said.resize == Resize((64, 96))
    with pytest.raises(ShapeError, match="needs focal_px"):
        teacher.predict(torch.zeros(1, 3, 64, 96))


def test_normalised_images_give_the_same_as_frames(models: Path) -> None:
    teacher = load(models, "depth_anything_metric")
    frames = two_frames()
    images = torch.stack([torch.from_numpy(frame.image) for frame in frames]).movedim(-1, 1) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(teacher.predict(images).depth, teacher.predict_frames(frames).depth)
    with pytest.raises(ShapeError, match=r"\[B,3,H,W\]"):
        teacher.predict(images[:, :2])


def test_what_it_says_of_itself(models: Path, tmp_path: Path) -> None:
    teacher = load(models, "glpn")
    assert (teacher.name, teacher.weights_source, teacher.architecture) == ("hf:glpn", "glpn", "GLPNForDepthEstimation")
    assert json.loads(json.dumps(teacher.preprocessing)) == teacher.preprocessing
    assert teacher.digest == load(models, "glpn").digest
    assert not teacher.needs_lidar
    other = shutil.copytree(models / "glpn", tmp_path / "other")
    settings = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps({**settings, "size_divisor": 16}))
    assert load_teacher(f"hf:{other}").digest != teacher.digest
    relative = [load(models, "dpt", align="gt", trained_on=name) for name in ("kitti", "nyu")]
    assert [one.clamps_to for one in relative] == [(1e-3, 80.0), (1e-3, 10.0)]
    assert len({one.digest for one in relative}) == 2
    assert relative[0].preprocessing["align"]["method"] == "gt"


@pytest.mark.parametrize("family", ["dpt", "depth_anything"])
def test_relative_models_are_refused_without_alignment(models: Path, family: str) -> None:
    with pytest.raises(ConfigError, match=r"relative inverse depth, not metres\. Pass --align gt"):
        load(models, family)


def test_what_cannot_be_aligned_is_refused(models: Path) -> None:
    with pytest.raises(ConfigError, match="predicts metres: nothing to align"):
        load(models, "glpn", align="gt")
    with pytest.raises(ConfigError, match="lidar cannot be aligned"):
        load_teacher("lidar", align="gt")
    with pytest.raises(ConfigError, match='Alignment "median"'):
        load(models, "dpt", align="median")
    teacher = load(models, "dpt", align="gt")
    with pytest.raises(DataError, match="answers frames with LiDAR depth"):
        teacher.predict(torch.zeros(1, 3, 64, 96))
    with pytest.raises(DataError, match="0000000000 has no LiDAR depth"):
        teacher.predict_frames(two_frames())


class ScaledFrames(MemoryFrames):
    """Frames whose LiDAR depth is a relative teacher's answer at a scale and shift of each frame's own."""

    def __init__(self, teacher: HuggingFaceTeacher, count: int) -> None:
        super().__init__(count, without_gt=[1])
        self.teacher = teacher

    def subset(self, frame_ids: Sequence[str]) -> ScaledFrames:
        other = ScaledFrames(self.teacher, len(self._all))
        other.frame_ids = list(frame_ids)
        return other

    def true_depth(self, frame_id: str) -> torch.Tensor:
        """[1,1,h,w] metres at the teacher's own resolution."""
        frame = self.load(frame_id)
        outputs = outputs_of(self.teacher, [frame])
        inverse = outputs.predicted_depth.unsqueeze(1)
        return 1 / (self.scale(frame_id) * inverse + 0.02)

    def scale(self, frame_id: str) -> float:
        """1/m for one unit of the teacher's."""
        return 0.02 * (1 + self._all.index(frame_id))

    def lidar_depth(self, frame_id: str) -> DepthMap | None:
        inverse = Resize(self.image_size)(outputs_of(self.teacher, [self.load(frame_id)]).predicted_depth.unsqueeze(1))
        depth = (1 / (self.scale(frame_id) * inverse[0, 0] + 0.02)).numpy()
        rng = np.random.default_rng(0)
        depth[rng.random(depth.shape) < 0.2] = 70.0  # seen through
        depth[rng.random(depth.shape) < 0.8] = 0.0
        return np.asarray(depth, np.float32)


def test_alignment_brings_metres_into_the_store(models: Path, tmp_path: Path) -> None:
    teacher = load(models, "depth_anything", align="gt")
    assert teacher.needs_lidar
    source = ScaledFrames(teacher, 4)
    report = precompute(teacher, source, tmp_path / "a.zarr", PrecomputeConfig(flip_average=False))
    assert report.skipped == ((source.frame_ids[1], "no depth PNG and no velodyne scan to align to"),)
    store = open_store(tmp_path / "a.zarr")
    assert len(store) == 3
    for frame_id in store.frame_ids:
        truth = source.true_depth(frame_id)[0, 0].numpy()
        np.testing.assert_allclose(store.native(frame_id), truth, atol=1 / 128 + 2e-3)
    # what the store says of itself is enough to load the teacher again
    assert teacher_to_run(store.schema, None) == ("hf:depth_anything", None)
    name, weights = teacher_to_run(store.schema, models / "depth_anything")
    again = load_teacher(name, weights=weights, **teacher_settings(store.schema))  # type: ignore[arg-type]
    assert check_against_teacher(store, again, source, 3).problems == []


def test_flip_averaging_aligns_the_mirrored_answer_to_mirrored_lidar(models: Path, tmp_path: Path) -> None:
    teacher = load(models, "depth_anything", align="gt")
    source = ScaledFrames(teacher, 3)
    precompute(teacher, source, tmp_path / "a.zarr", PrecomputeConfig())
    store = open_store(tmp_path / "a.zarr")
    frame_id = source.frame_ids[0]
    frame = replace(source.load(frame_id), gt_depth=source.lidar_depth(frame_id))
    both = [teacher.predict_frames([one]).depth for one in (frame, frame.mirrored())]
    expected = (both[0] + both[1].flip(-1))[0, 0].numpy() / 2
    np.testing.assert_allclose(store.native(frame_id), expected, atol=1 / 128 + 1e-3)
    assert np.abs(both[0][0, 0].numpy() - expected).max() > 0.1


def refused(folder: Path, message: str, **options: Any) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_teacher(f"hf:{folder}", **options)
    assert "\n" not in str(caught.value)


class Harmful:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_damaged_and_unsafe_folders_are_refused_in_one_line(models: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(folder_of(models, "glpn"), tmp_path / "glpn")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused(folder, "no depth model that can be loaded")
    weights.unlink()
    refused(folder, "no depth model that can be loaded")
    torch.save({"x": Harmful(tmp_path / "harm")}, folder / "pytorch_model.bin")
    refused(folder, "no depth model that can be loaded")
    assert not (tmp_path / "harm").exists()
    from safetensors.torch import load, save_file

    state = load(whole)
    absent = state.popitem()[0]
    (folder / "pytorch_model.bin").unlink()
    save_file(state, weights, metadata={"format": "pt"})
    refused(folder, f"lack 1 tensors.*{absent}")
    weights.write_bytes(whole)
    config = (folder / "config.json").read_text()
    sizes = {"hidden_sizes": [1 << 16] * 4, "decoder_hidden_size": 1 << 16, "num_attention_heads": [64] * 4}
    (folder / "config.json").write_text(json.dumps({**json.loads(config), **sizes}))
    refused(folder, "declares a model of [0-9]{13} bytes, and holds [0-9]{6} bytes of weights")
    (folder / "config.json").write_text(config)
    (folder / "preprocessor_config.json").unlink()
    refused(folder, "preprocessor_config.json")
    refused(folder, "brings its own weights", weights="random:0")


def test_code_beside_the_weights_never_runs(models: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(folder_of(models, "glpn"), tmp_path / "glpn")
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "own.Config", "AutoModelForDepthEstimation": "own.Model"}
    (folder / "own.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'harm')!r}).touch()\n")
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": own}))
    refused(folder, "no depth model that can be loaded")
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": own}))
    load_teacher(f"hf:{folder}")
    assert not (tmp_path / "harm").exists()


def test_models_that_cannot_be_found_or_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused(Path("nobody/nothing"), r"Model nobody/nothing cannot be fetched.*pass hf:\./FOLDER")
    refused(tmp_path / "absent", "No folder .*absent")
    refused(Path("nothing"), "No folder nothing")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    refused(tmp_path, "of kind resnet; its output is not understood")


def no_network(monkeypatch: pytest.MonkeyPatch, cache: Path) -> list[object]:
    """The hub's cache is empty, or what a test puts there; the hub cannot be reached. Returns what is asked of it."""
    import huggingface_hub.constants

    asked: list[object] = []

    def refuse(*arguments: object, **named: object) -> None:
        asked.append(arguments[0])
        raise urllib.error.URLError(OSError(errno.ENETUNREACH, "Network is unreachable"))

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return asked


def test_without_network_the_hub_is_asked_once_and_the_reason_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = no_network(monkeypatch, tmp_path)
    refused(Path("nobody/nothing"), r"nobody/nothing cannot be fetched .*no answer from http.*Network is unreachable\)")
    assert len(asked) == 1


def test_without_network_a_cached_model_is_used(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = no_network(monkeypatch, tmp_path)
    cached, revision = tmp_path / "models--nobody--glpn", "0123456789" * 4
    shutil.copytree(folder_of(models, "glpn"), cached / "snapshots" / revision)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    teacher = load_teacher("hf:nobody/glpn")
    assert teacher.weights_source == f"nobody/glpn@{revision}"
    assert teacher.digest == load_teacher(f"hf:{folder_of(models, 'glpn')}").digest
    assert len(asked) == 1


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'tiekd-cache\[hf\]'"):
        load_teacher("hf:a/b")


@pytest.mark.slow
def test_the_command_line_from_the_model_to_the_check(models: Path, tmp_path: Path) -> None:
    shutil.copytree(folder_of(models, "glpn"), tmp_path / "small")
    write_kitti(tmp_path / "data" / "kitti")
    write_split(tmp_path / "split.txt")
    command = ["precompute", "--teacher", "hf:./small", "--split", "split.txt", "--device", "cpu"]
    succeed(*command, cwd=tmp_path)
    store = tmp_path / "stores" / "hf-small.zarr"
    assert open_store(store).schema.teacher["name"] == "hf:small"
    check = ["verify", store, "--against-teacher", "1", "--split", "split.txt", "--device", "cpu", "--json"]
    assert succeed(*check, cwd=tmp_path).json["teacher"]["problems"] == []
    (tmp_path / "small").rename(tmp_path / "elsewhere")
    assert "No folder small" in fail(*check, cwd=tmp_path)
    assert succeed(*check, "--weights", "elsewhere", cwd=tmp_path).json["teacher"]["problems"] == []
    shutil.copytree(folder_of(models, "dpt"), tmp_path / "dpt")
    assert "--align gt" in fail(*command[:1], "--teacher", "hf:./dpt", *command[3:], cwd=tmp_path)
