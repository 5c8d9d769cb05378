"""The help of `distill` names every objective and every term."""

from __future__ import annotations

from click.testing import CliRunner

from tiekd_cache.cli import main
from tiekd_cache.losses.loss_config import OBJECTIVES, TERMS


def test_help_names_every_objective_and_term() -> None:
    words = CliRunner().invoke(main, ["distill", "--help"], terminal_width=400).output.replace(",", " ").split()
    assert {*OBJECTIVES, *TERMS} <= set(words) | {word.strip("().") for word in words}
