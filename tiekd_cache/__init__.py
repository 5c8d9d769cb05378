"""Run the heavy depth teacher once; distill students forever.

The names below are the public Python interface. They are loaded when first used, so that the command line
answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tiekd_cache.version import __version__

if TYPE_CHECKING:
    from tiekd_cache import losses, metrics
    from tiekd_cache.dpm import Bins, depth_to_dpm, dpm_to_depth
    from tiekd_cache.errors import TiekdError
    from tiekd_cache.store import ResponseStore, open_store
    from tiekd_cache.students import build_student, load_student, save_student
    from tiekd_cache.teachers import load_teacher

__all__ = [
    "Bins",
    "ResponseStore",
    "TiekdError",
    "__version__",
    "build_student",
    "depth_to_dpm",
    "dpm_to_depth",
    "load_student",
    "load_teacher",
    "losses",
    "metrics",
    "open_store",
    "save_student",
]

_HOME = {
    "Bins": "dpm",
    "depth_to_dpm": "dpm",
    "dpm_to_depth": "dpm",
    "TiekdError": "errors",
    "ResponseStore": "store",
    "open_store": "store",
    "build_student": "students",
    "load_student": "students",
    "save_student": "students",
    "load_teacher": "teachers",
}


def __getattr__(name: str) -> Any:
    if name in ("losses", "metrics"):
        return importlib.import_module(f"tiekd_cache.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(f"tiekd_cache.{_HOME[name]}"), name)
    raise AttributeError(f"module 'tiekd_cache' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
