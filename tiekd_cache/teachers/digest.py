"""What identifies a teacher: sha256 of its weights and of what it does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def network_digest(network: nn.Module, description: Mapping[str, Any]) -> str:
    """sha256 (hex) of a network's tensors (name, type, shape, bytes; sorted by name) and of a description.

    Taken from the loaded network, so that the same weights in another wrapping have the same digest. Step counters
    (`num_batches_tracked`) do not count: no answer depends on them, and not every file has them.

    Args:
        network: on any device.
        description: JSON values: the architecture, and what is done to the image.
    """
    sha = hashlib.sha256(canonical_json(description))
    for name, tensor in sorted(network.state_dict().items()):
        if name.rpartition(".")[2] == "num_batches_tracked":
            continue
        sha.update(canonical_json([name, str(tensor.dtype), list(tensor.shape)]))
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def method_digest(description: Mapping[str, Any]) -> str:
    """sha256 (hex) of a method without weights: its name, version and parameters, as JSON values."""
    return hashlib.sha256(canonical_json(description)).hexdigest()


def canonical_json(value: object) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
