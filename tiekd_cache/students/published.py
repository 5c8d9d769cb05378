"""The key layout of published TIE-KD student checkpoints, made into ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from tiekd_cache.errors import CheckpointError
from tiekd_cache.students.mobilenetv2 import published_encoder_key

_RULES = (
    (re.compile(r"^encoder\."), "backbone."),
    (re.compile(r"^head\.conv\."), "decode_head.conv_depth."),
    (re.compile(r"^head\."), "decode_head.conv_out.0."),
    (re.compile(r"^decoder\.bottom\."), "decode_head.conv_list.0.conv."),
    (re.compile(r"^decoder\.upsample\.0\.conv_"), "decode_head.upsample_custom.conv_"),
    (re.compile(r"^decoder\.upsample\.1\.conv_"), "decode_head.upsample_custom2.conv_"),
)
_MERGE = re.compile(r"^decoder\.merge\.(\d+)\.conv_")
_PAIR = re.compile(r"^(decode_head\..*)conv_([ab])\.")

UNUSED = ("decode_head.conv_depth.", "decode_head.conv_out.0.", "decode_head.upsample_custom2.")
"""Keys that published files carry although no depth depends on them: the plain regression in those of DPM students,
the DPM in those of plain ones, and the second doubling of those that double once."""

_DPM = "decode_head.conv_out.0.weight"
UNUSED_BINS = 256
"""Bins of the DPM that plain students carry without using it: their framework's default."""

_NAMED_IN_ERRORS = 5


def published_names(keys: Iterable[str]) -> dict[str, str]:
    """Our keys -> their published names: `decoder.merge.0.conv_a.bias` -> `decode_head.conv_list.1.convA.conv.bias`.

    The encoder's names are torchvision's for a ResNet, and OpenMMLab's for a MobileNetV2.
    """
    ours = list(keys)
    is_mobilenet = any(key.startswith("encoder.conv_stem.") for key in ours)
    return {key: _published_name(published_encoder_key(key) if is_mobilenet else key) for key in ours}


def _published_name(key: str) -> str:
    for pattern, replacement in _RULES:
        key = pattern.sub(replacement, key)
    key = _MERGE.sub(lambda match: f"decode_head.conv_list.{int(match[1]) + 1}.conv_", key)
    return _PAIR.sub(lambda match: f"{match[1]}conv{match[2].upper()}.conv.", key)


def to_student_state(
    state: Mapping[str, Any], current: Mapping[str, torch.Tensor], owner: str
) -> dict[str, torch.Tensor]:
    """A published state dict under our keys, checked against the student's current one.

    Args:
        state: published state dict, or {"state_dict": …} around it; values are tensors or numpy arrays.
        current: the student's own state dict; batch counters (`num_batches_tracked`) that the file lacks come from it.
        owner: the student in words, for errors.
    Raises:
        CheckpointError: names missing and unknown keys and differing shapes; or the file is of a student with the other
            output. What tells the two apart is the number of bins, so that 256 bins, which nobody published, pass.
    """
    inner = state.get("state_dict", state)
    if not isinstance(inner, Mapping):
        raise CheckpointError(f"The checkpoint for {owner} has no state dict of tensors. Is it a TIE-KD student's?")
    given = {str(key).removeprefix("module."): value for key, value in inner.items()}
    wanted = {name: key for key, name in published_names(current).items()}
    missing = [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    unknown = [name for name in given if name not in wanted and not name.startswith(UNUSED)]
    if missing or unknown:
        parts = [f"{what}: {_some(names)}" for what, names in (("missing", missing), ("unknown", unknown)) if names]
        raise CheckpointError(
            f"The checkpoint is not one of {owner} ({'; '.join(parts)}). Choose the student it is of."
        )
    _check_output(given, current)
    result = {key: torch.as_tensor(given[name]) if name in given else current[key] for name, key in wanted.items()}
    shapes = [
        f"{name} is {list(result[key].shape)}, not {list(current[key].shape)}"
        for name, key in wanted.items()
        if result[key].shape != current[key].shape
    ]
    if shapes:
        raise CheckpointError(f"The checkpoint does not fit {owner} of this width and these bins: {_some(shapes)}.")
    return result


def _check_output(given: Mapping[str, Any], current: Mapping[str, torch.Tensor]) -> None:
    if _DPM not in given:
        return
    bins = len(given[_DPM])
    if "head.conv.weight" in current:
        if bins != UNUSED_BINS:
            raise CheckpointError(
                f"The checkpoint is of a DPM student with {bins} bins, not of one that regresses depth. "
                "Build the student with output='dpm'."
            )
    elif bins == UNUSED_BINS != len(current["head.weight"]):
        raise CheckpointError(
            "The checkpoint is of a student that regresses depth (a baseline or Res-KD: the 256 bins in it are "
            "unused), not of a DPM student. Build the student with output='depth'."
        )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED_IN_ERRORS])
    return shown if len(names) <= _NAMED_IN_ERRORS else f"{shown} and {len(names) - _NAMED_IN_ERRORS} more"
