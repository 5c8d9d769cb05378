"""AdaBins answers as the published networks do, in both published layouts, and takes no other checkpoint or size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from weights_helpers import (
    flip_averaged,
    golden,
    parity_images,
    publish,
    publish_mmcv,
    published_state,
    worst_of_samples,
)

from tiekd_cache.errors import CheckpointError, ShapeError
from tiekd_cache.teachers import load_teacher
from tiekd_cache.teachers.adabins import AdaBinsNetwork, AdaBinsTeacher
from tiekd_cache.teachers.adabins_decoder import AdaptiveBins

OLD_NAMES = {".conv3x3.": ".embedding_conv.", ".embedding_convPxP.": ".embedding_encoder."}


class Published(NamedTuple):
    """A teacher loaded as plain `adabins` from a published checkpoint, and what it must answer."""

    name: str
    teacher: AdaBinsTeacher
    fields: Mapping[str, Any]
    images: torch.Tensor


def as_the_authors_published(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Two names as the files had them before the authors renamed the modules."""
    renamed = {}
    for key, value in state.items():
        for now, before in OLD_NAMES.items():
            key = key.replace(now, before)
        renamed[key] = value
    return renamed


def loaded(weights: str | Path, name: str = "adabins", trained_on: str = "kitti") -> AdaBinsTeacher:
    teacher = load_teacher(name, weights=weights, trained_on=trained_on)
    assert isinstance(teacher, AdaBinsTeacher)
    return teacher


@pytest.fixture(scope="module", params=[pytest.param("adabins", marks=pytest.mark.slow), "tiekd_adabins"])
def published(request: pytest.FixtureRequest, shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Published:
    state, folder = published_state(shared_dir, request.param), tmp_path_factory.mktemp("weights")
    if request.param == "adabins":
        file = publish(as_the_authors_published(state), folder / "AdaBins_kitti.pt")
    else:
        file = publish_mmcv(state, folder / "adabins_efnetb5ap_kitti.pth")
    teacher = loaded(file)
    file.unlink()  # 310 MB
    fields = golden(shared_dir, request.param)
    return Published(request.param, teacher, fields, parity_images(shared_dir, fields))


@pytest.fixture(scope="module")
def untrained() -> AdaBinsTeacher:
    return loaded("random:3")


@pytest.mark.shared
def test_parity_of_the_depth(published: Published) -> None:
    said = published.teacher.predict(published.images)
    assert said.depth.shape == (1, 1, 144, 240)
    assert said.resize is not None
    assert said.at_image_size().shape == (1, 1, 288, 480)
    toolbox = published.name == "tiekd_adabins"
    assert published.teacher.architecture == ("adabins_toolbox" if toolbox else "adabins")
    assert published.teacher.name == "adabins"
    assert published.teacher.trained
    depth = said.at_image_size() if toolbox else said.depth
    error = np.abs(depth[0, 0].numpy() - published.fields["depth"])
    assert error.max() <= 1.5e-3
    assert error.mean() <= 2e-4
    if toolbox:
        assert worst_of_samples(said.depth, published.fields, "raw") <= 1.5e-3


@pytest.mark.slow
@pytest.mark.shared
def test_parity_of_features_and_bin_edges(published: Published) -> None:
    network = published.teacher.network
    with torch.inference_mode():
        features = network.encoder(published.images)
        edges = network(published.images).bin_edges
    for index, feature in enumerate(features):
        assert list(feature[0].shape) == list(published.fields[f"feat{index}_shape"])
        assert worst_of_samples(feature, published.fields, f"feat{index}") <= 2e-5, index
    assert edges.shape == (1, 257)
    assert np.abs(edges[0].numpy() - published.fields["bin_edges"]).max() <= 1e-4
    assert edges[0, 0] == pytest.approx(1e-3)
    assert edges[0, -1] == pytest.approx(80.0, abs=1e-4)


@pytest.mark.slow
@pytest.mark.shared
def test_parity_of_the_flip_average(published: Published, shared_dir: Path) -> None:
    depth = flip_averaged(published.teacher, shared_dir, published.fields).clamp(1e-3, 80)
    assert worst_of_samples(depth, published.fields, "tta") <= 1.5e-3


@pytest.mark.slow
@pytest.mark.shared
def test_an_image_of_a_batch_is_answered_as_it_is_alone_at_another_size(published: Published) -> None:
    images = torch.cat([published.images, published.images.flip(-1) + 0.5])[..., :256, 64:]
    images = torch.nn.functional.pad(images, (0, 192, 0, 0), mode="reflect")  # 256x608: 152 patches
    together = published.teacher.predict(images).depth
    assert together.shape == (2, 1, 128, 304)
    alone = published.teacher.predict(images[1:]).depth
    torch.testing.assert_close(together[1:], alone, atol=1e-3, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1


@pytest.mark.slow
def test_the_smallest_and_the_largest_size_are_taken(untrained: AdaBinsTeacher) -> None:
    depth = untrained.predict(torch.zeros(1, 3, 96, 43 * 32)).depth  # 129 patches
    assert torch.isfinite(depth).all()
    assert untrained.input_size(640, 800) == (640, 800)  # 500
    for size in ((96, 320), (96, 42 * 32), (672, 800), (350, 1216)):
        with pytest.raises(ShapeError, match=r"does not suit adabins: .*multiples of 32, and .*129 to 500 blocks"):
            untrained.predict(torch.zeros(1, 3, *size))


def test_the_nearest_size_suits_and_keeps_the_aspect(untrained: AdaBinsTeacher) -> None:
    for height in range(16, 2000, 61):
        for width in range(16, 2600, 67):
            suits = untrained.input_size(height, width)
            rows, columns = suits[0] // 32, suits[1] // 32
            assert suits == (rows * 32, columns * 32)
            assert 129 <= rows * columns <= 500, (height, width)
            assert untrained.input_size(*suits) == suits
            if 1 / 4 < height / width < 4:
                assert suits[0] / suits[1] == pytest.approx(height / width, rel=0.25), (height, width)
    assert untrained.input_size(352, 1216) == (352, 1216)
    assert untrained.input_size(375, 1242) == (384, 1248)
    assert untrained.input_size(426, 560) == (416, 576)


@pytest.mark.slow
def test_stage_one_enlarges_an_image_that_is_too_small(untrained: AdaBinsTeacher) -> None:
    said = untrained.predict_images(torch.randn(1, 3, 96, 320, generator=torch.Generator().manual_seed(0)), None)
    assert said.resize is not None
    assert (said.resize.size, said.resize.align_corners) == ((96, 320), True)
    assert [2 * size for size in said.depth.shape[-2:]] == list(untrained.input_size(96, 320))


@pytest.mark.slow
def test_random_weights_come_from_the_seed_and_the_range_from_the_data_set(untrained: AdaBinsTeacher) -> None:
    torch.manual_seed(11)
    assert loaded("random:3").digest == untrained.digest
    assert (untrained.architecture, untrained.trained, untrained.weights_source) == ("adabins", False, "random:3")
    toolbox = loaded("random:3", "adabins-toolbox")
    assert (toolbox.name, toolbox.architecture) == ("adabins", "adabins_toolbox")
    assert toolbox.digest != untrained.digest
    indoors = loaded("random:3", trained_on="nyu")
    assert indoors.digest != untrained.digest
    assert indoors.clamps_to == (1e-3, 10.0)
    image = torch.zeros(1, 3, 96, 43 * 32)
    ratio = (indoors.predict(image).depth - 1e-3) / (untrained.predict(image).depth - 1e-3)
    torch.testing.assert_close(ratio, torch.full_like(ratio, (10 - 1e-3) / (80 - 1e-3)))


@pytest.mark.slow
def test_other_checkpoints_are_refused_and_named(untrained: AdaBinsTeacher, tmp_path: Path) -> None:
    state = untrained.network.state_dict()
    file = publish(state, tmp_path / "AdaBins_kitti.pt")
    with pytest.raises(
        CheckpointError, match=r"AdaBins in the depth toolbox's layout: .*looks like .*--teacher adabins\.$"
    ):
        loaded(file, "adabins-toolbox")
    with pytest.raises(CheckpointError, match=r"does not fit BTS with DenseNet-161: .*looks like AdaBins"):
        load_teacher("bts", weights=file)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"AdaBins_kitti\.pt is truncated, damaged or no checkpoint") as caught:
        loaded(file)
    assert "\n" not in str(caught.value)
    file.unlink()
    less = {key: value for key, value in state.items() if key != "conv_out.0.bias"} | {"x.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"1 missing \(conv_out\.0\.bias\); 1 not known \(x\.weight\)\.$"):
        loaded(publish(less, tmp_path / "less.pt"))
    (tmp_path / "less.pt").unlink()


class Rounded(torch.nn.Module):
    """A convolution with an answer in 16 bits; many CPUs compute those a hundred times slower than float32."""

    def __init__(self, convolution: torch.nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.convolution(x.float()).bfloat16()


def test_metres_are_float32_under_autocast() -> None:
    network = AdaBinsNetwork.__new__(AdaBinsNetwork)  # encoder and decoder left out: they may compute in 16 bits
    torch.nn.Module.__init__(network)
    torch.manual_seed(0)
    network.depth_range = (1e-3, 80.0)
    network.encoder = network.decoder = torch.nn.Identity()  # type: ignore[assignment]
    network.adaptive_bins_layer = bins = AdaptiveBins()
    bins.conv3x3 = Rounded(bins.conv3x3)  # type: ignore[assignment]
    embedding = bins.patch_transformer
    embedding.embedding_convPxP = Rounded(embedding.embedding_convPxP)  # type: ignore[assignment]
    network.conv_out = torch.nn.Sequential(torch.nn.Conv2d(128, 256, 1))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        maps = network.eval()(torch.randn(1, 128, 176, 192))
    for metres in maps:
        assert metres.dtype == torch.float32
        assert not torch.equal(metres, metres.to(torch.bfloat16).float()), "rounded to 16 bits on the way"
    assert maps.bin_edges[0, -1] == pytest.approx(80, abs=1e-4)
