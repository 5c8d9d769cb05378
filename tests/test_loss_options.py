"""The help of `distill` names every objective and every term, and the defaults that the settings have."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from tiekd_cache.cli import main
from tiekd_cache.distill_config import DistillConfig
from tiekd_cache.losses.loss_config import OBJECTIVES, TERMS


def test_help_names_every_objective_and_term() -> None:
    words = CliRunner().invoke(main, ["distill", "--help"], terminal_width=400).output.replace(",", " ").split()
    assert {*OBJECTIVES, *TERMS} <= set(words) | {word.strip("().") for word in words}


SETTINGS = {option.name: option for option in main.commands["distill"].params if "__" in (option.name or "")}


@pytest.mark.parametrize("name", SETTINGS)
def test_help_states_the_default_that_the_setting_has(name: str) -> None:
    value: object = DistillConfig()
    for part in name.split("__"):
        value = getattr(value, part)
    said = re.search(r"\[default: ([^] ]+)", str(SETTINGS[name].help))  # type: ignore[attr-defined]
    if value is None:  # `by the cores`, `an epoch`, or nothing
        assert said is None or said[1] in ("by", "an")
        return
    assert said is not None
    if isinstance(value, bool):
        assert said[1] == ("yes" if value else "no")
    elif isinstance(value, tuple):
        assert said[1] == "x".join(map(str, value))
    else:
        assert type(value)(said[1]) == value  # type: ignore[call-arg]
