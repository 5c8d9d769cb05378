"""Whether the payload of a student's file can be what it says: plain settings, and no more weights than the file holds.

A pickle may name one list many times, and a tensor may be one number seen through many strides: both are small in a
file and fill any memory once they are copied or printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tiekd_cache.foreign import fits_in_file

MOST_VALUES = 100_000
"""In settings and meta together."""

_PLAIN = (str, int, float, bool, type(None))


def check_payload(payload: Mapping[str, Any], file_bytes: int) -> None:
    """Raise ValueError unless `settings` and `meta` are JSON values and `state_dict` holds dense tensors of its size.

    Args:
        payload: has these three keys.
        file_bytes: size of the file that it is from.
    """
    _check_plain([payload["settings"], payload["meta"]])
    if not isinstance(payload["settings"], dict):
        raise ValueError("its settings are no dictionary")
    state = payload["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ValueError("its state_dict is no dictionary of tensors")
    total = 0
    for key, tensor in state.items():
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise ValueError(f"{key} in its state_dict is no dense tensor")
        total += tensor.numel() * tensor.element_size()
    if not fits_in_file(total, file_bytes):
        raise ValueError(f"it declares {total} bytes of weights, which cannot be in {file_bytes}")


def _check_plain(values: list[Any]) -> None:
    waiting, seen = values, 0
    while waiting:
        value = waiting.pop()
        seen += 1
        if isinstance(value, dict) and all(isinstance(key, _PLAIN) for key in value):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value
        elif not isinstance(value, _PLAIN):
            raise ValueError(f"its settings or meta hold a {type(value).__name__}, not JSON values only")
        if seen + len(waiting) > MOST_VALUES:
            raise ValueError(f"its settings and meta hold more than {MOST_VALUES} values")
