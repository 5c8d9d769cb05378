"""The errors that a user can cause, each one line: what is wrong, where, the rule, what to do.

`MissingFilesError` alone is a list, of `MOST_LINES` lines at most.

The command line prints them without a traceback and exits with their `exit_code`; library users catch `TiekdError`
or a narrower class. Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from typing import ClassVar

from tiekd_cache.foreign import printable

LONGEST_MESSAGE = 4000
"""Characters; what is longer repeats something that a file says, and is cut in its middle."""

MOST_LINES = 40
"""Of a list."""


class TiekdError(Exception):
    """Base of every error that a user can mend. As text it is one line, whatever somebody's file put into it."""

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        return one_line(Exception.__str__(self))  # KeyError's, in a class that is one too, would add quotes


class SharedError(TiekdError):
    """One that every process of a run meets at the same time: the first of them says it, the others end silently."""


class ConfigError(TiekdError):
    """A setting is unknown, of the wrong type, or contradicts another one."""


class DataError(TiekdError):
    """A file of the data set is missing, truncated or not what it should be."""


class MissingFilesError(DataError):
    """Files of the data set are missing; what it says is a list, a line each, and in the last one what to do."""

    def __str__(self) -> str:
        lines = Exception.__str__(self).split("\n")
        if len(lines) > MOST_LINES:
            lines[MOST_LINES - 2 : -1] = [f"and {len(lines) - MOST_LINES + 1} more lines"]
        return "\n".join(map(one_line, lines))


class StoreError(TiekdError):
    """A store is absent, incomplete, damaged, of another format or made by something else."""


class TrustError(StoreError):
    """A store is not signed, not by somebody who is trusted, or holds more than was signed."""


class FrameNotFoundError(StoreError, KeyError):
    """A store holds no response for a frame."""


class CheckpointError(TiekdError):
    """Weights are missing, truncated, unsafe or belong to another network."""


class DeviceError(TiekdError):
    """A device was asked for that this machine does not have."""


class ShapeError(TiekdError, ValueError):
    """An array does not have the shape that the function documents."""


class RangeError(TiekdError, ValueError):
    """A value, usually a depth in metres, lies outside its documented range."""


def one_line(text: str) -> str:
    """The text without line breaks and control characters, of at most `LONGEST_MESSAGE` characters."""
    half = LONGEST_MESSAGE // 2
    if len(text) > LONGEST_MESSAGE:
        text = f"{text[: half - 3]} … {text[-half:]}"
    return printable(text)


def first_line(error: BaseException) -> str:
    """The first line of what another library's exception says, without a full stop; its class where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
