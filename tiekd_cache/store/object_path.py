"""Where a store is: a folder's path, or an `ObjectPath`, which does over objects what reading does with a path.

Whoever reads a store is written for paths. Folders are read as files, without anything in between, so that they stay
as fast as they are.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from tiekd_cache.errors import ConfigError
from tiekd_cache.store.chunks import Damage, NotAsSigned
from tiekd_cache.store.objects import FolderObjects, MissingObject, Objects, RefusedError, is_remote, open_objects

StorePlace = str | Path | Objects
"""Where a store is read from: a folder, a `.zip` file, a URL, or objects."""

T = TypeVar("T")
U = TypeVar("U")

IN_FLIGHT = 16
"""Requests side by side where a store is opened or looked over."""

_LOG = logging.getLogger("tiekd_cache")
_SAID: set[str] = set()
_SAYING = threading.Lock()

_QUEUED = 8192
"""Of them planned at a time: a million that wait take a gigabyte."""


@dataclass(frozen=True, eq=False)
class ObjectPath:
    """The part of `pathlib.Path` that reading a store uses. Raises MissingObject and RemoteError as `Objects` does.

    Attributes:
        objects: of the store.
        key: within it; empty for the store itself.
    """

    objects: Objects
    key: str = ""

    def __truediv__(self, part: str) -> ObjectPath:
        return ObjectPath(self.objects, f"{self.key}/{part}" if self.key else part)

    def __str__(self) -> str:
        return f"{self.objects.url}/{self.key}" if self.key else self.objects.url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectPath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parents(self) -> tuple[ObjectPath, ...]:
        """The folders around it, the nearest first."""
        parts = self.key.split("/")
        return tuple(ObjectPath(self.objects, "/".join(parts[:count])) for count in range(len(parts) - 1, -1, -1))

    @property
    def parent(self) -> ObjectPath:
        """The folder around it."""
        return self.parents[0]

    def exists(self) -> bool:
        """Whether there is such an object; of the store itself, whether it has attributes."""
        return self.is_file() if self.key else (self / "zarr.json").is_file()

    def is_file(self) -> bool:
        """Whether there is such an object."""
        try:
            self.objects.size(self.key)
        except MissingObject:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether there is anything below; False where that cannot be told."""
        try:
            return bool(self.objects.list(self.key))
        except ConfigError:
            return False

    def read_bytes(self, at_most: int) -> bytes:
        """All of the object, which may have so many bytes."""
        return self.objects.get(self.key, at_most)


def store_path(place: StorePlace) -> Path:
    """Where the store at a place is, for reading: an absolute path for a folder, an `ObjectPath` for all else.

    Args:
        place: a folder, a `.zip` file, a URL, or objects.
    Raises:
        ConfigError: no such kind of place, or what reads it is not installed.
        StoreError: a zip file that is not there, or cannot be read.
    """
    if isinstance(place, ObjectPath):
        return as_path(place)
    objects = open_objects(place) if isinstance(place, str | Path) else place
    return objects.folder if isinstance(objects, FolderObjects) else as_path(ObjectPath(objects))


def as_path(path: ObjectPath) -> Path:
    """The same, to type checkers a Path: what reads a store calls nothing of it that ObjectPath does not have."""
    return cast(Path, path)


def objects_of(path: Path) -> Objects | None:
    """The objects that a path of `store_path` stands for; None for a folder's."""
    found: Any = path
    return found.objects if isinstance(found, ObjectPath) else None


def name_in(store: Path, file: Path) -> str:
    """The path of a file within a store, with `/`; both as `store_path` gives them."""
    return str(file).removeprefix(f"{store}/")


def is_network(path: Path) -> bool:
    """Whether reading there goes over the network."""
    objects = objects_of(path)
    return objects is not None and is_remote(objects.url)


@runtime_checkable
class Droppable(Protocol):
    """Objects that keep copies, which may be damaged where the store is whole."""

    def drop(self, key: str) -> bool:
        """Give up the copy of an object; False where there is none."""


def read_again(file: Callable[[], Path], read: Callable[[], T]) -> T:
    """What `read` returns; where a copy of the file is damaged, it is given up, and read once more from the store.

    Raises:
        Damage: the store itself is damaged, or what keeps the copies is; NotAsSigned: the store is not as signed.
    """
    try:
        return read()
    except Damage:
        path = file()
        objects: Any = objects_of(path)
        if not isinstance(objects, Droppable) or not objects.drop(as_object(path).key):
            raise
    try:
        return read()
    except NotAsSigned:
        raise
    except Damage as damage:
        raise Damage(f"{damage}; so it was before the cache fetched it anew: its disk may be faulty") from damage


def side_by_side(work: Callable[[T], U], items: Sequence[T]) -> list[U]:
    """`work` of each, in order, many at a time: over a network each one waits for an answer."""
    results: list[U] = []
    with ThreadPoolExecutor(max(1, min(IN_FLIGHT, len(items)))) as pool:
        for start in range(0, len(items), _QUEUED):
            results += pool.map(work, items[start : start + _QUEUED])
    return results


def has_optional(store: Path, file: Path) -> bool:
    """Whether a store has a file that stores may lack; raises as `take_for_absent`, and RemoteError without answer."""
    try:
        return file.is_file()
    except RefusedError as refusal:
        take_for_absent(store, file, refusal)
        return False


def take_for_absent(store: Path, file: Path, refusal: RefusedError) -> None:
    """Raise the refusal of a file that stores may lack, unless the store's attributes can be read: then log it, once.

    S3 answers 403 for what is not there, too, to whoever may not list. What a store cannot lack is never taken for
    absent.
    """
    part = name_in(store, file).partition("/")[0]
    said = f"{store}: access to its {part} is refused. The store itself can be read, so it is taken to have no {part}."
    if said in _SAID:
        return
    if not (store / "zarr.json").is_file():
        raise refusal
    with _SAYING:
        if said not in _SAID:
            _SAID.add(said)
            _LOG.warning(said)


def names_in(folder: Path, candidates: Callable[[], Iterable[str]], store: Path | None = None) -> list[str]:
    """The names of the files in a folder of a store.

    Args:
        folder: it need not exist.
        candidates: the names that matter; where no list is to be had (a plain web server; no permission), each of them
            is asked for.
        store: given where it may lack the folder; see `has_optional`.
    Raises:
        OSError: a folder cannot be listed, or is none.
        StoreError: no answer, or no permission.
    """
    objects = objects_of(folder)
    if objects is None:
        return os.listdir(folder) if folder.exists() else []  # noqa: PTH208 - names are all that is needed
    try:
        return [key.rpartition("/")[2] for key, _ in objects.list(as_object(folder).key)]
    except (ConfigError, RefusedError):
        names = list(candidates())

        def there(name: str) -> bool:
            return (folder / name).is_file() if store is None else has_optional(store, folder / name)

        return [name for name, found in zip(names, side_by_side(there, names), strict=True) if found]


def files_below(folder: Path) -> list[Path]:
    """Every file of a store in a folder, sorted; raises ConfigError where a web server cannot be asked for a list."""
    objects = objects_of(folder)
    if objects is None:
        return sorted(_files_in(folder))
    return [as_path(ObjectPath(objects, key)) for key, _ in objects.list(as_object(folder).key)]


def _files_in(folder: Path) -> Iterator[Path]:
    """Whatever is no folder in a folder and those below it; links are not followed."""
    waiting = [folder]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                else:
                    yield Path(entry.path)


def as_object(path: Path) -> ObjectPath:
    """What `as_path` was given."""
    return cast(ObjectPath, path)


def sizes_of(files: Sequence[Path]) -> list[int]:
    """Bytes of each file of a store; 0 where there is none."""
    objects = objects_of(files[0]) if files else None
    if objects is None:
        return [file.stat().st_size if file.is_file() else 0 for file in files]
    keys = [as_object(file).key for file in files]
    try:
        listed = dict(objects.list(os.path.commonpath([key.rpartition("/")[0] for key in keys])))
        return [listed.get(key, 0) for key in keys]
    except (ConfigError, RefusedError):
        return side_by_side(lambda key: _size(objects, key), keys)


def _size(objects: Objects, key: str) -> int:
    try:
        return objects.size(key)
    except MissingObject:
        return 0
