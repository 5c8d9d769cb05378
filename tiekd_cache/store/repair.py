"""Removing and writing anew what is wrong in a store, in a folder or in a bucket."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tiekd_cache.errors import ConfigError
from tiekd_cache.store.durable import make_folders, remove_files, write_file
from tiekd_cache.store.object_path import as_object, objects_of

_BUCKETS = ("s3://", "gs://", "az://")


def is_repairable(store: Path) -> bool:
    """Whether what is wrong in a store can be removed where it lies: not behind a web server, nor in a zip file."""
    objects = objects_of(store)
    return objects is None or objects.url.startswith(_BUCKETS)


def require_repairable(store: Path) -> None:
    """Raise ConfigError unless `is_repairable`."""
    if not is_repairable(store):
        raise ConfigError(
            f"{store} can only be read: --repair works on a store in a folder or a bucket (s3://, gs://, az://). Tell"
            " whoever made it, or repair a copy in a folder."
        )


def remove(files: Iterable[Path], store: Path) -> None:
    """Remove those files of a store that are there, one after the other, for good.

    Raises:
        StoreError: that is not possible, or a link in a folder leads to one of them.
    """
    objects = objects_of(store)
    if objects is None:
        remove_files(files, store)
        return
    for file in files:
        objects.delete(as_object(file).key)


def write(file: Path, data: bytes, store: Path) -> None:
    """Write a file of a store anew; raises StoreError where that is not possible."""
    objects = objects_of(store)
    if objects is None:
        make_folders(file.parent, store)
        write_file(file, data)
    else:
        objects.put(as_object(file).key, data)
