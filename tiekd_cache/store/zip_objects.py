"""A store in a zip file, read only: what is stored uncompressed is read by range, straight from the file.

No name in it is ever used as a path, and no size that it declares is believed before it was checked.
"""

from __future__ import annotations

import os
import struct
import weakref
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tiekd_cache.errors import ConfigError
from tiekd_cache.foreign import SMALL_BYTES
from tiekd_cache.store.objects import MissingObject, RemoteError, check_key, oversized

_LOCAL_HEADER = struct.Struct("<4s22x2H")
_MOST_EXPANSION = 100
_ALWAYS_ALLOWED_BYTES = 1 << 20
"""Metadata of a store expand tenfold at most, its shards not at all: more than this is meant to fill our memory."""


class ZipObjects:
    """The entries of a zip file as objects; those below its only folder where the store was zipped with its folder.

    Processes and threads may share it: reading moves no file position. Pickled, it is its path.

    Args:
        path: of the file.
    Raises:
        MissingObject: there is no such file.
        RemoteError: it is no zip file, is truncated, or holds what no store's zip file holds.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 - resolve() would follow links
        self.url = str(self._path)
        try:
            with zipfile.ZipFile(self._path) as opened:
                entries = [entry for entry in opened.infolist() if not entry.is_dir()]
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise MissingObject(
                f"There is no file {self._path}. A store in a .zip file can only be read: name one that is there, or"
                " a folder, which may be made."
            ) from error
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, IndexError, struct.error) as error:
            raise RemoteError(
                f"{self._path} is no zip file that can be read ({error}): it may be truncated, copy it again"
            ) from error
        weakref.finalize(self, os.close, self._descriptor)
        self._bytes = os.fstat(self._descriptor).st_size
        self._entries = self._checked(entries)

    def __reduce__(self) -> tuple[type[ZipObjects], tuple[Path]]:
        return ZipObjects, (self._path,)

    def get(self, key: str, at_most: int = SMALL_BYTES) -> bytes:
        """See Objects."""
        entry = self._entry(key)
        if entry.file_size > at_most:
            raise oversized(f"{self.url}/{key}", f"it has {entry.file_size} bytes, and may have {at_most}")
        data = self._read(entry, 0, entry.compress_size)
        if entry.compress_type == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, entry.file_size)
            except zlib.error:
                self._damaged(key)
        if len(data) != entry.file_size or zlib.crc32(data) != entry.CRC:
            self._damaged(key)
        return data

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See Objects; of a compressed entry all is decompressed each time."""
        entry = self._entry(key)
        if start < 0 or start + length > entry.file_size:
            raise RemoteError(f"{self.url}/{key} has {entry.file_size} bytes, not {length} at {start}: it is truncated")
        if entry.compress_type == zipfile.ZIP_DEFLATED:
            return self.get(key, entry.file_size)[start : start + length]
        return self._read(entry, start, length)

    def size(self, key: str) -> int:
        """See Objects."""
        return self._entry(key).file_size

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        """See Objects."""
        folder = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        return sorted((key, entry.file_size) for key, entry in self._entries.items() if key.startswith(folder))

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Raises ConfigError: see Objects."""
        raise ConfigError(f"{self.url} is a zip file: stores in one are read only. Unpack it to write to the store.")

    def delete(self, key: str) -> None:
        """Raises ConfigError: see Objects."""
        self.put(key, b"")

    def _entry(self, key: str) -> zipfile.ZipInfo:
        entry = self._entries.get(check_key(key))
        if entry is None:
            raise MissingObject(f"There is no {key} in {self.url}")
        return entry

    def _checked(self, entries: Sequence[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
        """The entries by key, the name of the folder around all of them left out."""
        found: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            key = check_key(entry.filename)
            stored = entry.compress_type == zipfile.ZIP_STORED
            most = entry.compress_size if stored else _MOST_EXPANSION * entry.compress_size + _ALWAYS_ALLOWED_BYTES
            wrong = None
            if key in found:
                wrong = "is in it twice"
            elif not stored and entry.compress_type != zipfile.ZIP_DEFLATED:
                wrong = "is compressed by something else than deflate"
            elif entry.flag_bits & 1:
                wrong = "is encrypted"
            elif entry.file_size > most or not 0 <= entry.header_offset <= self._bytes - entry.compress_size:
                wrong = f"declares {entry.file_size} bytes, which cannot be in so small a file"
            if wrong is not None:
                raise RemoteError(f"{self.url}: {key} {wrong}. Zip the store anew: zip -0 -r STORE.zip STORE")
            found[key] = entry
        folders = {key.partition("/")[0] for key in found}
        if "zarr.json" not in found and len(folders) == 1:
            around = f"{folders.pop()}/"
            return {key.removeprefix(around): entry for key, entry in found.items()}
        return found

    def _read(self, entry: zipfile.ZipInfo, start: int, length: int) -> bytes:
        """Bytes of an entry as they lie in the file."""
        header = os.pread(self._descriptor, _LOCAL_HEADER.size, entry.header_offset)
        if len(header) != _LOCAL_HEADER.size or header[:4] != b"PK\3\4":
            self._damaged(entry.filename)
        _, name, extra = _LOCAL_HEADER.unpack(header)
        first = entry.header_offset + _LOCAL_HEADER.size + name + extra
        data = os.pread(self._descriptor, length, first + start)
        if len(data) != length:
            self._damaged(entry.filename)
        return data

    def _damaged(self, key: str) -> NoReturn:
        raise RemoteError(f"{key} in {self.url} is not as it was put there (crc32 or length): copy the zip file again")
