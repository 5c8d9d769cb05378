"""Claiming a shard: a lock on its file in `claims/`, which the kernel releases when its holder dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from tiekd_cache.errors import StoreError
from tiekd_cache.store.durable import clear_errors, make_folders
from tiekd_cache.store.layout import Layout

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def claim_shard(layout: Layout, shard: int) -> Iterator[bool]:
    """Yields True where the shard is ours to make until the block ends; the kernel ends a dead process's claim.

    False: it is finished, or another living process makes it. Where the file system knows no locks everyone gets
    True: the same shard may be computed twice, and since shards are written whole, no harm is done.

    Raises:
        StoreError: the claim cannot be written.
    """
    record = layout.record_file(shard)
    if record.exists():
        yield False
        return
    file = layout.claim_file(shard)
    make_folders(file.parent, layout.path)  # a copy of a store may have lost its empty folders
    with clear_errors(file):
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        yield try_lock(descriptor, file) and not record.exists()
    finally:
        if record.exists():
            file.unlink(missing_ok=True)  # whoever comes later finds the shard finished
        os.close(descriptor)


def try_lock(descriptor: int, file: Path) -> bool:
    """Lock an open file; False where another holds the lock, True also where the file system knows no locks.

    Raises:
        StoreError: the system refuses.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise StoreError(f"Cannot lock {file}: {error.strerror}; mend that, then run the same command") from error
    return True
