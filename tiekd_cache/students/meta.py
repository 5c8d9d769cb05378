"""Modules without memory: on torch's meta device shapes and costs can be asked for, and nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def made_on_meta(make: Callable[[], Module]) -> Module:
    """What `make` returns, on the meta device.

    Made there too, unless its constructor reads a tensor's values, as some networks of older timm do: then it is made
    on the CPU and moved. The CPU's random numbers are as before.
    """
    try:
        with torch.device("meta"):
            return make()
    except RuntimeError as error:
        if "meta" not in str(error):
            raise
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        return make().to("meta")
