"""Progress of long work: a tqdm bar on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from tqdm import tqdm

ProgressFactory = Callable[..., "tqdm[Any]"]


def progress_bar(total: int, description: str, unit: str, done: int = 0) -> tqdm[Any]:
    """A bar with rate and ETA on stderr; disabled where stderr is no terminal.

    Args:
        total: number of units of the whole work.
        description: what is going on, a word or two.
        unit: singular noun, e.g. `frame`; of `B`, bytes, thousands and millions are shown.
        done: how many units an earlier start has finished, so that the ETA is right after a resume.
    """
    return tqdm(
        total=total,
        initial=done,
        desc=description,
        unit=f" {unit}" if unit != "B" else unit,
        unit_scale=unit == "B",
        file=sys.stderr,
        disable=None,
        dynamic_ncols=True,
        smoothing=0.1,
    )


def beside_bars() -> AbstractContextManager[None]:
    """While entered, bars are taken off the terminal, so that a sentence has a line of its own."""
    return tqdm.external_write_mode(file=sys.stderr)  # type: ignore[no-any-return]


def no_progress_bar(total: int, description: str, unit: str, done: int = 0) -> tqdm[Any]:
    """The bar of a process beside another one that shows its own: nothing is seen of it."""
    return tqdm(total=total, initial=done, disable=True)
