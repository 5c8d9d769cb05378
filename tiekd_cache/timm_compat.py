"""One way to import timm, also where the installed torchvision was built for another torch."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

_MISSING_OPERATOR = "operator torchvision::nms does not exist"
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def timm_module() -> ModuleType:
    """The package `timm`, ready to build encoders.

    timm imports torchvision, for its pure Python image transforms only. A torchvision whose compiled part belongs to
    another torch (a CUDA wheel beside a CPU torch) fails while it registers its detection operators, although timm
    never calls them. On exactly that error the two operators are declared, without an implementation, and the import
    is tried once more. A torchvision that loads well is left alone, and any other error is passed on.
    """
    try:
        return importlib.import_module("timm")
    except RuntimeError as error:
        if _MISSING_OPERATOR not in str(error):
            raise
    for package in ("torchvision", "timm"):  # half-imported: parts of both stayed behind
        for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
            del sys.modules[name]
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            torch.library.define(f"torchvision::{operator}", _SCHEMA)
    return importlib.import_module("timm")
