"""What other libraries say goes into an error of one line."""

from __future__ import annotations

import pytest

from tiekd_cache.errors import first_line


@pytest.mark.parametrize(
    ("said", "expected"),
    [("Not so.\nAt all.", "Not so"), ("\n why \n", "why"), ("", "RuntimeError"), (" \n", "RuntimeError")],
)
def test_another_librarys_words_become_one_line(said: str, expected: str) -> None:
    assert first_line(RuntimeError(said)) == expected
