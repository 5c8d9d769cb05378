"""The documentation is true: every command has help and an example, links lead somewhere, the demo's file is one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tiekd_cache.cli import main
from tiekd_cache.cli.common import GOES_ON
from tiekd_cache.config import read_toml
from tiekd_cache.recipe import read_recipe

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "pipelines" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def commands_of(text: str) -> list[list[str]]:
    """The words of every `tiekd-cache …` line in fenced blocks of shell commands, line continuations joined."""
    lines, fence = [], None
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fence = line[3:].strip() if fence is None else None
        elif fence in ("", "bash"):
            lines += line.split("&&")
    return [shlex.split(line, comments=True)[1:] for line in lines if line.strip().startswith("tiekd-cache ")]


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_has_help_an_example_and_a_place_in_the_readme(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert re.search(rf"Examples?:\s+tiekd-cache {name}", result.output), "no example"
    assert f"tiekd-cache {name}" in (ROOT / "README.md").read_text()
    for parameter in main.commands[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts[0]} has no help"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_is_one(page: Path) -> None:
    for words in commands_of(page.read_text()):
        command = main.commands[words[0]]
        with command.make_context(words[0], words[1:]) as context:
            assert context.info_name == words[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_commands_that_go_on_after_a_stop_are_commands() -> None:
    assert set(main.commands) >= GOES_ON


def test_the_readme_has_the_two_commands_that_ci_runs() -> None:
    marked = re.findall(r"<!-- ci -->\n```bash\n(.*?)\n```", (ROOT / "README.md").read_text())
    assert marked == ["pip install -e . && tiekd-cache demo", "pip install -e '.[test]' && pytest"]


def test_every_recipe_is_read_and_the_demo_is_one_file() -> None:
    recipes = sorted((ROOT / "pipelines").rglob("*.toml"))
    assert len(recipes) >= 1
    for path in recipes:
        assert read_recipe(path).out
    assert read_toml(ROOT / "tiekd_cache" / "demo.toml") == read_toml(ROOT / "pipelines" / "demo.toml")
