"""The frames that `pull --frames` takes: a split file, or frame ids."""

from __future__ import annotations

from pathlib import Path

from tiekd_cache.data.kitti_split import read_split
from tiekd_cache.errors import DataError
from tiekd_cache.foreign import read_file


def read_frame_choice(file: Path) -> list[str]:
    """Frame ids in a file: a frame id a line, or the lines `<rgb> <depth or None> <focal>` of a split file.

    Blank lines and lines that start with # are skipped. Whether a store has the frames is not looked at.

    Raises:
        DataError: the file cannot be read, names no frame, or is a split file with a malformed line.
    """
    try:
        text = read_file(file).decode("utf-8-sig")
    except OSError as error:
        raise DataError(
            f"The file of frames {file} cannot be read: {error.strerror or error}. Check the path."
        ) from None
    except UnicodeDecodeError:
        raise DataError(f"{file} is not a text file in UTF-8: give a split file, or a frame id a line.") from None
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if lines and not any(len(line.split()) > 1 or "/data/" in line for line in lines):
        return list(dict.fromkeys(lines))
    return [line.key.frame_id for line in read_split(file).lines]
