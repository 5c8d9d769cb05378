"""Which device a name means on this machine."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch

from tiekd_cache.errors import DeviceError


def resolve_device(name: str) -> torch.device:
    """The device called `cpu`, `cuda`, `cuda:N`, or `auto` (CUDA where there is one, else the CPU).

    Raises:
        DeviceError: no such name, or no such device here.
    """
    if name == "cpu":
        return torch.device("cpu")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cuda(:\d+)?", name):
        raise DeviceError(f'Unknown device "{name}". Devices are cpu, cuda, cuda:N and auto.')
    if not torch.cuda.is_available():
        why = "this PyTorch is built without CUDA" if torch.version.cuda is None else "PyTorch finds no usable GPU"
        raise DeviceError(f'Device "{name}" asked for, but {why}. Use --device cpu, or auto.')
    device = torch.device(name)
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise DeviceError(
            f'Device "{name}" asked for, but this machine has {count} GPU(s): cuda:0 to cuda:{count - 1}.'
        )
    return device


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """While entered, float32 means float32 on a GPU too: PyTorch lets convolutions use TF32 (10 bits) by default."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def describe_device(device: torch.device) -> str:
    """A device in words that go into a store's attributes: `cpu`, or `cuda (NVIDIA H200)`."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
