"""Students in safetensors files: weights and settings, nothing that could be run, read by many tools."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from tiekd_cache.errors import CheckpointError, first_line
from tiekd_cache.whole_file import whole_file


def write_safetensors(path: Path, payload: Mapping[str, Any]) -> None:
    """Write the payload of a student's file; format, settings and meta become the file's metadata, as JSON.

    Raises:
        CheckpointError: the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in payload["state_dict"].items()}
    metadata = {"format": str(payload["format"]), **{key: json.dumps(payload[key]) for key in ("settings", "meta")}}
    try:
        with whole_file(path) as file:
            file.write(safetensors.torch.save(tensors, metadata))
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"Cannot write {path}: {first_line(error)}. Check that its folder exists and has room, or choose another."
        ) from None


def read_safetensors(path: Path) -> dict[str, Any]:
    """What `write_safetensors` wrote.

    Raises:
        CheckpointError: the file is absent, truncated, or no student's.
    """
    if not path.is_file():
        raise CheckpointError(f"No checkpoint at {path}. Check the path; `tiekd-cache export-student` makes one.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
        said = {key: json.loads(metadata[key]) for key in ("settings", "meta")}
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{path} is truncated or no safetensors file ({first_line(error)}). Copy it again."
        ) from None
    except (KeyError, ValueError, RecursionError):
        raise CheckpointError(
            f"{path} lacks a student's settings in its metadata: it was not written by `tiekd-cache export-student`."
        ) from None
    return {"format": metadata.get("format"), "state_dict": state, **said}
