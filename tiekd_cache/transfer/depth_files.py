"""Reading one depth file: 16-bit PNG, npy, npz, TIFF or PFM, as the numbers that stand in it."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from tiekd_cache.data.images import read_depth_png
from tiekd_cache.errors import DataError
from tiekd_cache.foreign import MAX_PIXELS, read_file
from tiekd_cache.transfer.tiff_header import tiff_size

Counts = npt.NDArray[Any]

MOST_FILE_BYTES = 8 * MAX_PIXELS + 4096
"""Of a depth file, and of an array in one: numbers of eight bytes, and a header."""

_REMEDY = "Write the file again, or leave its frame out with --skip-missing after removing it."


def read_counts(path: Path, key: str | None = None) -> Counts:
    """[H,W] numbers of a depth file, integers or floats as they stand in it; the unit is the caller's business.

    Args:
        path: its extension says what it is.
        key: name of the array in an npz file; None takes the only one.
    Raises:
        DataError: the file is missing, damaged, or no map of one channel; names it.
    """
    kind = path.suffix.lower().lstrip(".")
    if kind == "png":
        return read_depth_png(path, depth_scale=1.0).astype(np.uint16)
    try:
        data = read_file(path, MOST_FILE_BYTES)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}. Check the path and permissions.") from None
    counts: Any = _READERS[kind](data, path, key)
    if counts.ndim == 3 and 1 in (counts.shape[0], counts.shape[-1]):
        counts = counts[0] if counts.shape[0] == 1 else counts[..., 0]
    if counts.ndim != 2 or counts.size == 0 or counts.dtype.kind not in "fui":
        raise DataError(
            f"{path} holds {counts.dtype} {list(counts.shape)}: a depth map is one channel [H,W] of numbers. {_REMEDY}"
        )
    found: Counts = counts
    return found


def _read_npy(data: bytes, path: Path, key: str | None) -> Counts:
    try:
        array: Counts = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:  # a damaged header may claim terabytes
        raise DataError(f"{path} is no whole npy file of numbers ({error}). {_REMEDY}") from None
    return array


def _read_npz(data: bytes, path: Path, key: str | None) -> Counts:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            names = list(arrays.files)
            chosen = names[0] if key is None and len(names) == 1 else key
            if chosen not in names:
                asked = "which one is meant is not said" if key is None else f"there is no '{key}'"
                raise DataError(f"{path} holds the arrays {', '.join(names)}: {asked}. Choose one with --key.")
            large = next((entry for entry in arrays.zip.infolist() if entry.file_size > MOST_FILE_BYTES), None)
            if large is not None:
                raise ValueError(f"{large.filename} declares {large.file_size} bytes, more than a depth map has")
            array: Counts = arrays[chosen]
    except (ValueError, EOFError, OSError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is no whole npz file of numbers ({error}). {_REMEDY}") from None
    except TypeError:  # a single array, as npy holds it
        raise DataError(f"{path} is no npz file: name it .npy. {_REMEDY}") from None
    return array


def _read_tiff(data: bytes, path: Path, key: str | None) -> Counts:
    size = tiff_size(data)
    if size is None:
        raise DataError(f"{path} is no whole TIFF file ({len(data)} bytes). {_REMEDY}")
    if math.prod(size) > MAX_PIXELS:
        raise DataError(f"{path} declares {size[0]}x{size[1]} px of {size[2]} channels, more than a depth map has.")
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        array: Counts | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise DataError(f"{path} cannot be decoded: {error.err}. {_REMEDY}") from None
    finally:
        cv2.utils.logging.setLogLevel(level)
    if array is None:
        raise DataError(f"{path} is no whole TIFF file ({len(data)} bytes). {_REMEDY}")
    return array


def _read_pfm(data: bytes, path: Path, key: str | None) -> Counts:
    """Rows from bottom to top; the third line's sign is the byte order, its size (a unit nobody uses) is ignored."""
    head = data.split(b"\n", 3)
    try:
        if len(head) != 4 or head[0].strip() != b"Pf":
            raise ValueError("a PFM map with one channel begins with Pf, size and byte order, a line each")
        width, height = (int(number) for number in head[1].split())
        if not math.isfinite(scale := float(head[2])) or scale == 0:
            raise ValueError(f"byte order {scale} is neither negative nor positive")
        order = "<f4" if scale < 0 else ">f4"
        if width < 1 or height < 1 or len(head[3]) < 4 * width * height:
            raise ValueError(f"{height}x{width} pixels in {len(head[3])} bytes: it is truncated")
    except ValueError as error:
        raise DataError(f"{path} is no whole PFM file ({error}). {_REMEDY}") from None
    rows = np.frombuffer(head[3], order, count=width * height).reshape(height, width)
    return np.ascontiguousarray(rows[::-1], dtype=np.float32)


_READERS = {"npy": _read_npy, "npz": _read_npz, "tif": _read_tiff, "tiff": _read_tiff, "pfm": _read_pfm}
