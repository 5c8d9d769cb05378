"""`tiekd-cache teachers`: every teacher is in the table, and its figures are those of the networks."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tiekd_cache.teachers import NETWORKS, TEACHERS
from tiekd_cache.teachers.adabins import AdaBinsNetwork
from tiekd_cache.teachers.bts import BtsNetwork
from tiekd_cache.teachers.cards import CARDS, OWN_CARDS
from tiekd_cache.teachers.checkpoints import find_weights, where_to_get

sys.path.insert(0, str(Path(__file__).resolve().parent / "e2e"))

from command_line import succeed

BUILD: dict[str, tuple[str, int, Callable[[], nn.Module]]] = {
    # name: (parity data, parameters there without influence on the depth, our network)
    "bts-densenet161": ("bts_densenet161", 0, lambda: BtsNetwork("bts_densenet161")),
    "bts-resnet50": ("bts_resnet50", 2_049_000, lambda: BtsNetwork("bts_resnet50")),
    "bts-toolbox": ("tiekd_bts_r50", 0, lambda: BtsNetwork("bts_toolbox")),
    "adabins": ("adabins", 4_096, lambda: AdaBinsNetwork(toolbox=False, depth_range=(1e-3, 80))),
    "adabins-toolbox": ("tiekd_adabins", 4_096 + 1_153, lambda: AdaBinsNetwork(toolbox=True, depth_range=(1e-3, 80))),
}


@pytest.mark.parametrize("name", BUILD)
def test_parameters_are_those_of_the_network(name: str) -> None:
    with torch.device("meta"):
        network = BUILD[name][2]()
    assert sum(parameter.numel() for parameter in network.parameters()) == CARDS[name].parameters


@pytest.mark.shared
@pytest.mark.parametrize("name", BUILD)
def test_parameters_are_those_of_the_published_layout(name: str, shared_dir: Path) -> None:
    layout, dead, _ = BUILD[name]
    rows = json.loads((shared_dir / "parity" / f"{layout}.keys.json").read_text())
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    published = sum(math.prod(shape) for key, shape, _ in rows if not key.endswith(buffers))
    assert published - dead == CARDS[name].parameters


def test_the_table_has_every_teacher(tmp_path: Path) -> None:
    said = succeed("teachers", cwd=tmp_path)
    lines = said.out.splitlines()
    assert {line.split()[0] for line in lines[1:]} == {*TEACHERS, *OWN_CARDS}
    [adabins] = [line for line in lines if line.startswith("adabins-toolbox ")]
    assert adabins.split()[-4:] == ["78.2", "176x608", "0.0593", "2.3309"]
    assert len(said.err.splitlines()) == 1
    rows = {row["name"]: row for row in succeed("teachers", "--json", cwd=tmp_path).json}
    assert rows.keys() == {*TEACHERS, *OWN_CARDS}
    assert rows["bts-toolbox"] == {
        "name": "bts-toolbox",
        "network": "BTS, ResNet-50, toolbox layout",
        "weights": "zhyever/Monocular-Depth-Estimation-Toolbox",
        "parameters": 47_481_969,
        "native_size": [352, 1216],
        "abs_rel": 0.0586,
        "rmse": 2.4798,
    }


def test_every_network_says_where_its_weights_are_as_its_card_does(tmp_path: Path) -> None:
    for name in NETWORKS:
        assert CARDS[name].weights.split()[0] in where_to_get(name)


@pytest.mark.parametrize(
    ("name", "trained_on", "expected"),
    [
        ("adabins", "kitti", "AdaBins_kitti.pt"),
        ("adabins", "nyu", "AdaBins_nyu.pt"),
        ("bts", "kitti", "bts_r50_kitti_24e.pth"),
        ("bts-toolbox", "kitti", "bts_r50_kitti_24e.pth"),
        ("bts", "nyu", "bts_nyu_v2_pytorch_resnet50/model"),
    ],
)
def test_the_file_of_the_data_set_is_found(tmp_path: Path, name: str, trained_on: str, expected: str) -> None:
    for file in ("AdaBins_kitti.pt", "AdaBins_nyu.pt", "bts_r50_kitti_24e.pth", "bts_nyu_v2_pytorch_resnet50/model"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert find_weights(name, tmp_path, trained_on) == tmp_path / expected
