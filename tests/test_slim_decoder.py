"""The slim decoder: a whole student under 10 GMAC, features of the image's size, and nothing that does not train."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tiekd_cache.dpm import Bins
from tiekd_cache.errors import ConfigError, ShapeError
from tiekd_cache.students import build_student, load_student, save_student
from tiekd_cache.students.cost import student_cost
from tiekd_cache.students.slim import SlimDecoder

FEW_BINS = Bins.uniform(1e-3, 80.0, 9)


def test_a_light_encoder_makes_a_student_under_10_gmac() -> None:
    cost = student_cost("timm:efficientnet_lite0", decoder="slim")
    assert 5 < cost.gmac < 10
    assert cost.parameters < 4e6


def test_the_head_and_the_decoder_share_the_cost() -> None:
    full = student_cost("mobilenetv2", decoder="slim").gmac
    narrow = student_cost("mobilenetv2", decoder="slim", decoder_width=0.5).gmac
    plain = student_cost("mobilenetv2", decoder="slim", output="depth").gmac
    pixels = 352 * 1216 / 1e9
    assert full - plain == pytest.approx(pixels * 32 * (257 - 9))
    assert full - narrow > pixels * 16 * 257


@pytest.mark.parametrize("name", ["mobilenetv2", "resnet18"])
@pytest.mark.parametrize("size", [(64, 96), (37, 75)])
def test_features_have_the_size_of_the_image(name: str, size: tuple[int, int]) -> None:
    student = build_student(name, pretrained=False, bins=FEW_BINS, decoder="slim")
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = student(images)
    assert features.shape == (1, 32, *size)
    assert student.decoder.out_channels == 32
    depth = student.predict(images)
    assert depth.shape == (1, 1, *size)
    expected = (student.dpm(images) * FEW_BINS.centers[None, :, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(depth, expected.detach(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("output", ["dpm", "depth"])
def test_a_gradient_reaches_every_parameter_and_training_lowers_the_loss(output: str) -> None:
    torch.manual_seed(0)
    student = build_student(
        "resnet18", pretrained=False, bins=FEW_BINS, decoder="slim", decoder_width=0.5, output=output
    ).train()
    optimiser = torch.optim.AdamW(student.parameters(), lr=1e-3)
    images, wanted = torch.rand(2, 3, 64, 96), torch.randint(0, 9, (2, 64, 96))
    losses = []
    for _ in range(5):
        answer = student.head(student(images))
        if output == "dpm":
            loss = torch.nn.functional.cross_entropy(answer, wanted)
        else:
            loss = (answer[:, 0] / 80 - wanted / 9).square().mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert [name for name, p in student.named_parameters() if p.grad is None or not bool(p.grad.any())] == []
    assert losses[-1] < losses[0]


def test_strides_decide_on_channels_and_doublings() -> None:
    for strides, doublings, last in (((2, 4), 0, 32), ((4, 8, 8), 1, 32), ((16, 32), 3, 32), ((1, 2), 0, 32)):
        decoder = SlimDecoder([8] * len(strides), strides)
        assert len(decoder.upsample) == doublings
        assert decoder.out_channels == last
        finest = max(2, strides[0]) if doublings else strides[0]
        features = [torch.rand(1, 8, 64 // stride, 96 // stride) for stride in strides]
        assert decoder.eval()(features).shape[-2:] == (64 // finest << doublings, 96 // finest << doublings)
    assert SlimDecoder([8, 8], (4, 8), width=0.25).out_channels == 8
    with pytest.raises(ShapeError, match="2 features, not 1"):
        SlimDecoder([8, 8], (4, 8))([torch.rand(1, 8, 2, 2)])


def test_files_keep_the_decoder(tmp_path: Path) -> None:
    student = build_student("resnet18", pretrained=False, bins=FEW_BINS, decoder="slim", output="depth")
    assert student.settings() | {"bins": None} == {
        "name": "resnet18",
        "decoder_width": 1.0,
        "decoder": "slim",
        "output": "depth",
        "bins": None,
    }
    save_student(tmp_path / "student.pt", student, {})
    images = torch.rand(1, 3, 32, 64)
    assert torch.equal(load_student(tmp_path / "student.pt").predict(images), student.predict(images))


def test_nothing_is_published_of_it() -> None:
    student = build_student("resnet18", pretrained=False, bins=FEW_BINS, decoder="slim")
    with pytest.raises(ConfigError, match=r"resnet18.*'slim' was not published.*densedepth"):
        student.load_published({})
    with pytest.raises(ConfigError, match=r"decoder 'thin'.*densedepth, slim"):
        build_student("resnet18", pretrained=False, decoder="thin")
