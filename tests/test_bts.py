"""BTS answers as the published network does, and says clearly what it cannot take."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from weights_helpers import golden, parity_images, publish, published_state

from tiekd_cache.errors import CheckpointError, RangeError, ShapeError
from tiekd_cache.teachers import load_teacher
from tiekd_cache.teachers.bts import BtsTeacher
from tiekd_cache.teachers.bts_decoder import local_planar_guidance

FOCAL = torch.tensor([721.5377])
NETWORKS = ["bts_densenet161", "bts_resnet50"]


def loaded(name: str, weights: str | Path) -> BtsTeacher:
    teacher = load_teacher(name, weights=weights)
    assert isinstance(teacher, BtsTeacher)
    return teacher


@pytest.fixture(scope="module", params=NETWORKS)
def published(
    request: pytest.FixtureRequest, shared_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[BtsTeacher, Mapping[str, Any], torch.Tensor]]:
    """A teacher loaded as plain `bts` from a published checkpoint, golden outputs, and their picture."""
    file = publish(published_state(shared_dir, request.param), tmp_path_factory.mktemp("weights") / "model")
    teacher = loaded("bts", file)
    assert teacher.architecture == request.param
    fields = golden(shared_dir, request.param)
    yield teacher, fields, parity_images(shared_dir, fields)
    file.unlink()  # 190 MB


@pytest.fixture(scope="module")
def untrained() -> BtsTeacher:
    return loaded("bts-resnet50", "random:3")


@pytest.mark.shared
def test_parity_of_the_depth(published: tuple[BtsTeacher, Mapping[str, Any], torch.Tensor]) -> None:
    teacher, fields, images = published
    given = teacher.predict(images, torch.tensor([float(fields["focal"])]))
    assert given.resize is None
    error = np.abs(given.depth[0, 0].numpy() - fields["depth"])
    assert error.max() <= 1.5e-3
    assert error.mean() <= 2e-4
    assert torch.equal(given.depth, teacher.predict(images).depth)  # the focal length that is assumed
    assert teacher.trained
    assert teacher.weights_source.endswith("/model")


@pytest.mark.shared
def test_parity_of_features_and_side_outputs(published: tuple[BtsTeacher, Mapping[str, Any], torch.Tensor]) -> None:
    teacher, fields, images = published
    with torch.inference_mode():
        features = teacher.network.features(images)
        maps = teacher.network.decoder(features)
    given = {f"feat{index}": feature for index, feature in enumerate(features)}
    given |= {"lpg8": maps.plane8, "lpg4": maps.plane4, "lpg2": maps.plane2, "reduc1": maps.detail}
    for name, tensor in given.items():
        assert list(tensor[0].shape) == list(fields[f"{name}_shape"]), name
        expected = fields[f"{name}_val"]
        if name == "feat4":
            expected = expected.clip(min=0)  # the reference takes it before the ReLU that begins the decoder
        error = np.abs(tensor.flatten()[torch.from_numpy(fields[f"{name}_idx"])].numpy() - expected)
        assert error.max() <= 1e-5, name


@pytest.mark.slow
def test_the_same_weights_have_one_digest_however_wrapped(untrained: BtsTeacher, tmp_path: Path) -> None:
    state = untrained.network.state_dict()
    bare = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(bare, tmp_path / "bare.pt")
    dead = {"encoder.base_model.fc.weight": torch.ones(1000, 2048), "encoder.base_model.fc.bias": torch.ones(1000)}
    given = [
        loaded("bts-resnet50", tmp_path / "bare.pt"),
        loaded("bts", publish({**state, **dead}, tmp_path / "model")),
    ]
    assert [teacher.digest for teacher in given] == [untrained.digest] * 2
    assert [teacher.weights_source for teacher in given] == ["bare.pt", f"{tmp_path.name}/model"]
    with torch.no_grad():
        next(given[0].network.parameters()).view(-1)[0] += 1e-6
    again = BtsTeacher(
        given[0].network,
        architecture="bts_resnet50",
        weights_source="bare.pt",
        trained=True,
        device=torch.device("cpu"),
    )
    assert again.digest != untrained.digest


def test_a_checkpoint_of_the_other_network_is_refused(untrained: BtsTeacher, tmp_path: Path) -> None:
    file = publish(untrained.network.state_dict(), tmp_path / "model")
    with pytest.raises(
        CheckpointError,
        match=r"does not fit BTS with DenseNet-161: .*missing.*not known.*ResNet-50; load.*bts-resnet50\.$",
    ):
        load_teacher("bts-densenet161", weights=file)


def test_depth_scales_with_the_focal_length_of_each_image(untrained: BtsTeacher) -> None:
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    images = image.expand(2, -1, -1, -1)
    depth = untrained.predict(images, torch.tensor([715.0873, 2 * 715.0873])).depth
    assert depth.shape == (2, 1, 64, 96)
    assert depth.dtype == torch.float32
    torch.testing.assert_close(depth[1], 2 * depth[0])
    torch.testing.assert_close(untrained.predict(image, FOCAL).depth[0], depth[0] * (721.5377 / 715.0873))


def test_what_it_answers_is_an_ordinary_tensor_and_the_network_does_not_learn(untrained: BtsTeacher) -> None:
    depth = untrained.predict(torch.zeros(1, 3, 32, 64)).depth
    assert not depth.requires_grad
    scale = torch.ones(1, requires_grad=True)
    (scale * depth).mean().backward()  # type: ignore[no-untyped-call]  # a tensor from inference mode could not be saved for this
    assert scale.grad is not None
    assert not untrained.network.training
    assert not any(parameter.requires_grad for parameter in untrained.network.parameters())


@pytest.mark.parametrize("shape", [(1, 3, 350, 1216), (1, 3, 352, 1220), (1, 1, 64, 64), (3, 64, 64), (1, 3, 0, 64)])
def test_other_shapes_are_refused(untrained: BtsTeacher, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"multiples of 32|\[B,3,H,W\]"):
        untrained.predict(torch.zeros(shape))


def test_bytes_and_wrong_focal_lengths_are_refused(untrained: BtsTeacher) -> None:
    with pytest.raises(ShapeError, match="normalised"):
        untrained.predict(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ShapeError, match="one for each image"):
        untrained.predict(torch.zeros(1, 3, 32, 32), torch.tensor([700.0, 700.0]))
    with pytest.raises(RangeError, match="> 0 px"):
        untrained.predict(torch.zeros(1, 3, 32, 32), torch.tensor([0.0]))


@pytest.mark.slow
def test_random_weights_come_from_the_seed_alone(untrained: BtsTeacher) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    again = loaded("bts-resnet50", "random:3")
    assert torch.equal(torch.get_rng_state(), before)
    assert again.digest == untrained.digest
    assert loaded("bts-resnet50", "random:4").digest != untrained.digest
    assert not again.trained
    assert again.weights_source == "random:3"
    assert (again.name, again.architecture) == ("bts", "bts_resnet50")
    assert again.clamps_to == (1e-3, 80.0)
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    depth = again.predict(image).depth
    assert torch.equal(depth, untrained.predict(image).depth)
    assert torch.isfinite(depth).all()
    assert depth.std() > 0


def test_bts_without_a_word_on_the_network_is_densenet161() -> None:
    assert loaded("bts", "random:0").architecture == "bts_densenet161"


@pytest.mark.parametrize("block", [2, 4, 8])
def test_local_planar_guidance_is_the_depth_of_a_plane_per_block(block: int) -> None:
    raw = torch.randn(2, 3, 3, 5, generator=torch.Generator().manual_seed(block), dtype=torch.float64)
    depth = local_planar_guidance(raw, block)
    assert depth.shape == (2, 1, 3 * block, 5 * block)
    polar, azimuth, distance = (torch.sigmoid(raw[1, channel, 2, 3]).item() for channel in range(3))
    polar, azimuth = polar * math.pi / 3, azimuth * 2 * math.pi
    normal = (math.sin(polar) * math.cos(azimuth), math.sin(polar) * math.sin(azimuth), math.cos(polar))
    for i in range(block):
        for j in range(block):
            u, v = ((index - (block - 1) / 2) / block for index in (j, i))
            expected = distance / (normal[0] * u + normal[1] * v + normal[2])
            assert depth[1, 0, 2 * block + i, 3 * block + j].item() == pytest.approx(expected, rel=1e-12)


def test_a_plane_facing_the_camera_has_one_depth() -> None:
    raw = torch.tensor([-100.0, 0.3, 0.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(local_planar_guidance(raw, 8), torch.full((1, 1, 8, 8), 0.5))
