"""BTS in the depth toolbox's layout answers as published, and BTS keeps metres in float32 under autocast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from weights_helpers import (
    ParityFrames,
    flip_averaged,
    golden,
    parity_images,
    publish_mmcv,
    published_state,
    worst_of_samples,
)

from tiekd_cache.errors import CheckpointError
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.store import open_store
from tiekd_cache.teachers import load_teacher
from tiekd_cache.teachers.bts import BtsTeacher
from tiekd_cache.teachers.bts_decoder import BtsDecoder

HALF_STEP_M = 1 / 128


@pytest.fixture(scope="module")
def teacher(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> BtsTeacher:
    """Loaded as plain `bts` from a file that the depth toolbox might have saved."""
    file = tmp_path_factory.mktemp("weights") / "bts_r50_kitti_24e.pth"
    loaded = load_teacher("bts", weights=publish_mmcv(published_state(shared_dir, "tiekd_bts_r50"), file))
    file.unlink()  # 190 MB
    assert isinstance(loaded, BtsTeacher)
    return loaded


@pytest.mark.shared
def test_parity_with_the_toolbox(teacher: BtsTeacher, shared_dir: Path) -> None:
    fields = golden(shared_dir, "tiekd_bts_r50")
    images = parity_images(shared_dir, fields)
    said = teacher.predict(images, torch.tensor([500.0]))
    assert said.resize is None
    error = np.abs(said.depth.clamp(1e-3, 80)[0, 0].numpy() - fields["depth"])
    assert error.max() <= 1.5e-3
    assert error.mean() <= 2e-4
    assert worst_of_samples(said.depth, fields, "raw") <= 1.5e-3
    for index, feature in enumerate(teacher.network.features(images)):
        assert list(feature[0].shape) == list(fields[f"feat{index}_shape"])
        assert worst_of_samples(feature, fields, f"feat{index}") <= 1e-5, index
    assert torch.equal(said.depth, teacher.predict(images).depth), "it does not scale with the focal length"
    assert "reference_focal_px" not in teacher.preprocessing
    assert (teacher.name, teacher.architecture, teacher.trained) == ("bts", "bts_toolbox", True)


@pytest.mark.slow
@pytest.mark.shared
def test_parity_of_the_flip_average_in_and_out_of_a_store(
    teacher: BtsTeacher, shared_dir: Path, tmp_path: Path
) -> None:
    fields = golden(shared_dir, "tiekd_bts_r50")
    assert worst_of_samples(flip_averaged(teacher, shared_dir, fields), fields, "tta") <= 1.5e-3
    frames = ParityFrames(shared_dir, fields)
    precompute(teacher, frames, tmp_path / "bts.zarr", PrecomputeConfig())
    stored = torch.from_numpy(open_store(tmp_path / "bts.zarr")[frames.frame_ids[0]])
    assert worst_of_samples(stored, fields, "tta") <= HALF_STEP_M + 1.5e-3


@pytest.mark.shared
def test_an_image_of_a_batch_is_answered_as_it_is_alone(teacher: BtsTeacher) -> None:
    images = torch.randn(2, 3, 64, 160, generator=torch.Generator().manual_seed(5))
    together = teacher.predict(images).depth
    assert together.shape == (2, 1, 64, 160)
    torch.testing.assert_close(together[1:], teacher.predict(images[1:]).depth, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_random_weights_by_its_own_name_and_other_layouts_refused(tmp_path: Path) -> None:
    untrained = load_teacher("bts-toolbox", weights="random:3")
    assert isinstance(untrained, BtsTeacher)
    assert (untrained.name, untrained.architecture) == ("bts", "bts_toolbox")
    assert "decoder.get_depth.0.bias" in untrained.network.state_dict()
    official = load_teacher("bts-resnet50", weights="random:3")
    assert isinstance(official, BtsTeacher)
    assert official.digest != untrained.digest
    file = publish_mmcv(official.network.state_dict(), tmp_path / "bts_r50.pth")
    with pytest.raises(
        CheckpointError, match=r"1 missing \(decoder\.get_depth\.0\.bias\)\. It looks like BTS with Res"
    ):
        load_teacher("bts-toolbox", weights=file)


@pytest.mark.parametrize("depth_bias", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_depth_and_planes_are_float32_under_autocast(depth_bias: bool) -> None:
    torch.manual_seed(0)
    decoder = BtsDecoder((8, 8, 8, 8, 8), depth_bias=depth_bias).eval()
    features = [torch.randn(1, 8, 64 // stride, 64 // stride) for stride in (2, 4, 8, 16, 32)]
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        maps = decoder(features)
    for fraction in (maps.depth, maps.plane8, maps.plane4, maps.plane2):
        assert fraction.dtype == torch.float32
        assert not torch.equal(fraction, fraction.to(torch.bfloat16).float()), "rounded to 16 bits on the way"
