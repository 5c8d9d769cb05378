"""A published file through the command line: what the store gives back is what the network says of the frame."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import fail, succeed

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kitti_helpers import FRAMES, write_kitti
from weights_helpers import publish, publish_mmcv, published_state

from tiekd_cache.data.kitti import KittiFrames
from tiekd_cache.store import open_store
from tiekd_cache.teachers import load_teacher

pytestmark = [pytest.mark.slow, pytest.mark.shared, pytest.mark.timeout(600)]

HALF_STEP_M = 1 / 128


@pytest.mark.parametrize(
    ("name", "teacher", "file", "native"),
    [
        ("adabins", "adabins", "AdaBins_kitti.pt", (176, 608)),
        ("tiekd_adabins", "adabins", "adabins_efnetb5ap_kitti_24e.pth", (176, 608)),
        ("tiekd_bts_r50", "bts", "bts_r50_kitti_24e.pth", (352, 1216)),
    ],
)
def test_from_a_file_in_the_checkpoints_folder_into_a_store(
    shared_dir: Path, tmp_path: Path, name: str, teacher: str, file: str, native: tuple[int, int]
) -> None:
    write_kitti(tmp_path / "data" / "kitti", frames=FRAMES[:1])
    wrap = publish if name == "adabins" else publish_mmcv
    weights = wrap(published_state(shared_dir, name), tmp_path / "checkpoints" / file)
    made = succeed("precompute", "--teacher", teacher, "--split", "all", "--no-flip", "--json", cwd=tmp_path).json
    assert made["responses"] == 1
    store = open_store(tmp_path / "stores" / f"{teacher}.zarr")
    frame = KittiFrames.open(tmp_path / "data" / "kitti", "all", purpose="train").load(FRAMES[0])
    assert store.native(FRAMES[0]).shape == native
    depth = load_teacher(teacher, weights=weights).predict_frames([frame]).at_image_size().clamp(1e-3, 80)[0, 0].numpy()
    assert np.abs(store[FRAMES[0]] - depth).max() <= HALF_STEP_M + 1e-3
    assert depth.std() > 0.5
    succeed("verify", "--against-teacher", "1", "--split", "all", cwd=tmp_path)
    torch.save({"meta": {}, "state_dict": {"backbone.conv1.weight": torch.zeros(1)}}, weights)
    assert "does not fit" in fail("precompute", "--teacher", teacher, "--split", "all", cwd=tmp_path)
    weights.unlink()
