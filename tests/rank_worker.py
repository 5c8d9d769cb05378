"""One process of a run of several, as tests/test_ranks.py starts it: rank_worker.py STORE RUN SETTINGS RESUME.

BatchNorm keeps its statistics: they would be those of a process's own share, and the comparison with one process
would be of that. Prints the run's outcome or its error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from fakes import MemoryFrames

from tiekd_cache import config as c
from tiekd_cache import training_parts
from tiekd_cache.distill_config import DistillConfig
from tiekd_cache.errors import TiekdError
from tiekd_cache.stages import run_distill

build_student = training_parts.build_student


def build_with_still_norms(*args: Any, **kwargs: Any) -> Any:
    """A student whose BatchNorm layers stay in evaluation mode."""
    student = build_student(*args, **kwargs)
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]
    return student


if __name__ == "__main__":
    store, run, settings, resume = sys.argv[1:]
    torch.set_num_threads(1)
    training_parts.build_student = build_with_still_norms
    config = c.from_mapping(DistillConfig, json.loads(settings))
    try:
        run_distill(config, MemoryFrames(6), [Path(store)], Path(run), device="cpu", resume=resume == "yes")
    except TiekdError as error:
        print(f"{type(error).__name__}: {error}")
        sys.exit(error.exit_code)
