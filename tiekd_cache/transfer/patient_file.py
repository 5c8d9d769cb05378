"""A file that keeps the first error of the disk to itself until it is asked.

HDF5 that is refused a write goes on trying while it closes the file, complains on stderr by itself, and drops the
system's error number. So it is told that all went well, and whoever drives it asks here.
"""

from __future__ import annotations

import os
from typing import Any


class PatientFile:
    """What h5py needs of a file object, over the descriptor of an empty file open for reading and writing."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._error: OSError | None = None
        self._place = 0
        self._size = 0  # as it would be without the error

    def check(self) -> None:
        """Raise the OSError of the first write that failed, if one did."""
        if self._error is not None:
            raise self._error

    def write(self, data: bytes | memoryview) -> int:
        """All of the data; after an error, none any more."""
        rest = memoryview(data).cast("B")
        end = self._place + len(rest)
        try:
            while self._error is None and len(rest):
                rest = rest[os.pwrite(self._descriptor, rest, end - len(rest)) :]
        except OSError as error:
            self._error = error
        written = end - self._place
        self._place, self._size = end, max(self._size, end)
        return written

    def truncate(self, size: int | None = None) -> int:
        """Cut or extend the file."""
        self._size = self._place if size is None else size
        try:
            if self._error is None:
                os.ftruncate(self._descriptor, self._size)
        except OSError as error:
            self._error = error
        return self._size

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from where the file stands; zeros where nothing could be written."""
        target = memoryview(buffer).cast("B")
        count = max(0, min(len(target), self._size - self._place))
        found = os.pread(self._descriptor, count, self._place)
        target[:count] = found.ljust(count, b"\0")
        self._place += count
        return count

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes from where the file stands; all that follow where it is negative."""
        buffer = bytearray(self._size - self._place if size < 0 else size)
        return bytes(buffer[: self.readinto(buffer)])

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place in the file."""
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        """The place in the file."""
        return self._place

    def flush(self) -> None:
        """Nothing is held back."""
