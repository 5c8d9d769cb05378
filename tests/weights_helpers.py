"""Makes checkpoints in the published layouts, with deterministic weights, and loads what they must answer."""

from __future__ import annotations

import importlib.util
import json
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from fakes import MemoryFrames

from tiekd_cache.data.frame import Frame
from tiekd_cache.precompute import PrecomputeConfig, answer_frames
from tiekd_cache.teachers import Teacher


def fill_recipe(shared_dir: Path) -> ModuleType:
    """The weight recipe of the parity data: `state(keys, gains)`, `image(height, width, seed)`."""
    spec = importlib.util.spec_from_file_location("parity_fill", shared_dir / "parity" / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def golden(shared_dir: Path, name: str) -> Mapping[str, Any]:
    """The golden outputs of a network of the parity data, by field."""
    with np.load(shared_dir / "parity" / f"{name}.npz") as fields:
        return {key: fields[key] for key in fields.files}


def published_state(shared_dir: Path, name: str) -> dict[str, torch.Tensor]:
    """Deterministic weights of a network under its public names, step counters left out."""
    fill = fill_recipe(shared_dir)
    fields = golden(shared_dir, name)
    keys = json.loads((shared_dir / "parity" / f"{name}.keys.json").read_text())
    state: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = fill.state(keys, tuple(fields["gains"]))
    checksum = 0
    for value in state.values():
        checksum = zlib.crc32(value.astype("<f4").tobytes(), checksum)
    assert checksum == int(fields["state_crc32"]), "this NumPy draws other random numbers"
    return {key: torch.from_numpy(value) for key, value in state.items()}


def publish(state: Mapping[str, torch.Tensor], path: Path, prefix: str = "module.") -> Path:
    """Save weights as the authors of BTS did: under `model`, each name with the prefix of a parallel wrapper."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"global_step": 50000, "model": {prefix + key: value for key, value in state.items()}}, path)
    return path


def parity_images(shared_dir: Path, fields: Mapping[str, Any]) -> torch.Tensor:
    """The picture [1,3,H,W], already normalised, that golden outputs were computed for."""
    image = fill_recipe(shared_dir).image(int(fields["height"]), int(fields["width"]), int(fields["seed"]))
    return torch.from_numpy(image)[None]


def publish_mmcv(state: Mapping[str, torch.Tensor], path: Path) -> Path:
    """Save weights as the depth toolbox does: under `state_dict`, beside facts on the training."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"meta": {"epoch": 24, "iter": 38000}, "state_dict": dict(state)}, path)
    return path


class ParityFrames(MemoryFrames):
    """The picture of golden outputs as the only frame of a data set."""

    def __init__(self, shared_dir: Path, fields: Mapping[str, Any]) -> None:
        height, width = int(fields["height"]), int(fields["width"])
        super().__init__(1, (height, width))
        self._image = fill_recipe(shared_dir).image_u8(height, width, int(fields["seed"]))

    def load(self, frame_id: str, *, with_gt: bool = False) -> Frame:
        return replace(super().load(frame_id, with_gt=with_gt), image=self._image)


def flip_averaged(teacher: Teacher, shared_dir: Path, fields: Mapping[str, Any]) -> torch.Tensor:
    """[H,W] metres: what stage one makes of the golden picture, brought to its size as a store does it."""
    frames = ParityFrames(shared_dir, fields)
    native = torch.from_numpy(answer_frames(teacher, frames, frames.frame_ids, PrecomputeConfig(flip_average=True)))
    resize = teacher.predict(parity_images(shared_dir, fields)).resize
    return (native[None] if resize is None else resize(native[None]))[0, 0]


def worst_of_samples(given: torch.Tensor, fields: Mapping[str, Any], name: str) -> float:
    """Largest difference between a tensor and the golden samples of `name`."""
    return float(np.abs(given.flatten()[torch.from_numpy(fields[f"{name}_idx"])].numpy() - fields[f"{name}_val"]).max())
