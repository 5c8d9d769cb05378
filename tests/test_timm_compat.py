"""timm can be imported beside a torchvision made for another torch, and nothing is touched beside one that works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BROKEN = """
import torch
from torchvision import ops
"""
BROKEN_OPS = """
import torch
if not hasattr(torch.ops.torchvision, "nms"):
    raise RuntimeError("operator torchvision::nms does not exist")
"""
TIMM = """
from timm import early
import torchvision
assert early is __import__("sys").modules["timm.early"]
create_model = "made"
"""
ASK = """
import timm, torch
print(timm.create_model, hasattr(timm, "early"), hasattr(torch.ops.torchvision, "nms"))
"""


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter with the folder's packages before the installed ones."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,
    )


def packages(folder: Path, torchvision: str, ops: str = "") -> Path:
    """Stand-ins for timm and torchvision."""
    for file, text in {
        "timm/__init__.py": TIMM,
        "timm/early.py": "",
        "torchvision/__init__.py": torchvision,
        "torchvision/ops.py": ops,
    }.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(text)
    return folder


def test_the_missing_operator_is_declared_and_the_import_repeated(tmp_path: Path) -> None:
    done = run(
        packages(tmp_path, BROKEN, BROKEN_OPS),
        f"from tiekd_cache.timm_compat import timm_module\ntimm_module(); timm_module()\n{ASK}",
    )
    assert done.stdout.split() == ["made", "True", "True"], done.stderr


@pytest.mark.slow
def test_a_torchvision_that_loads_well_is_left_alone(tmp_path: Path) -> None:
    done = run(packages(tmp_path, ""), f"from tiekd_cache.timm_compat import timm_module\ntimm_module()\n{ASK}")
    assert done.stdout.split() == ["made", "True", "False"], done.stderr


@pytest.mark.slow
def test_any_other_error_is_passed_on(tmp_path: Path) -> None:
    done = run(
        packages(tmp_path, "raise RuntimeError('another operator does not exist')"),
        "import torch\nfrom tiekd_cache.timm_compat import timm_module\n"
        "try:\n    timm_module()\nexcept RuntimeError as error:\n"
        "    print(error, hasattr(torch.ops.torchvision, 'nms'))",
    )
    assert done.stdout.strip() == "another operator does not exist False", done.stderr
