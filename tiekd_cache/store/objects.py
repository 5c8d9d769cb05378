"""Objects of a store by their keys, wherever it lies: in a folder, a bucket, behind a web server, in a zip file.

A key is a relative path with `/` (`zarr.json`, `done/00000.json`). What is not there raises `MissingObject`, what
cannot be had raises `RemoteError`, always in one line and without credentials; nothing is ever filled in.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from tiekd_cache.errors import ConfigError, StoreError
from tiekd_cache.foreign import SMALL_BYTES, open_regular, read_file, shown
from tiekd_cache.store.durable import check_inside, clear_errors, create_file, make_folders, remove_file, write_file
from tiekd_cache.whole_file import is_partial

REMOTE_SCHEMES = ("s3", "gs", "az", "http", "https")


class MissingObject(StoreError):
    """There is no object under a key."""


class RemoteError(StoreError):
    """An object cannot be read or written: no answer, no permission, or an answer that is not what was asked for."""


class RefusedError(RemoteError):
    """No permission. S3 says so of what is not there, too, to whoever may read objects but not list them."""


class OversizedObject(StoreError):
    """An object is larger than what its key stands for can be; it was not read."""


class Objects(Protocol):
    """The objects of a store, or of a folder of stores.

    Attributes:
        url: where they are, for messages; never holds credentials.
    """

    url: str

    def get(self, key: str, at_most: int = SMALL_BYTES) -> bytes:
        """All of an object of at most so many bytes.

        Raises:
            MissingObject: there is none.
            OversizedObject: it is larger; so much memory was not taken.
            RemoteError: it cannot be had.
        """

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes from `start` on; raises as `get`, and RemoteError where the object ends before."""

    def size(self, key: str) -> int:
        """Bytes of an object; raises as `get`."""

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        """(key, bytes) of all objects in the folder `prefix` and those below it, sorted; empty where it is not there.

        Raises:
            ConfigError: these objects cannot be listed (a plain web server).
            RemoteError: no answer; RefusedError: no permission.
        """

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write an object, so that readers find all of it or nothing.

        Returns:
            False where `if_absent` is given and there was one already; that one stays.
        Raises:
            ConfigError: these objects can only be read.
            StoreError: it cannot be written.
        """

    def delete(self, key: str) -> None:
        """Remove an object, if it is there; raises as `put`."""


def open_objects(place: str | Path) -> Objects:
    """The objects at a place; nothing is asked for yet.

    Args:
        place: a folder (it need not exist yet), the URL of one, or a `.zip` file.
    Raises:
        ConfigError: no such kind of place.
    """
    found = store_place(place)
    if isinstance(found, str):
        if found.lower().endswith(".zip"):
            raise ConfigError("A zip file is read from the disk only: download it, or name the URL of a store's folder")
        from tiekd_cache.store.remote import RemoteObjects

        return RemoteObjects(found)
    path = found.expanduser()
    if path.suffix.lower() == ".zip" and not path.is_dir():
        from tiekd_cache.store.zip_objects import ZipObjects

        return ZipObjects(path)
    return FolderObjects(path)


def is_remote(place: str | Path) -> bool:
    """Whether a place is read over the network: then it is no path, and processes that read it must not be forked."""
    scheme, separator, _ = str(place).partition("://")
    return bool(separator) and scheme.lower() in REMOTE_SCHEMES


def store_place(place: str | Path) -> str | Path:
    """The place that a user or a record names: a URL as text, its scheme in small letters; a folder or file as a Path.

    Raises:
        ConfigError: it is a URL of another kind, which would else be made a folder of that name.
    """
    scheme, separator, rest = str(place).partition("://")
    if not separator:
        return Path(place)
    if is_remote(place):
        return f"{scheme.lower()}://{rest}"
    if scheme.lower() == "file":
        return Path(rest)
    raise ConfigError(
        f"{shown(scheme)}:// is no place for a store. Name a folder, a .zip file, or one of"
        f" {', '.join(f'{known}://' for known in REMOTE_SCHEMES)}"
    )


def check_key(key: str) -> str:
    """The key, if it is one: keys come from other people's stores, and none may lead out of the place.

    Raises:
        StoreError: it is absolute, climbs, or is written in an unusual way.
    """
    parts = key.split("/")
    if not key or any(part in ("", ".", "..") for part in parts) or "\\" in key or "\0" in key:
        raise StoreError(
            f"{key!r} is no name of a part of a store: names are relative, without '..', empty parts or backslashes."
            " Whoever made this store made it by other means than tiekd-cache: do not use it."
        )
    return key


class FolderObjects:
    """The files of a folder, as objects. Links that lead out of it are refused; what is written survives a power cut.

    Args:
        folder: made by the first `put` where it does not exist.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(os.path.abspath(Path(folder).expanduser()))  # noqa: PTH100 - a link to a store is no trouble
        self.url = str(self.folder)

    def get(self, key: str, at_most: int = SMALL_BYTES) -> bytes:
        """See Objects."""
        file = self._file(key)
        with _reading(file):
            return read_file(file, at_most)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See Objects."""
        file = self._file(key)
        with _reading(file), os.fdopen(open_regular(file), "rb") as opened:
            opened.seek(start)
            data = opened.read(length)
        if len(data) != length:
            raise RemoteError(f"{file} is truncated: {len(data)} of {length} bytes at {start}; copy it anew")
        return data

    def size(self, key: str) -> int:
        """See Objects."""
        file = self._file(key)
        with _reading(file):
            if not file.is_file():
                raise FileNotFoundError
            return file.stat().st_size

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        """See Objects; links and what interrupted writes left are not listed."""
        folder = self._file(prefix.rstrip("/")) if prefix.strip("/") else self.folder
        with _reading(folder):
            return sorted(self._below(folder))

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """See Objects."""
        file = self._file(key)
        with clear_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        make_folders(file.parent, self.folder)
        if if_absent:
            return create_file(file, data)
        write_file(file, data)
        return True

    def delete(self, key: str) -> None:
        """See Objects."""
        file = self._file(key)
        if file.parent.is_dir():
            remove_file(file)

    def _file(self, key: str) -> Path:
        file = self.folder / check_key(key)
        check_inside(file, self.folder)
        return file

    def _below(self, folder: Path) -> Iterator[tuple[str, int]]:
        waiting = [folder] if folder.is_dir() else []
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False) and not is_partial(entry.name):
                        key = Path(entry.path).relative_to(self.folder).as_posix()
                        yield key, entry.stat(follow_symlinks=False).st_size


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn an OSError of the block into a MissingObject or a RemoteError."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise MissingObject(f"There is no {file}") from error
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise oversized(str(file), str(error.strerror)) from error
        raise RemoteError(f"{file} cannot be read ({error.strerror or error}): mend that") from error


def oversized(where: str, said: str) -> OversizedObject:
    """The error for an object that is larger than it may be."""
    return OversizedObject(f"{where} is not read: {said}. It is not what its name says; do not use this store.")
