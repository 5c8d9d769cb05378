"""Where data and weights are looked for when the user names no place."""

from __future__ import annotations

import os
import re
from pathlib import Path


def default_kitti_root() -> Path:
    """$TIEKD_KITTI, or `data/kitti` in the working directory."""
    return Path(os.environ.get("TIEKD_KITTI") or "data/kitti")


def default_catalogue() -> str | None:
    """$TIEKD_CATALOGUE, the folder or URL where colleagues put their stores; None where it is not set."""
    return os.environ.get("TIEKD_CATALOGUE") or None


def default_checkpoints_dir() -> Path:
    """$TIEKD_CHECKPOINTS, or `checkpoints` in the working directory."""
    return Path(os.environ.get("TIEKD_CHECKPOINTS") or "checkpoints")


def default_store_path(teacher: str, folder: Path = Path("stores")) -> Path:
    """`FOLDER/TEACHER.zarr`; for `hf:ORG/NAME` and `package.module:factory` with `-` for what no file name needs."""
    parts = [part for part in re.split(r"[^A-Za-z0-9._-]+", teacher) if part.strip(".")]
    return folder / f"{'-'.join(parts) or 'teacher'}.zarr"
