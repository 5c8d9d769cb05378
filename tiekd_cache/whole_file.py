"""Files that are either there, whole and on the disk, or not there at all.

Written aside as `.<name>.partial-<pid>-<token>-<where>`, synced, renamed, and the folder synced: a process killed at
any moment leaves the old state or the new one. What dead writers left aside is removed by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from tiekd_cache.errors import DataError
from tiekd_cache.processes import is_alive, process_space

ABANDONED_AFTER_S = 24 * 3600.0
"""No write takes a day: a partial file as old as that is nobody's, wherever it came from."""

_PARTIAL = re.compile(r"^\.(?P<name>.+)\.partial-(?P<pid>\d+)-[0-9a-f]+-(?P<where>.+)$")


@contextlib.contextmanager
def whole_file(path: Path, give_name: Callable[[Path, Path], object] = os.replace) -> Iterator[BinaryIO]:
    """A new file to write and read; it gets its name when the block ends without an error, else nothing stays.

    Args:
        path: in a folder that exists; replaced if it is there.
        give_name: moves what is written to `path`.
    Raises:
        OSError: no space, no permission, or whatever else the system says.
    """
    remove_abandoned(path)
    partial = partial_path(path)
    try:
        with partial.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        give_name(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file as `whole_file` does, and make its folder where there is none.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(content)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}). Check free space and permissions.") from error


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk, where the file system can (some network file systems refuse)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def partial_path(path: Path) -> Path:
    """Where this process writes what will be `path`; another name at each call."""
    return path.with_name(f".{path.name}.partial-{os.getpid()}-{secrets.token_hex(4)}-{_where()}")


def is_partial(name: str) -> bool:
    """Whether a file's name is one that `partial_path` gives."""
    return _PARTIAL.match(name) is not None


def remove_abandoned(path: Path) -> None:
    """Remove what dead processes left of attempts to write `path`; what living ones are writing stays."""
    with os.scandir(path.parent) as entries:
        candidates = [Path(entry) for entry in entries if entry.name.startswith(f".{path.name}.partial-")]
    for candidate in candidates:
        if _is_abandoned(candidate):
            with contextlib.suppress(OSError):  # another process cleans up too, or it is not ours to remove
                shutil.rmtree(candidate) if candidate.is_dir() else candidate.unlink()


def _is_abandoned(partial: Path) -> bool:
    match = _PARTIAL.match(partial.name)
    if match is None:
        return False
    try:
        age = time.time() - partial.stat().st_mtime
    except FileNotFoundError:
        return False  # its writer has just finished
    if age > ABANDONED_AFTER_S:
        return True
    return match["where"] == _where() and not is_alive(int(match["pid"]))


def _where() -> str:
    """For a file's name, those processes whose numbers mean something here."""
    return hashlib.sha256(process_space().encode()).hexdigest()[:12]
