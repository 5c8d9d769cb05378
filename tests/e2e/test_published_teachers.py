"""A published file through the command line: the golden picture goes in, the golden depth comes out of the store.

The golden picture and no other: with the weights of the parity data, which nobody trained, one changed bit of a noisy
picture moves some of these answers by metres.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from command_line import fail, succeed

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from weights_helpers import fill_recipe, golden, publish, publish_mmcv, published_state

from tiekd_cache.store import open_store

pytestmark = [pytest.mark.slow, pytest.mark.shared, pytest.mark.timeout(600)]

TOLERANCE_M = 1 / 128 + 1.5e-3  # half a step, and what the parity data allow


@pytest.mark.parametrize(
    ("name", "teacher", "file", "half"),
    [
        ("bts_resnet50", "bts", "bts_eigen_v2_pytorch_resnet50.pt", False),
        ("tiekd_bts_r50", "bts", "bts_r50_kitti_24e.pth", False),
        ("adabins", "adabins", "AdaBins_kitti.pt", True),
        ("tiekd_adabins", "adabins", "adabins_efnetb5ap_kitti_24e.pth", True),
        ("tiekd_depthformer_swinl", "depthformer", "depthformer_swinl_22k_w7_kitti.pth", True),
    ],
)
def test_a_published_file_gives_the_golden_depth_out_of_the_store(
    shared_dir: Path, tmp_path: Path, name: str, teacher: str, file: str, half: bool
) -> None:
    fields = golden(shared_dir, name)
    size = int(fields["height"]), int(fields["width"])
    picture = fill_recipe(shared_dir).image_u8(*size, int(fields["seed"]))
    assert cv2.imwrite(str(tmp_path / "golden.png"), picture[..., ::-1])
    wrap = publish_mmcv if name.startswith("tiekd") else publish
    weights = wrap(published_state(shared_dir, name), tmp_path / "checkpoints" / file)
    options = ["--images", "golden.png", "--focal-px", "721.5377"]
    made = succeed("precompute", "--teacher", teacher, *options, "--no-flip", "--json", cwd=tmp_path).json
    assert made["responses"] == 1
    store = open_store(tmp_path / "stores" / f"{teacher}.zarr")
    assert store.native("golden").shape == ((size[0] // 2, size[1] // 2) if half else size)
    expected = fields["depth"].clip(1e-3, 80)
    given = store["golden"] if expected.shape == size else store.native("golden")
    assert np.abs(given - expected).max() <= TOLERANCE_M
    assert expected.std() > 0.5
    checked = succeed("verify", "--against-teacher", "1", *options, "--json", cwd=tmp_path).json
    assert checked["teacher"]["problems"] == []
    torch.save({"meta": {}, "state_dict": {"backbone.conv1.weight": torch.zeros(1)}}, weights)
    assert "does not fit" in fail("precompute", "--teacher", teacher, *options, cwd=tmp_path)
    weights.unlink()
