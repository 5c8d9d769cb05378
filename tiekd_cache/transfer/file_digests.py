"""sha256 of many files: what identifies a teacher of which nothing but its files is known."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tiekd_cache.errors import DataError
from tiekd_cache.progress import ProgressFactory

_BLOCK_BYTES = 1 << 20
_THREADS = 4


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file, read block by block.

    Raises:
        DataError: it cannot be read.
    """
    sha = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                sha.update(block)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}. Check the path and permissions.") from None
    return sha.hexdigest()


def file_digests(paths: Sequence[Path], progress: ProgressFactory) -> list[str]:
    """sha256 (hex) of each file, in order; a few are read at a time."""
    digests: list[str] = []
    with progress(len(paths), "digest", "file") as bar, ThreadPoolExecutor(_THREADS) as pool:
        for digest in pool.map(file_digest, paths):
            digests.append(digest)
            bar.update(1)
    return digests
