"""Where data and weights are looked for when the user names no place."""

from __future__ import annotations

import os
from pathlib import Path


def default_kitti_root() -> Path:
    """$TIEKD_KITTI, or `data/kitti` in the working directory."""
    return Path(os.environ.get("TIEKD_KITTI") or "data/kitti")


def default_checkpoints_dir() -> Path:
    """$TIEKD_CHECKPOINTS, or `checkpoints` in the working directory."""
    return Path(os.environ.get("TIEKD_CHECKPOINTS") or "checkpoints")
