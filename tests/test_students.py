"""Students answer exactly as the published ones, are rebuilt from their settings, and survive files and failures."""

from __future__ import annotations

import errno
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from weights_helpers import golden, parity_images
from weights_helpers import published_state as filled_state

from tiekd_cache.dpm import Bins
from tiekd_cache.errors import CheckpointError, ConfigError, ShapeError
from tiekd_cache.students import STUDENTS, Student, build_student, encoders, load_student, save_student
from tiekd_cache.students.decoder import DenseDepthDecoder, scale_widths
from tiekd_cache.students.published import published_names
from tiekd_cache.students.student_io import FORMAT, export_student, read_payload, student_payload, write_payload
from tiekd_cache.timm_compat import timm_module

STEMS = {"mobilenetv2": "mbv2", "resnet18": "r18", "resnet50": "r50"}
FEW_BINS = Bins.uniform(1e-3, 80.0, 9)


def small(seed: int = 0, bins: Bins = FEW_BINS, output: str = "dpm") -> Student:
    """A narrow resnet18 student with random weights."""
    torch.manual_seed(seed)
    return build_student("resnet18", pretrained=False, bins=bins, decoder_width=0.0625, output=output)


def picture(height: int = 32, width: int = 64, seed: int = 5) -> torch.Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.shared
@pytest.mark.parametrize("name", ["mobilenetv2", "resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_parity_with_the_published_student(shared_dir: Path, name: str) -> None:
    stem = f"tiekd_student_{STEMS[name]}"
    expected = golden(shared_dir, stem)
    student = build_student(name, pretrained=False)
    student.load_published(filled_state(shared_dir, stem))
    images = parity_images(shared_dir, expected)

    depth = student.predict(images)
    error = np.abs(depth[0, 0].numpy() - expected["depth"])
    assert error.max() <= 1e-3
    assert error.mean() <= 2e-4
    with torch.no_grad():
        features = student.encoder(images)
        dpm = student.dpm(images)[0, :, expected["dpm_y"], expected["dpm_x"]].T.numpy()
    for i, feature in enumerate(features):
        assert tuple(feature.shape[1:]) == tuple(expected[f"feat{i}_shape"])
        values = feature[0].flatten()[torch.from_numpy(expected[f"feat{i}_idx"])].numpy()
        np.testing.assert_allclose(values, expected[f"feat{i}_val"], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_less(np.abs(dpm - expected["dpm"]), np.maximum(1e-4 * expected["dpm"], 1e-5))
    averaged = (depth + student.predict(images.flip(-1)).flip(-1)) / 2
    np.testing.assert_allclose(averaged.flatten()[expected["tta_idx"]].numpy(), expected["tta_val"], rtol=0, atol=1e-3)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["mobilenetv2", "resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_parity_with_the_published_baseline(shared_dir: Path, name: str) -> None:
    stem = f"tiekd_baseline_{STEMS[name]}"
    expected = golden(shared_dir, stem)
    student = build_student(name, pretrained=False, output="depth")
    student.load_published(filled_state(shared_dir, stem))
    error = np.abs(student.predict(parity_images(shared_dir, expected))[0, 0].numpy() - expected["depth"])
    assert error.max() <= 1e-3
    assert error.mean() <= 2e-4


@pytest.mark.shared
def test_published_files_of_the_other_output_are_refused(shared_dir: Path) -> None:
    def layout(kind: str) -> dict[str, torch.Tensor]:
        keys = json.loads((shared_dir / "parity" / f"tiekd_{kind}_r18.keys.json").read_text())
        return {key: torch.zeros(shape) for key, shape, _ in keys}

    for output, right, wrong in (("dpm", "student", "baseline"), ("depth", "baseline", "student")):
        student = build_student("resnet18", pretrained=False, output=output)
        with pytest.raises(CheckpointError, match=f"output='{'depth' if output == 'dpm' else 'dpm'}'") as caught:
            student.load_published(layout(wrong))
        assert "\n" not in str(caught.value)
        student.load_published(layout(right))
        assert float(student.predict(picture())[0, 0, 0, 0]) == pytest.approx(40.0, abs=0.01)


@pytest.mark.shared
def test_published_layout_is_covered_key_by_key(shared_dir: Path) -> None:
    keys = json.loads((shared_dir / "parity" / "tiekd_student_r18.keys.json").read_text())
    unused = {key for key, _, _ in keys if key.startswith(("decode_head.conv_depth.", "decode_head.upsample_custom2."))}
    assert set(published_names(small().state_dict()).values()) | unused == {key for key, _, _ in keys}
    assert len(unused) == 6


def published_state(student: Student) -> dict[str, Any]:
    """The student's weights as a published checkpoint would hold them, unused parts included."""
    weights = student.state_dict()
    state: dict[str, Any] = {name: weights[key].clone() for key, name in published_names(weights).items()}
    state["decode_head.conv_depth.weight"] = torch.zeros(1, 8, 3, 3)
    state["decode_head.upsample_custom2.convA.conv.bias"] = torch.zeros(8)
    return state


def test_load_published_takes_every_wrapping() -> None:
    source, images = small(1), picture()
    state = published_state(source)
    without_counters = {key: value.numpy() for key, value in state.items() if "num_batches_tracked" not in key}
    for wrapped in (
        state,
        {"meta": {}, "state_dict": state},
        {f"module.{key}": value for key, value in state.items()},
        without_counters,
    ):
        student = small(2)
        assert not torch.equal(student.predict(images), source.predict(images))
        student.load_published(wrapped)
        assert torch.equal(student.predict(images), source.predict(images))


def test_load_published_names_what_does_not_fit_and_changes_nothing() -> None:
    student = small(2)
    before = {key: value.clone() for key, value in student.state_dict().items()}
    state = published_state(small(1))
    lacking = {key: value for key, value in state.items() if key != "backbone.conv1.weight"}
    with pytest.raises(CheckpointError, match=r"missing: backbone\.conv1\.weight"):
        student.load_published(lacking)
    with pytest.raises(CheckpointError, match=r"unknown: decode_head\.attention\.weight"):
        student.load_published({**state, "decode_head.attention.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"conv_out\.0\.weight is \[17, 8, 1, 1\], not \[9, 8, 1, 1\]"):
        student.load_published(published_state(small(1, Bins.uniform(1e-3, 80.0, 17))))
    with pytest.raises(CheckpointError, match="and 119 more"):
        student.load_published({})
    with pytest.raises(CheckpointError, match="state dict"):
        student.load_published({"state_dict": 3})
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())


def test_shapes_and_ranges_of_the_answers() -> None:
    student, images = small(), picture()
    assert not student.training
    with torch.no_grad():
        features, logits, dpm = student(images), student.logits(images), student.dpm(images)
    assert features.shape == (1, 8, 32, 64)
    assert logits.shape == dpm.shape == (1, 9, 32, 64)
    torch.testing.assert_close(student.head(features), logits)
    torch.testing.assert_close(dpm.sum(1), torch.ones(1, 32, 64))
    torch.testing.assert_close(dpm, torch.softmax(logits, 1))
    depth = student.predict(images)
    assert depth.shape == (1, 1, 32, 64)
    assert depth.dtype == torch.float32
    assert not depth.requires_grad
    expected = (dpm * FEW_BINS.centers[None, :, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(depth, expected, rtol=1e-5, atol=1e-5)


def test_a_plain_student_regresses_depth() -> None:
    student, images = small(output="depth"), picture()
    with torch.no_grad():
        features = student(images)
        depth = student.head(features)
    score = torch.nn.functional.conv2d(features, student.head.conv.weight, student.head.conv.bias, padding=1)
    torch.testing.assert_close(depth, 80 * torch.sigmoid(score))
    torch.testing.assert_close(student.predict(images), depth)
    assert student.predict(picture(33, 65)).shape == (1, 1, 33, 65)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert student.head(features.bfloat16()).dtype == torch.float32
        torch.testing.assert_close(student.head(features), depth)
    with torch.no_grad():
        student.head.conv.bias.fill_(-100.0)
    assert float(student.predict(images).max()) == pytest.approx(1e-3)  # clamped to the nearest edge, as released
    for ask in (student.logits, student.dpm):
        with pytest.raises(ConfigError, match=r"resnet18.*no DPM.*predict"):
            ask(images)


@pytest.mark.parametrize(("height", "width"), [(33, 65), (47, 70)])
def test_odd_sizes_are_resized_to_the_image(height: int, width: int) -> None:
    student, images = small(), picture(height, width)
    with torch.no_grad():
        dpm = student.dpm(images)
    assert dpm.shape[-2:] == (2 * ((height + 1) // 2), 2 * ((width + 1) // 2))
    at_head = (dpm * FEW_BINS.centers[None, :, None, None]).sum(1, keepdim=True)
    expected = torch.nn.functional.interpolate(at_head, (height, width), mode="bilinear", align_corners=True)
    torch.testing.assert_close(student.predict(images), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("surest", [0, -1])
def test_predictions_stay_between_the_outer_bin_centres(surest: int) -> None:
    student = small()
    with torch.no_grad():
        assert student.head.bias is not None
        student.head.bias[surest] = 1e4
    depth = student.predict(picture(33, 65))
    torch.testing.assert_close(depth, torch.full_like(depth, float(FEW_BINS.centers[surest])))
    assert FEW_BINS.min_depth < float(depth.min()) <= float(depth.max()) < FEW_BINS.max_depth


def test_gradients_reach_every_parameter() -> None:
    student = small().train()
    student.logits(picture().expand(2, -1, -1, -1)).square().mean().backward()  # type: ignore[no-untyped-call]
    without = [
        name for name, p in student.named_parameters() if p.grad is None or not bool(torch.isfinite(p.grad).all())
    ]
    assert without == []


def test_seed_fixes_the_weights() -> None:
    images = picture()
    first, again, other = small(3), small(3), small(4)
    assert torch.equal(first.predict(images), again.predict(images))
    assert not torch.equal(first.predict(images), other.predict(images))


@pytest.mark.parametrize("output", ["dpm", "depth"])
def test_settings_rebuild_the_student(output: str) -> None:
    student = small(output=output)
    settings = json.loads(json.dumps(student.settings()))
    rebuilt = build_student(
        settings.pop("name"),
        pretrained=False,
        bins=Bins.from_json(settings.pop("bins")),
        **settings,
    )
    rebuilt.load_state_dict(student.state_dict())
    assert rebuilt.settings() == student.settings()
    assert torch.equal(rebuilt.predict(picture()), student.predict(picture()))


def test_default_bins_are_the_papers() -> None:
    student = build_student("resnet18", pretrained=False, decoder_width=0.0625)
    assert student.bins == Bins.uniform(1e-3, 80.0, 257)


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(1.0, (512, 256, 128)), (0.25, (128, 64, 32)), (0.01, (8, 8, 8)), (0.3, (152, 80, 40)), (2, (1024, 512, 256))],
)
def test_scaled_widths(factor: float, expected: tuple[int, ...]) -> None:
    assert scale_widths((512, 256, 128), factor) == expected


@pytest.mark.parametrize(
    ("name", "published", "unused"),
    [
        ("mobilenetv2", 17_647_618, 1_153),
        ("resnet18", 16_783_938, 295_168 + 1_153),
        ("resnet50", 78_394_178, 295_168 + 1_153),
    ],
)
def test_parameters_of_the_published_width(name: str, published: int, unused: int) -> None:
    with torch.device("meta"):
        student = build_student(name, pretrained=False)
    assert sum(p.numel() for p in student.parameters()) == published - unused


def test_mobilenet_takes_imagenet_weights_and_keeps_the_published_dilations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = timm_module().create_model("mobilenetv2_100", pretrained=False).state_dict()
    torch.save(weights, tmp_path / "weights.bin")
    monkeypatch.setattr(encoders, "_cached_weights", lambda hub_id: str(tmp_path / "weights.bin"))
    encoder = build_student("mobilenetv2", bins=FEW_BINS, decoder_width=0.0625).encoder
    assert all(torch.equal(value, weights[key]) for key, value in encoder.state_dict().items())
    depthwise = {name: module for name, module in encoder.named_modules() if name.endswith("conv_dw")}
    assert len(depthwise) == 17
    dilated = {name: module.dilation for name, module in depthwise.items() if module.dilation != (1, 1)}
    assert dilated == {
        "blocks.3.0.conv_dw": (2, 2),
        "blocks.4.0.conv_dw": (2, 2),
        "blocks.5.0.conv_dw": (4, 4),
        "blocks.6.0.conv_dw": (4, 4),
    }


def test_decoder_doubles_twice_for_an_encoder_that_starts_at_a_quarter() -> None:
    decoder = DenseDepthDecoder((4, 6, 6, 8), (32, 16, 8, 8), num_upsamplings=2)
    sizes = [(4, 8, 12), (6, 4, 6), (6, 4, 6), (8, 4, 6)]  # strides 4, 8, 8, 8
    assert decoder([torch.rand(1, c, h, w) for c, h, w in sizes]).shape == (1, 8, 32, 48)


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'resnet19'.*resnet18"):
        build_student("resnet19", pretrained=False)
    with pytest.raises(ConfigError, match=r"output 'metres'.*dpm, depth"):
        build_student("resnet18", pretrained=False, output="metres")
    for width in (0.0, -1.0, float("nan"), 5.0):
        with pytest.raises(ConfigError, match="decoder_width"):
            build_student("resnet18", pretrained=False, decoder_width=width)
    with pytest.raises(ConfigError, match="one each"):
        DenseDepthDecoder((4, 8), (8,), 1)
    with pytest.raises(ShapeError, match="2 features, not 1"):
        DenseDepthDecoder((4, 8), (8, 8), 1)([torch.rand(1, 8, 2, 2)])
    student = small()
    for images in (torch.zeros(3, 32, 32), torch.zeros(1, 1, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)):
        with pytest.raises(ShapeError, match=r"\[B,3,H,W\]"):
            student.predict(images)


def test_pretrained_without_network_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        asked.append("once")
        raise urllib.error.URLError(OSError(errno.ENETUNREACH, "Network is unreachable"))

    asked: list[str] = []
    monkeypatch.setattr(encoders, "_cached_weights", lambda hub_id: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(CheckpointError, match=r"resnet18.*Network is unreachable.*--no-pretrained") as caught:
        build_student("resnet18", bins=FEW_BINS)
    assert asked == ["once"]  # the hub's own client, which would ask for half a minute, does not come to it
    assert "\n" not in str(caught.value)


def test_pretrained_in_offline_mode_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "_cached_weights", lambda hub_id: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"HF_HUB_OFFLINE.*--no-pretrained"):
        build_student("resnet18", bins=FEW_BINS)


def test_pretrained_takes_cached_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = {key: value + 1 for key, value in small(7).encoder.state_dict().items()}
    torch.save(weights, tmp_path / "weights.bin")
    monkeypatch.setattr(encoders, "_cached_weights", lambda hub_id: str(tmp_path / "weights.bin"))
    student = build_student("resnet18", pretrained=True, bins=FEW_BINS, decoder_width=0.0625)
    loaded = student.encoder.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in weights.items())


def test_pretrained_with_damaged_cached_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    monkeypatch.setattr(encoders, "_cached_weights", lambda hub_id: str(tmp_path / "model.safetensors"))
    with pytest.raises(CheckpointError, match=r"cannot be had.*--no-pretrained"):
        build_student("resnet18", bins=FEW_BINS)


def test_encoder_weights_are_the_ones_the_release_starts_from() -> None:
    assert {name: architecture.encoder for name, architecture in STUDENTS.items()} == {
        "mobilenetv2": "mobilenetv2_100.ra_in1k",  # the release's own, of OpenMMLab, is no model of timm
        "resnet18": "resnet18.tv_in1k",
        "resnet50": "resnet50.tv_in1k",
    }


@pytest.mark.parametrize("output", ["dpm", "depth"])
def test_file_round_trip(tmp_path: Path, output: str) -> None:
    student, path = small(6, output=output), tmp_path / "student.pt"
    save_student(path, student, {"step": 3, "store": "abc", "sizes": (1, 2)})
    loaded = load_student(path)
    assert not loaded.training
    assert loaded.settings() == student.settings()
    assert torch.equal(loaded.predict(picture()), student.predict(picture()))
    assert read_payload(path)["meta"] == {"step": 3, "store": "abc", "sizes": [1, 2]}
    assert [file.name for file in tmp_path.iterdir()] == ["student.pt"]


def test_a_file_that_names_neither_decoder_nor_output_is_a_published_dpm_student(tmp_path: Path) -> None:
    payload = student_payload(small(), {})
    del payload["settings"]["decoder"], payload["settings"]["output"]
    write_payload(tmp_path / "student.pt", payload)
    assert load_student(tmp_path / "student.pt").settings() == small().settings()


def test_a_training_checkpoint_is_a_students_file_too(tmp_path: Path) -> None:
    student, path = small(6).train(), tmp_path / "last.pt"
    optimiser = torch.optim.AdamW(student.parameters())
    student.logits(picture().expand(2, -1, -1, -1)).sum().backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    write_payload(path, {**student_payload(student, {}), "optimiser": optimiser.state_dict(), "step": 1})
    assert torch.equal(load_student(path).predict(picture()), student.eval().predict(picture()))
    assert read_payload(path)["step"] == 1


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    source, target = tmp_path / "source.pt", tmp_path / f"student{suffix}"
    save_student(source, small(1), {})
    export_student(source, target)
    before = target.read_bytes()
    save_student(source, small(2), {})
    monkeypatch.setattr(os, "fsync", full)  # a file that is not synced may be empty after a loss of power
    with pytest.raises(CheckpointError, match=rf"student{suffix}.*No space left"):
        export_student(source, target)
    assert target.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {source.name, target.name}


def test_writing_where_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Cannot write"):
        save_student(tmp_path / "absent" / "student.pt", small(), {})


def test_meta_must_be_json(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="JSON"):
        save_student(tmp_path / "student.pt", small(), {"when": object()})
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("student") / "student.pt"
    save_student(path, small(), {})
    return path.read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999, 0.99999])
def test_truncated_files_are_refused(tmp_path: Path, saved: bytes, share: float) -> None:
    path = tmp_path / "torn.pt"
    path.write_bytes(saved[: int(share * len(saved))])
    with pytest.raises(CheckpointError, match=r"torn\.pt is truncated") as caught:
        load_student(path)
    assert "\n" not in str(caught.value)


def test_flipped_bits_are_refused_or_harmless(tmp_path: Path, saved: bytes) -> None:
    path = tmp_path / "flipped.pt"
    path.write_bytes(saved)
    expected = load_student(path).predict(picture())
    rng = np.random.default_rng(0)
    refused = 0
    for position in rng.integers(0, len(saved), 12):
        damaged = bytearray(saved)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            student = load_student(path)
        except CheckpointError:
            refused += 1
        else:
            assert torch.equal(student.predict(picture()), expected)
    assert refused >= 10


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    with pytest.raises(CheckpointError, match="No checkpoint at"):
        load_student(path)
    path.write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match="truncated or no checkpoint"):
        load_student(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match=r"load_published"):
        load_student(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match=FORMAT):
        load_student(path)
    torch.save({"format": "tiekd-student/2"}, path)
    with pytest.raises(CheckpointError, match=r"tiekd-student/2.*newer"):
        load_student(path)
    torch.save({"format": FORMAT}, path)
    with pytest.raises(CheckpointError, match="lacks settings, state_dict, meta"):
        load_student(path)


class Runs:
    """Runs code when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("unpickled-code-ran"),))


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": FORMAT, "settings": {}, "state_dict": {}, "meta": Runs()}, "evil.pt")
    with pytest.raises(CheckpointError, match=r"evil\.pt"):
        load_student("evil.pt")
    assert not Path("unpickled-code-ran").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "resnet19"},
        {"decoder_width": 0.125},
        {"output": "depth"},
        {"decoder": "wide"},
        {"decoder_width": "wide"},
        {"bins": None},
        {"bins": Bins.uniform(1e-3, 80.0, 17).to_json()},
    ],
    ids=str,
)
def test_settings_and_weights_must_fit(tmp_path: Path, settings: dict[str, Any]) -> None:
    payload = student_payload(small(), {})
    payload["settings"].update(settings)
    write_payload(tmp_path / "student.pt", payload)
    with pytest.raises(CheckpointError, match="do not fit its settings"):
        load_student(tmp_path / "student.pt")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_equals_cpu(tmp_path: Path) -> None:
    student = small()
    save_student(tmp_path / "student.pt", student, {})
    on_gpu = load_student(tmp_path / "student.pt", "cuda")
    torch.testing.assert_close(on_gpu.predict(picture().cuda()).cpu(), student.predict(picture()), rtol=0, atol=0.05)


def test_imagenet_weights_from_a_file_beside_the_teachers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIEKD_CHECKPOINTS", str(tmp_path))
    timm = timm_module()
    torch.manual_seed(3)
    published = timm.create_model("resnet18", pretrained=False).state_dict()  # with the classifier, as downloaded
    torch.save(published, tmp_path / "resnet18-f37072fd.pth")
    torch.save({}, tmp_path / "resnet180.pth")  # another network's name
    student = build_student("resnet18", pretrained=True, decoder_width=0.125)
    assert torch.equal(student.encoder.state_dict()["layer4.1.conv2.weight"], published["layer4.1.conv2.weight"])
    del published["layer1.0.conv1.weight"]
    torch.save(published, tmp_path / "resnet18-f37072fd.pth")
    with pytest.raises(CheckpointError, match=r"f37072fd\.pth.*layer1\.0\.conv1\.weight"):
        build_student("resnet18", pretrained=True, decoder_width=0.125)
    (tmp_path / "resnet18-f37072fd.pth").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="Remove or replace"):
        build_student("resnet18", pretrained=True, decoder_width=0.125)
