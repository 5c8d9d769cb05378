"""What other libraries say goes into an error of one line."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder

import pytest

from tiekd_cache.__main__ import start
from tiekd_cache.errors import first_line


@pytest.mark.parametrize(
    ("said", "expected"),
    [("Not so.\nAt all.", "Not so"), ("\n why \n", "why"), ("", "RuntimeError"), (" \n", "RuntimeError")],
)
def test_another_librarys_words_become_one_line(said: str, expected: str) -> None:
    assert first_line(RuntimeError(said)) == expected


class Interrupting(MetaPathFinder):
    """Ctrl-C while the command line is looked for."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        """Interrupt the import of `tiekd_cache.cli`."""
        if name == "tiekd_cache.cli":
            raise KeyboardInterrupt


def test_ctrl_c_while_the_command_line_is_loaded_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "tiekd_cache.cli", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        start()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "Interrupted.\n"
