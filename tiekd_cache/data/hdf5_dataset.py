"""Datasets of somebody's HDF5 file: only those whose values lie in the file itself, and are no more than it declares.

HDF5 follows links into other files, loads plug-ins that a filter asks for, makes up values that were never written, and
inflates a chunk to whatever comes out of it. So compressed values are refused but where they are expected, and there
read by `read_entry` alone.
"""

from __future__ import annotations

import itertools
import math
import zlib
from typing import Any

import h5py

from tiekd_cache.errors import first_line

MOST_CHUNK_BYTES = 1 << 28
MOST_CHUNKS = 4096
"""Of one entry, e.g. of a frame's map."""

_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3


def own_dataset(file: Any, name: str, *, compressed: bool = False) -> Any:
    """The dataset with this name in an open file.

    Args:
        compressed: its values may be, by gzip; then it is to be read by `read_entry`.
    Raises:
        ValueError: there is none; its values lie elsewhere, are compressed otherwise, or were never written.
    """
    if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
        raise ValueError(f"it has no dataset '{name}' of its own")
    found = file[name]
    if found.is_virtual or found.external:
        raise ValueError(f"the values of '{name}' lie in other files")
    filters = _filters(found)
    if filters and not compressed:
        raise ValueError(f"'{name}' is compressed or has checksums, which only maps may have")
    if filters != [kind for kind in (_SHUFFLE, _DEFLATE, _FLETCHER32) if kind in filters]:
        raise ValueError(f"'{name}' is compressed by something else than gzip")
    num_bytes = found.size * found.dtype.itemsize
    if found.chunks is None and num_bytes > found.id.get_storage_size():
        raise ValueError(f"'{name}' declares {num_bytes} bytes that were never written")
    if found.chunks is not None and _chunk_bytes(found) > MOST_CHUNK_BYTES:
        raise ValueError(f"'{name}' has chunks of {_chunk_bytes(found)} bytes, more than a map has")
    return found


def read_entry(dataset: Any, place: int) -> Any:
    """dataset[place], of a dataset of `own_dataset`, none of whose chunks inflates to more than it declares.

    Raises:
        ValueError: one does, or cannot be read.
    """
    if dataset.chunks is not None and _DEFLATE in _filters(dataset):
        starts = [range(0, size, chunk) for size, chunk in zip(dataset.shape[1:], dataset.chunks[1:], strict=True)]
        if math.prod(map(len, starts)) > MOST_CHUNKS:
            raise ValueError(f"an entry of it has more than {MOST_CHUNKS} chunks")
        for offset in itertools.product([place - place % dataset.chunks[0]], *starts):
            _check_chunk(dataset, offset)
    return dataset[place]


def _check_chunk(dataset: Any, offset: tuple[int, ...]) -> None:
    most = _chunk_bytes(dataset)
    room = bytearray(most + most // 500 + 64)  # gzip and a checksum make no chunk longer than that
    try:
        # Asking for its size first would go through all chunks of the dataset, seconds a frame.
        mask, data = dataset.id.read_direct_chunk(offset, out=room)
        length = 0 if mask else len(zlib.decompressobj().decompress(data, most + 1))
    except (OSError, RuntimeError, ValueError, zlib.error) as error:
        raise ValueError(f"a chunk of it cannot be read ({first_line(error)})") from error
    if length != most:
        raise ValueError(f"a chunk does not inflate to the {most} bytes that it declares")


def _filters(dataset: Any) -> list[int]:
    settings = dataset.id.get_create_plist()
    return [settings.get_filter(number)[0] for number in range(settings.get_nfilters())]


def _chunk_bytes(dataset: Any) -> int:
    total: int = dataset.dtype.itemsize
    for side in dataset.chunks:
        total *= int(side)
    return total
