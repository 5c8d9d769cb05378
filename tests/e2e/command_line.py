"""Running the command line as a user does: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TIEKD_")}
    return {**kept, "PYTHONWARNINGS": "error::UserWarning:tiekd_cache", **changes}


def start(arguments: list[str], cwd: Path, **env: str) -> subprocess.Popen[str]:
    """The command, running."""
    return subprocess.Popen(
        [sys.executable, "-m", "tiekd_cache", *arguments],
        cwd=cwd,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def tiekd(*arguments: object, cwd: Path, timeout: float = 150, **env: str) -> Outcome:
    """The command, run to its end."""
    process = start([str(argument) for argument in arguments], cwd, **env)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return Outcome(process.returncode, out, err)


def succeed(*arguments: object, cwd: Path, timeout: float = 150, **env: str) -> Outcome:
    """The command, which must end well."""
    outcome = tiekd(*arguments, cwd=cwd, timeout=timeout, **env)
    assert outcome.code == 0, f"{arguments}\n{outcome.out}\n{outcome.err}"
    return outcome


def fail(*arguments: object, cwd: Path, timeout: float = 150, **env: str) -> str:
    """The one line of a command that must end with an error that the user can mend."""
    outcome = tiekd(*arguments, cwd=cwd, timeout=timeout, **env)
    assert outcome.code == 1, f"{arguments} ended with {outcome.code}\n{outcome.out}\n{outcome.err}"
    assert "Traceback" not in outcome.err, outcome.err
    errors = [line for line in outcome.err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, outcome.err
    return errors[0]
