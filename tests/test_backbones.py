"""`timm:NAME`: any pyramid of maps becomes an encoder, whatever its layout; anything else is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tiekd_cache.dpm import Bins
from tiekd_cache.errors import CheckpointError, ConfigError
from tiekd_cache.students import Student, build_student, encoders, load_student, save_student
from tiekd_cache.students.backbones import AnySizeEncoder
from tiekd_cache.students.decoder import fitting_shape
from tiekd_cache.students.meta import made_on_meta
from tiekd_cache.timm_compat import timm_module

FEW_BINS = Bins.uniform(1e-3, 80.0, 9)
SWIN = "timm:swin_tiny_patch4_window7_224"


def narrow(name: str, pretrained: bool = False) -> Student:
    torch.manual_seed(0)
    return build_student(name, pretrained=pretrained, bins=FEW_BINS, decoder_width=0.0625)


@pytest.mark.parametrize("name", ["timm:efficientnet_lite0.ra_in1k", "timm:edgenext_xx_small"])
def test_backbones_make_students_of_the_images_size(name: str, tmp_path: Path) -> None:
    student, images = narrow(name), torch.rand(1, 3, 69, 101)
    with torch.no_grad():
        assert student(images).shape == (1, student.decoder.out_channels, 69, 101)
        assert student(images[..., :64, :96]).shape[-2:] == (64, 96)
    save_student(tmp_path / "student.pt", student, {})
    again = load_student(tmp_path / "student.pt")
    assert again.settings()["name"] == name
    assert torch.equal(again.predict(images), student.predict(images))


@pytest.mark.slow
def test_channels_last_and_fussy_sizes() -> None:
    student = narrow(SWIN)  # made for 224x224, multiples of 4, [B,h,w,c]
    assert isinstance(student.encoder, AnySizeEncoder)
    assert (student.encoder.multiple, student.encoder.channels_last) == (32, True)
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        features = student.encoder(images)
        raw = student.encoder.model(images)
        assert [tuple(f.shape[1:]) for f in features] == [(96, 16, 24), (192, 8, 12), (384, 4, 6), (768, 2, 3)]
        assert torch.equal(features[1], raw[1].permute(0, 3, 1, 2))
        assert student.predict(torch.rand(1, 3, 61, 97)).shape == (1, 1, 61, 97)
        assert student.encoder(torch.rand(1, 3, 61, 97))[0].shape[2:] == (16, 32)


@pytest.mark.slow
def test_nothing_is_dropped_at_random() -> None:
    student = narrow(SWIN).train()  # timm's default there is stochastic depth of up to 0.1
    images = torch.rand(8, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(student.encoder(images)[-1], student.encoder(images)[-1])
    with torch.device("meta"):
        usual = timm_module().create_model("swin_tiny_patch4_window7_224", features_only=True)
    assert any(getattr(module, "drop_prob", 0) for module in usual.modules())
    assert not any(getattr(module, "drop_prob", 0) for module in student.encoder.modules())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("timm:efficientnet_lite", r"no model 'efficientnet_lite'.*Similar: timm:efficientnet_lite"),
        ("timm:", "no model ''"),
        ("timm:hf-hub:someone/something", "no model"),
        ("timm:resnet18.bogus", r"bogus"),
        ("timm:vit_tiny_patch16_224", r"vit_tiny.*doesn't match model \(224\).*an image of any size"),
        ("timm:levit_128s", r"levit_128s cannot be a student's encoder"),
        ("efficientnet_lite0", r"'efficientnet_lite0' is not known.*timm:NAME"),
    ],
)
def test_what_is_no_encoder_is_refused_in_one_line(name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        narrow(name)
    assert "\n" not in str(caught.value)


class ReadsItsOwnNumbers(torch.nn.Module):
    """Cannot be made on the meta device: its constructor reads a tensor's values."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = torch.linspace(0, 1, 3).tolist()
        self.weight = torch.nn.Parameter(torch.rand(3))


def test_networks_without_memory_leave_the_random_numbers_alone() -> None:
    before = torch.random.get_rng_state()
    for make in (lambda: torch.nn.Linear(2, 2), ReadsItsOwnNumbers):
        module = made_on_meta(make)
        assert [parameter.device.type for parameter in module.parameters()][:1] == ["meta"]
    assert torch.equal(torch.random.get_rng_state(), before)

    def broken() -> torch.nn.Module:
        raise RuntimeError("no such layer")

    with pytest.raises(RuntimeError, match="no such layer"):
        made_on_meta(broken)


@pytest.mark.parametrize(
    ("channels", "strides", "expected"),
    [
        ((64, 64, 128, 256, 512), (2, 4, 8, 16, 32), ((512, 256, 128, 128, 128), 1)),
        ((96, 192, 384, 768), (4, 8, 16, 32), ((512, 256, 128, 128), 2)),
        ((16, 24, 40), (2, 4, 8), ((40, 40, 40), 1)),
        ((64, 160), (1, 2), ((160, 128), 0)),
    ],
)
def test_decoders_fit_the_encoder(
    channels: tuple[int, ...], strides: tuple[int, ...], expected: tuple[tuple[int, ...], int]
) -> None:
    assert fitting_shape(channels, strides) == expected


def test_weights_from_a_file_under_timms_own_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIEKD_CHECKPOINTS", str(tmp_path))
    torch.manual_seed(3)
    weights = timm_module().create_model("edgenext_xx_small", pretrained=False).state_dict()
    torch.save(weights, tmp_path / "edgenext_xx_small.pth")
    encoder = narrow("timm:edgenext_xx_small", pretrained=True).encoder
    name = "stages.3.blocks.1.mlp.fc1.weight"
    assert torch.equal(encoder.state_dict()[name.replace("stages.", "stages_")], weights[name])
    del weights[name]
    torch.save(weights, tmp_path / "edgenext_xx_small.pth")
    with pytest.raises(CheckpointError, match="1 are missing"):
        narrow("timm:edgenext_xx_small", pretrained=True)


def test_a_model_without_weights_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIEKD_CHECKPOINTS", str(tmp_path))
    monkeypatch.setattr(encoders, "why_unreachable", lambda: pytest.fail("asked the network"))
    with pytest.raises(CheckpointError, match=r"no ImageNet weights of mobilenetv2_075.*--no-pretrained"):
        narrow("timm:mobilenetv2_075", pretrained=True)
