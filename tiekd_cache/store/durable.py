"""Files that are either there, whole and on the disk, or not there at all.

Written aside as `.<name>.partial-<pid>-<token>-<host>`, synced, renamed, and the folder synced: a process killed at
any moment leaves the old state or the new one. What dead writers left aside is removed by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tiekd_cache.errors import StoreError
from tiekd_cache.store.processes import is_alive

ABANDONED_AFTER_S = 24 * 3600.0
"""No write takes a day: a partial file as old as that is nobody's, whichever machine it came from."""

_PARTIAL = re.compile(r"^\.(?P<name>.+)\.partial-(?P<pid>\d+)-[0-9a-f]+-(?P<host>.+)$")

_REMEDIES = {
    errno.ENOSPC: "free space on this disk",
    errno.EDQUOT: "free space in your quota",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EACCES: "get permission to write there, or choose another --store",
    errno.EPERM: "get permission to write there, or choose another --store",
    errno.EROFS: "choose another --store, this file system is read-only",
}


_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


@contextlib.contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a StoreError that names the file, the reason and the remedy."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "mend that")
        raise StoreError(
            f"Cannot write {path}: {error.strerror or error}. What was finished before is whole and stays;"
            f" {remedy}, then run the same command again: it resumes."
        ) from error


def write_file(path: Path, data: bytes) -> None:
    """Write a file so that it appears under its name only when all of it is on the disk.

    Args:
        path: in a folder that exists; replaced if it is there.
        data: all of it.
    Raises:
        StoreError: no space, no permission, or whatever else the system says; nothing is left behind.
    """
    _write(path, data, lambda partial: bool(partial.replace(path)))


def create_file(path: Path, data: bytes) -> bool:
    """As `write_file`, unless something has that name already: False, and what is there stays.

    Of several processes that create one file, one gets True.
    """
    return not os.path.lexists(path) and _write(path, data, lambda partial: _link(partial, path))


def _write(path: Path, data: bytes, name: Callable[[Path], bool]) -> bool:
    """Write aside, let `name` give what is written its name, and return what that returns."""
    with clear_errors(path):
        remove_abandoned(path)
        partial = partial_path(path)
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            named = name(partial)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    return named


def _link(partial: Path, path: Path) -> bool:
    """Give a file its name if nothing has it; a rename would replace what another process has just put there."""
    try:
        os.link(partial, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without hard links has nothing that is as good: two processes that arrive within the same
        # instant may both be told that theirs is there. Whole files they are in any case.
        if path.exists():
            return False
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return True


def make_folders(folder: Path, root: Path) -> None:
    """Make `folder` and its parents below `root`, which exists, so that they survive a loss of power.

    Raises:
        StoreError: the system does not let us.
    """
    if folder == root or folder.is_dir():
        return
    make_folders(folder.parent, root)
    with clear_errors(folder):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def create_folder(path: Path, files: Mapping[str, bytes]) -> bool:
    """Make a folder that appears under its name only with all of its files.

    Args:
        path: does not exist, or is an empty folder; its parents are made as needed.
        files: contents by path relative to the folder; a name that ends in "/" is an empty folder.
    Returns:
        False if something else stood there when ours was ready; that is left alone, and ours is removed.
    Raises:
        StoreError: no space, no permission, or whatever else the system says; nothing is left behind.
    """
    with clear_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path)
        partial = partial_path(path)
        try:
            partial.mkdir()
            for name, data in files.items():
                make_folders(partial / name if name.endswith("/") else (partial / name).parent, partial)
                if not name.endswith("/"):
                    write_file(partial / name, data)
            sync_folder(partial)
            partial.rename(path)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                return False
            raise
        sync_folder(path.parent)
    return True


def remove_file(path: Path) -> None:
    """Remove a file, if it is there, for good.

    Raises:
        StoreError: the system does not let us.
    """
    with clear_errors(path):
        if path.exists():
            path.unlink(missing_ok=True)
            sync_folder(path.parent)


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
    return path.with_name(f".{path.name}.partial-{os.getpid()}-{secrets.token_hex(4)}-{socket.gethostname()}")


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
    return match["host"] == socket.gethostname() and not is_alive(int(match["pid"]))
