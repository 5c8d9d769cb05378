"""DepthFormer answers as the published network does, from the published files, at every size that it takes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from weights_helpers import golden, parity_images, published_state

from tiekd_cache.errors import CheckpointError, ShapeError
from tiekd_cache.teachers import TeacherDepth, load_teacher
from tiekd_cache.teachers.checkpoints import fit_state
from tiekd_cache.teachers.depthformer import DepthFormerNetwork, DepthFormerTeacher
from tiekd_cache.teachers.hahi import DeformableAttention, cell_centres, sine_positions
from tiekd_cache.teachers.layouts import DEPTHFORMER, recognise
from tiekd_cache.teachers.swin import relative_position_index, shift_mask

NAME = "tiekd_depthformer_swinl"


@dataclass(frozen=True)
class Published:
    """The teacher from a file as published, the golden outputs, their picture, and what the teacher says of it."""

    teacher: DepthFormerTeacher
    fields: Mapping[str, Any]
    images: torch.Tensor
    said: TeacherDepth


def rows(shared_dir: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of every tensor of the published file."""
    keys = json.loads((shared_dir / "parity" / f"{NAME}.keys.json").read_text())
    return {key: (tuple(shape), getattr(torch, dtype)) for key, shape, dtype in keys}


@pytest.fixture(scope="module")
def published(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Published:
    state = published_state(shared_dir, NAME)
    counters = {key: torch.zeros(shape, dtype=dtype) for key, (shape, dtype) in rows(shared_dir).items()}
    file = tmp_path_factory.mktemp("weights") / "depthformer_swinl_22k_kitti.pth"
    torch.save({"meta": {"epoch": 24}, "state_dict": {**counters, **state}}, file)
    del state, counters
    teacher = load_teacher("depthformer", weights=file)
    file.unlink()  # 1.1 GB
    assert isinstance(teacher, DepthFormerTeacher)
    fields = golden(shared_dir, NAME)
    images = parity_images(shared_dir, fields)
    return Published(teacher, fields, images, teacher.predict(images))


def picked(tensor: torch.Tensor, fields: Mapping[str, Any], name: str) -> float:
    """The largest difference from the golden values of one map."""
    values = tensor.flatten()[torch.from_numpy(fields[f"{name}_idx"])].numpy()
    return float(np.abs(values - fields[f"{name}_val"]).max())


def at_image_size(said: TeacherDepth) -> torch.Tensor:
    """As published: clamped at half resolution, then resized."""
    return TeacherDepth(said.depth.clamp(1e-3, 80.0), said.resize).at_image_size()


@pytest.mark.slow  # 274 million weights are drawn
@pytest.mark.shared
def test_parity_of_the_depth(published: Published) -> None:
    error = np.abs(at_image_size(published.said)[0, 0].numpy() - published.fields["depth"])
    assert error.max() <= 1.5e-3
    assert error.mean() <= 2e-4
    assert published.said.depth.shape == (1, 1, *published.fields["raw_shape"])
    assert picked(published.said.depth, published.fields, "raw") <= 1.5e-3
    assert published.teacher.trained
    assert published.teacher.weights_source == "depthformer_swinl_22k_kitti.pth"


@pytest.mark.slow  # 274 million weights are drawn
@pytest.mark.shared
def test_parity_of_the_encoder_and_of_the_neck(published: Published) -> None:
    network = published.teacher.network
    with torch.inference_mode():
        encoded = network.backbone(published.images)
        fused = network.neck(encoded)
    for kind, features, tolerance in (("bb", encoded, 1e-5), ("feat", fused, 5e-4)):
        for index, feature in enumerate(features):
            name = f"{kind}{index}"
            assert list(feature[0].shape) == list(published.fields[f"{name}_shape"]), name
            assert picked(feature, published.fields, name) <= tolerance, name


@pytest.mark.slow  # 274 million weights are drawn
@pytest.mark.shared
def test_parity_of_the_average_with_the_mirrored_image(published: Published) -> None:
    mirrored = published.teacher.predict(published.images.flip(-1))
    average = (at_image_size(published.said) + at_image_size(mirrored).flip(-1)) / 2
    assert picked(average, published.fields, "tta") <= 1.5e-3


@pytest.mark.slow  # 274 million weights are drawn
@pytest.mark.shared
def test_a_batch_is_its_images_one_by_one_at_another_size(published: Published) -> None:
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(5))
    said = published.teacher.predict(images)
    assert said.depth.shape == (2, 1, 32, 48)
    assert said.at_image_size().shape == (2, 1, 64, 96)
    assert torch.isfinite(said.depth).all()
    assert (said.depth >= 1e-3).all()
    for index in range(2):
        one = published.teacher.predict(images[index : index + 1]).depth
        torch.testing.assert_close(said.depth[index : index + 1], one, rtol=0, atol=1.5e-3)
    with pytest.raises(ShapeError, match="depthformer: height and width must be multiples of 32"):
        published.teacher.predict(images[:, :, :-8])


@pytest.mark.slow  # 274 million weights are drawn
@pytest.mark.shared
def test_in_half_precision_the_depth_stays_near_and_is_float32(published: Published) -> None:
    images = published.images[:, :, :64, :96]
    exact = published.teacher.predict(images).depth
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        depth = published.teacher.network(images)
    assert depth.dtype == torch.float32
    error = ((depth - exact).abs().mean() / exact.mean()).item()
    assert 0 < error <= 0.05  # 0.028 on one machine
    assert not torch.equal(depth, depth.bfloat16().float())  # metres are not rounded to 8 bits


@pytest.mark.shared
def test_every_published_tensor_is_used_or_known_to_be_without_use(shared_dir: Path) -> None:
    state = {key: torch.empty(shape, dtype=dtype, device="meta") for key, (shape, dtype) in rows(shared_dir).items()}
    assert recognise(state) is DEPTHFORMER
    with torch.device("meta"):
        network = DepthFormerNetwork()
    needless = ("decode_head.conv_out.0.", "relative_position_index", "num_batches_tracked")
    used = {key: value for key, value in state.items() if not any(part in key for part in needless)}
    assert sum(value.numel() for key, value in used.items() if "running_" not in key) == sum(
        parameter.numel() for parameter in network.parameters()
    )
    del used["backbone.norm2.weight"], used["neck.level_embed"]
    with pytest.raises(CheckpointError, match=r"fit DepthFormer.*: 2 missing \(backbone.norms.2.weight, neck.level_em"):
        fit_state(network, used, DEPTHFORMER, Path("a.pth"))
    small = {**state, "backbone.norm3.weight": torch.empty(768, device="meta")}
    found = recognise(small)
    assert found is not None
    assert "only Swin-L" in found.title


@pytest.mark.slow
def test_random_weights_work_and_trained_on_nyu_means_ten_metres() -> None:
    teacher = load_teacher("depthformer", weights="random:0", trained_on="nyu")
    assert (teacher.name, teacher.architecture, teacher.weights_source) == (
        "depthformer",
        "depthformer_swinl",
        "random:0",
    )
    assert not teacher.trained
    assert teacher.clamps_to == (1e-3, 10.0)
    said = teacher.predict(torch.randn(1, 3, 32, 64, generator=torch.Generator().manual_seed(0)))
    assert torch.isfinite(said.depth).all()
    assert said.depth.std() > 0.05  # metres: not one value, nor less than a store tells apart
    assert said.resize is not None
    assert (said.resize.size, said.resize.align_corners) == ((32, 64), True)


def test_without_weights_the_error_says_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIEKD_CHECKPOINTS", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"zhyever/Monocular-Depth-Estimation-Toolbox.*configs/depthformer"):
        load_teacher("depthformer")


def test_sine_positions_count_from_one() -> None:
    positions = sine_positions(3, 5, torch.device("cpu"))
    assert positions.shape == (15, 512)
    at = positions[2 * 5 + 1]  # third row, second column
    for pair in (0, 1, 100):
        period = 10_000 ** (pair / 128)
        expected = [f(place / period) for place in (3, 2) for f in (math.sin, math.cos)]
        given = [at[i].item() for i in (2 * pair, 2 * pair + 1, 256 + 2 * pair, 257 + 2 * pair)]
        assert given == pytest.approx(expected, abs=1e-6)


def test_deformable_attention_reads_where_its_offsets_point_to() -> None:
    attention, generator = DeformableAttention(), torch.Generator().manual_seed(1)
    sizes = [(4, 6), (2, 3), (2, 2), (1, 2)]
    values = torch.randn(2, 24 + 6 + 4 + 2, 512, generator=generator)
    query = torch.randn(2, 5, 512, generator=generator)
    centres = torch.rand(5, 2, generator=generator)
    offsets = torch.randn(8, 4, 8, 2, generator=generator) * 2
    with torch.no_grad():
        attention.sampling_offsets.weight.zero_()
        attention.sampling_offsets.bias.copy_(offsets.flatten())
        given = attention(query, centres, values, sizes)
        projected = attention.value_proj(values)
        weights = attention.attention_weights(query).view(2, 5, 8, 32).softmax(-1).view(2, 5, 8, 4, 8)
        read = torch.zeros(512)
        image, asked, start = 1, 3, 0
        for level, (height, width) in enumerate(sizes):
            part = projected[image, start : start + height * width].view(height, width, 512)
            start += height * width
            for head in range(8):
                for point in range(8):
                    x = centres[asked, 0].item() * width + offsets[head, level, point, 0].item() - 0.5
                    y = centres[asked, 1].item() * height + offsets[head, level, point, 1].item() - 0.5
                    for row in (math.floor(y), math.floor(y) + 1):
                        for column in (math.floor(x), math.floor(x) + 1):
                            if 0 <= row < height and 0 <= column < width:
                                share = (1 - abs(y - row)) * (1 - abs(x - column))
                                share *= weights[image, asked, head, level, point].item()
                                own = slice(64 * head, 64 * head + 64)
                                read[own] += share * part[row, column, own]
        torch.testing.assert_close(given[image, asked], attention.output_proj(read), rtol=0, atol=1e-5)


def test_cell_centres_are_x_and_y() -> None:
    assert cell_centres(2, 4, torch.device("cpu"))[[0, 1, 4]].tolist() == [[0.125, 0.25], [0.375, 0.25], [0.125, 0.75]]


def test_windows_know_relative_positions_and_what_the_shift_brought_together() -> None:
    index = relative_position_index()
    assert [index[i, j].item() for i, j in ((0, 48), (48, 0), (7, 7), (0, 1), (0, 7))] == [0, 168, 84, 83, 71]
    mask = shift_mask(7, 10, torch.device("cpu"))  # padded to 7x14: two windows side by side
    assert mask.shape == (2, 49, 49)
    for window in range(2):
        for a, b in ((0, 6), (0, 27), (21, 27), (0, 28), (28, 48), (24, 31)):
            rows_differ = (a // 7 < 4) != (b // 7 < 4)
            columns_differ = window == 1 and (a % 7 < 4) != (b % 7 < 4)
            assert mask[window, a, b].item() == (-100.0 if rows_differ or columns_differ else 0.0), (window, a, b)


def test_merging_takes_four_neighbours_channel_by_channel() -> None:
    with torch.device("meta"):
        merging = DepthFormerNetwork().backbone.stages[0].downsample
    merging = merging.to_empty(device="cpu")
    seen: list[torch.Tensor] = []
    merging.norm.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    x = torch.arange(4 * 6 * 192.0).view(1, 4, 6, 192)
    merging(x)
    expected = F.unfold(x.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2).view(1, 2, 3, 768)
    assert torch.equal(seen[0], expected)
