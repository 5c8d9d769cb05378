"""What somebody else made, taken as data: files read up to a limit, JSON that cannot harm, text for one line."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DEEPEST_NESTING = 64
"""Levels of lists and objects in JSON; whatever walks over it then stays far from Python's limit."""

SMALL_BYTES = 64 << 20
"""What is read whole and is no shard may have as many: attributes of a million frames have less."""

MAX_PIXELS = 1 << 26
"""Of a depth map or stored image: 256 MB in float32. What declares more is none."""

_MOST_EXPANSION = 10

LONGEST_INTEGER = 20
"""Digits and sign: every integer of 64 bits, and none that no float holds."""


def shown(text: str, longest: int = 80) -> str:
    """Text for one line on a terminal: control characters escaped, no more than `longest` characters."""
    plain = printable(text[: longest + 1])
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def printable(text: str) -> str:
    """The text with line breaks, control characters and halves of characters as escapes: `\\x1b`, `\\n`, `\\ud800`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def read_file(path: Path, at_most: int = SMALL_BYTES) -> bytes:
    """All of a regular file.

    Args:
        at_most: bytes that it may have: a file with more is not read.
    Raises:
        OSError: it cannot be read, is larger, or is no file: reading a device or a pipe might never end.
    """
    descriptor = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        num_bytes = os.fstat(descriptor).st_size
        if num_bytes > at_most:
            raise OSError(errno.EFBIG, f"it has more than the {at_most} bytes that it may have")
        return file.read(num_bytes)


def open_regular(path: Path) -> int:
    """The descriptor of a regular file, open for reading; raises OSError where it is something else."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for its other end
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        raise OSError(errno.EINVAL, "it is no regular file")
    return descriptor


def fits_in_file(num_bytes: int, file_bytes: int) -> bool:
    """Whether a file may hold so many bytes of weights or of an archive's entries, which hardly compress.

    What declares more is meant to fill our memory, or our time.
    """
    return num_bytes <= _MOST_EXPANSION * file_bytes + SMALL_BYTES


def check_archive(source: Path | io.BytesIO) -> None:
    """Raise ValueError where the entries of a zip file declare more than can be in its bytes; none is unpacked.

    Other files declare no such sizes: they pass. One that only ends as a zip file does raises zipfile.BadZipFile.
    """
    if not zipfile.is_zipfile(source):
        return
    with zipfile.ZipFile(source) as archive:
        total = sum(entry.file_size for entry in archive.infolist())
    file_bytes = source.stat().st_size if isinstance(source, Path) else source.getbuffer().nbytes
    if not fits_in_file(total, file_bytes):
        raise ValueError(f"it declares {total} bytes in {file_bytes}")


def outside(path: Path, folder: Path) -> Path | None:
    """Where a path leads that links lead out of a folder; None where it stays in it. Neither need exist."""
    real = Path(os.path.realpath(path))
    return None if real.is_relative_to(os.path.realpath(folder)) else real


def parse_json(data: bytes | str) -> Any:
    """The JSON value in a document, of finite numbers and at most `DEEPEST_NESTING` levels.

    Raises:
        ValueError: it is no JSON, or more than that.
    """
    try:
        value = json.loads(data, parse_int=_integer, parse_float=_number, parse_constant=_number)
    except RecursionError:
        raise ValueError("it nests without end") from None
    check_nesting(value)
    return value


def check_nesting(value: Any) -> None:
    """Raise ValueError where lists and dictionaries nest more than `DEEPEST_NESTING` levels deep."""
    level = [value]
    for _ in range(DEEPEST_NESTING + 1):
        level = [item for one in level for item in _items(one) if isinstance(item, (dict, list))]
        if not level:
            return
    raise ValueError(f"it nests more than {DEEPEST_NESTING} levels deep")


def _items(value: Any) -> Any:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list) else ()


def _integer(text: str) -> int:
    if len(text) > LONGEST_INTEGER:
        raise ValueError(f"it has a number of {len(text)} digits")
    return int(text)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it has a number that is not finite, {shown(text, 20)}")
    return number
