"""A store's files and folders, written so that they are there whole or not at all (whole_file.py)."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tiekd_cache.errors import StoreError
from tiekd_cache.foreign import outside
from tiekd_cache.whole_file import partial_path, remove_abandoned, sync_folder, whole_file

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
    with clear_errors(path), whole_file(path) as file:
        file.write(data)


def create_file(path: Path, data: bytes) -> bool:
    """As `write_file`, unless something has that name already: False, and what is there stays.

    Of several processes that create one file, one gets True.
    """
    if os.path.lexists(path):
        return False
    with clear_errors(path):
        try:
            with whole_file(path, _link) as file:
                file.write(data)
        except FileExistsError:
            return False
    return True


def _link(partial: Path, path: Path) -> None:
    """Give a file its name; FileExistsError if something has it, which a rename would replace."""
    try:
        os.link(partial, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without hard links has nothing that is as good: two processes that arrive within the same
        # instant may both be told that theirs is there. Whole files they are in any case.
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        partial.rename(path)
    partial.unlink(missing_ok=True)


def make_folders(folder: Path, root: Path) -> None:
    """Make `folder` and its parents below `root`, which exists, so that they survive a loss of power.

    Raises:
        StoreError: the system does not let us, or a link below `root` leads out of it.
    """
    check_inside(folder, root)
    if folder == root or folder.is_dir():
        return
    make_folders(folder.parent, root)
    with clear_errors(folder):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def check_inside(path: Path, root: Path) -> None:
    """Raise StoreError where a link below `root` leads `path` out of it: a store is its folder and nothing else."""
    real = outside(path, root)
    if real is not None:
        raise StoreError(f"{path} is a link that leads out of {root}, to {real}: remove it, or copy the file")


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
        if os.path.lexists(path):
            path.unlink(missing_ok=True)
            sync_folder(path.parent)


def remove_files(files: Iterable[Path], root: Path) -> None:
    """Remove those files below `root` that are there, one after the other, for good.

    Raises:
        StoreError: the system does not let us, or a link below `root` leads to one of them.
    """
    for file in files:
        check_inside(file.parent, root)
        if file.parent.is_dir():
            remove_file(file)
