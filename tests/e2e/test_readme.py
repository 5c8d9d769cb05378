"""The README's commands run as they stand there; long ones with their work cut short, and nothing else changed."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from command_line import succeed

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from signing_helpers import write_key  # noqa: E402
from test_docs import commands_of  # noqa: E402

from tiekd_cache.data.synthetic_kitti import write_synthetic_kitti  # noqa: E402
from tiekd_cache.teachers.adabins import AdaBinsNetwork  # noqa: E402
from tiekd_cache.teachers.bts import BtsNetwork  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CUT_SHORT = {
    "demo": [
        "--set",
        "train.steps=2",
        "--set",
        "data.synthetic.train_frames=2",
        "--set",
        "data.synthetic.test_frames=1",
    ],
    "run": [
        "--set",
        "train.steps=2",
        "--set",
        "data.synthetic.train_frames=2",
        "--set",
        "data.synthetic.test_frames=1",
    ],
    "distill": ["--no-pretrained", "--steps", "1", "--batch-size", "1", "--crop", "64x96", "--decoder-width", "0.125"],
    "evaluate": ["--limit-frames", "2"],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data in data/kitti, one frame of NYU, two photos, weights in checkpoints/, and the recipes."""
    home = tmp_path_factory.mktemp("home")
    write_synthetic_kitti(home / "data" / "kitti", train_frames=2, test_frames=2)
    weights = home / "checkpoints" / "bts_eigen_v2_pytorch_densenet161" / "model"
    weights.parent.mkdir(parents=True)
    torch.manual_seed(0)
    network = BtsNetwork("bts_densenet161")
    torch.save({"model": {f"module.{key}": value for key, value in network.state_dict().items()}}, weights)
    adabins = home / "checkpoints" / "AdaBins_kitti.pt"
    torch.save({"model": AdaBinsNetwork(toolbox=False, depth_range=(1e-3, 80.0)).state_dict()}, adabins)
    (home / "checkpoints" / "AdaBins_nyu.pt").hardlink_to(adabins)
    for name in ("one", "two"):
        (home / "photos" / name).mkdir(parents=True)
        assert cv2.imwrite(str(home / "photos" / name / "picture.jpg"), np.full((352, 480, 3), 90, np.uint8))
    with h5py.File(home / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = np.full((1, 3, 640, 480), 90, np.uint8)
        file["depths"] = np.full((1, 640, 480), 2.5, np.float32)
    (home / "pipelines").symlink_to(ROOT / "pipelines")
    return home


def test_every_command_runs_in_order(home: Path) -> None:
    commands = commands_of((ROOT / "README.md").read_text())
    assert {words[0] for words in commands} >= {
        "demo",
        "precompute",
        "distill",
        "evaluate",
        "doctor",
        "info",
        "verify",
        "run",
    }
    write_key(home / ".ssh" / "id_ed25519")
    for words in commands:
        with_key = {"HOME": str(home)} if any(word.startswith("~/.ssh/") for word in words) else {}
        succeed(*words, *CUT_SHORT.get(words[0], []), cwd=home, **with_key)
    # the Python example uses what the commands have made
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    names: dict[str, object] = {}
    with contextlib.chdir(home):
        exec(example, names)
    assert names["depth"].shape == (352, 1216)  # type: ignore[attr-defined]
    assert names["bins"].num_bins == 257  # type: ignore[attr-defined]
