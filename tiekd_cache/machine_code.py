"""Loops that numba compiles: loaded at first use, once, and kept as machine code for the next process.

numba is not imported with the package: `info` and the command line's help do not need it.
"""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

_loading = threading.RLock()
# A fork waits until no thread is loading: the child would inherit half-initialised modules, and their locks for ever.
os.register_at_fork(before=_loading.acquire, after_in_parent=_loading.release, after_in_child=_loading.release)


def load_compiled(*modules: str) -> list[Any] | None:
    """Modules of compiled loops, by name; None where numba cannot be imported or must not compile (NUMBA_DISABLE_JIT).

    Safe from many threads at once, and beside a fork.
    """
    with _loading:
        try:
            from numba import config
        except ImportError:  # not there, or not made for this numpy
            return None
        return None if config.DISABLE_JIT else [import_module(name) for name in modules]


def compile_kept(function: Callable[..., Any], signature: Any, **options: Any) -> Callable[..., Any]:
    """Machine code without Python's lock, kept beside the function's file (or in the user's cache folder).

    Args:
        function: what to compile.
        signature: numba's types.
        options: more of `numba.njit`'s.
    """
    import numba

    options = {"nogil": True, "error_model": "numpy", **options}
    try:
        return numba.njit(signature, cache=True, **options)(function)  # type: ignore[no-any-return]
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):  # no folder to keep it in, or a torn file there
        return numba.njit(signature, **options)(function)  # type: ignore[no-any-return]
