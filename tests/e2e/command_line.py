"""Running the command line: in this process where only the outcome counts, in one of its own to kill it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from click.testing import CliRunner

from tiekd_cache.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without the variables that would change where things are looked for."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("TIEKD_")}, **changes}


def start(arguments: list[str], cwd: Path, **env: str) -> subprocess.Popen[str]:
    """The command, running in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tiekd_cache", *arguments],
        cwd=cwd,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Return when the condition holds; an assertion where the process ended before, or it takes minutes."""
    last = time.monotonic() + 150
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < last, "the process does not come so far"
        time.sleep(0.005)


def tiekd(*arguments: object, cwd: Path, **env: str) -> Outcome:
    """The command, run to its end in this process; an exception that it does not handle is raised."""
    with contextlib.chdir(cwd), mock.patch.dict(os.environ, environment(**env), clear=True):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


def succeed(*arguments: object, cwd: Path, **env: str) -> Outcome:
    """The command, which must end well."""
    outcome = tiekd(*arguments, cwd=cwd, **env)
    assert outcome.code == 0, f"{arguments}\n{outcome.out}\n{outcome.err}"
    return outcome


def fail(*arguments: object, cwd: Path, **env: str) -> str:
    """The one line of a command that must end with an error that the user can mend."""
    outcome = tiekd(*arguments, cwd=cwd, **env)
    assert outcome.code == 1, f"{arguments} ended with {outcome.code}\n{outcome.out}\n{outcome.err}"
    errors = [line for line in outcome.err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, outcome.err
    return errors[0]
