"""Files of a store that are read whole: not more than they may have, and from nowhere but the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tiekd_cache.foreign import SMALL_BYTES, outside, read_file
from tiekd_cache.store.chunks import Damage
from tiekd_cache.store.object_path import as_object, objects_of, take_for_absent
from tiekd_cache.store.objects import MissingObject, OversizedObject, RefusedError


class MissingFile(Damage):
    """A file of a store is not there."""


def read_whole(file: Path, store: Path, at_most: int = SMALL_BYTES) -> bytes:
    """All of a file.

    Args:
        store: its folder, which no link may lead out of.
        at_most: bytes that the file may have.
    Raises:
        MissingFile: it is missing.
        Damage: it is larger, cannot be read, or lies elsewhere.
        RemoteError: no answer, or no permission: that is no damage.
    """
    try:
        if objects_of(file) is not None:
            return as_object(file).read_bytes(at_most)
        if outside(file, store) is not None:
            raise Damage("file is a link that leads out of the store")
        return read_file(file, at_most)
    except (FileNotFoundError, MissingObject) as error:
        raise MissingFile("file is missing") from error
    except OSError as error:
        raise Damage(f"file cannot be read ({error.strerror or error})") from error
    except OversizedObject as error:
        raise Damage(str(error)) from error


def unless_absent(store: Path, file: Path, read: Callable[[], bytes]) -> bytes | None:
    """What `read` gives of a file that the store may lack; None where it does, see `take_for_absent`."""
    try:
        return read()
    except MissingFile:
        return None
    except RefusedError as refusal:
        take_for_absent(store, file, refusal)
        return None
