"""Files and JSON of somebody else are taken as data, up to a limit, and shown in one line."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from tiekd_cache.errors import LONGEST_MESSAGE, MOST_LINES, FrameNotFoundError, MissingFilesError, StoreError
from tiekd_cache.foreign import DEEPEST_NESTING, check_archive, outside, parse_json, read_file, shown

HUGE = 1 << 42
"""Bytes of a sparse file: none on the disk, more than any memory."""


def test_a_file_is_read_up_to_a_limit(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"12345")
    assert read_file(file, 5) == b"12345"
    with pytest.raises(OSError, match="more than the 4 bytes"):
        read_file(file, 4)
    os.truncate(file, HUGE)
    with pytest.raises(OSError, match="more than the 67108864 bytes"):
        read_file(file)


def test_a_file_that_grows_while_it_is_read_gives_no_more_than_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, size = tmp_path / "a", os.fstat
    file.write_bytes(b"12345")

    def grow(descriptor: int) -> os.stat_result:
        found = size(descriptor)
        with file.open("ab") as more:
            more.write(b"67890")
        return found

    monkeypatch.setattr(os, "fstat", grow)
    assert len(read_file(file, 10)) <= 10


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="it is no regular file"):
            read_file(path)
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "absent")


def test_a_link_out_of_a_folder_is_noticed_whatever_part_it_is(tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "within").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (store / "part").symlink_to("../elsewhere")
    (store / "alias").symlink_to("within")
    (tmp_path / "link").symlink_to("store")
    assert outside(store / "part" / "c" / "0", store) == tmp_path.resolve() / "elsewhere" / "c" / "0"
    for path in (store / "within" / "0", store / "alias" / "0", store / "absent"):
        assert outside(path, store) is None
    assert outside(tmp_path / "link" / "within", tmp_path / "link") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[NaN]", "not finite"),
        ("[-Infinity]", "not finite"),
        ("[1e999]", "not finite"),
        (f"[{'9' * 21}]", "a number of 21 digits"),
        ("[" * (DEEPEST_NESTING + 2) + "]" * (DEEPEST_NESTING + 2), "more than 64 levels"),
        ('{"a":' * 100_000, "nests without end"),
        ("{", "Expecting"),
    ],
    ids=["nan", "infinity", "1e999", "digits", "deep", "endless", "torn"],
)
def test_json_that_could_harm_is_a_value_error(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_json(text)


def test_other_json_is_read_as_it_is() -> None:
    text = f'{{"a": [1.5, -{2**63}, {2**64 - 1}, null, "\\u00e9"], "b": {{"c": true}}}}'
    assert parse_json(text) == {"a": [1.5, -(2**63), 2**64 - 1, None, "é"], "b": {"c": True}}
    deepest = "[" * (DEEPEST_NESTING + 1) + "]" * (DEEPEST_NESTING + 1)
    assert parse_json(deepest.encode()) == parse_json(deepest)


def test_text_is_shown_in_one_line_without_control_characters() -> None:
    assert shown("Straße 7") == "Straße 7"
    assert shown("a\x1b]0;title\x07\r\nb\u202e\ud800") == r"a\x1b]0;title\x07\r\nb\u202e\ud800"
    assert shown("x" * 100, 10) == "x" * 9 + "…"


def test_errors_are_one_line_whatever_a_file_put_into_them() -> None:
    assert str(StoreError("frame a\n\x1b[2Jb")) == r"frame a\n\x1b[2Jb"
    assert str(FrameNotFoundError("no 'a'")) == "no 'a'"
    long = str(StoreError(f"begin {'x' * 10**6} end"))
    assert len(long) == LONGEST_MESSAGE
    assert (long[:5], long[-3:]) == ("begin", "end")
    assert str(MissingFilesError("two files:\na\x07\nb")) == "two files:\na\\x07\nb"
    listed = str(MissingFilesError("\n".join(map(str, range(1000))))).splitlines()
    assert len(listed) == MOST_LINES
    assert [listed[0], *listed[-2:]] == ["0", f"and {1000 - (MOST_LINES - 1)} more lines", "999"]


def test_an_archive_that_declares_more_than_it_can_hold_is_refused(tmp_path: Path) -> None:
    for entries in (1, 2):
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            for number in range(entries):
                archive.writestr(str(number), b"")
                archive.infolist()[-1].file_size = 60 << 20
        (tmp_path / f"{entries}.zip").write_bytes(data.getvalue())
        for source in (data, tmp_path / f"{entries}.zip"):
            if entries == 1:
                check_archive(source)
                continue
            with pytest.raises(ValueError, match=f"declares 125829120 bytes in {len(data.getvalue())}"):
                check_archive(source)
    check_archive(io.BytesIO(b"no archive"))
