"""Pictures and depth maps from disk: decoded by OpenCV, after a check that the file is whole.

OpenCV takes 11.6 ms for a KITTI picture, Pillow 13.9 ms. But what a decoder makes of a damaged file depends on
its version (None, an exception, or a half-grey picture without a word), and libpng complains on stderr by itself.
So a file's structure is checked here first, with its checksums where it has them (PNG; 0.5 ms a picture).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from tiekd_cache.data.frame import DepthMap, Image
from tiekd_cache.errors import DataError
from tiekd_cache.foreign import open_regular, read_file

_PNG_START = b"\x89PNG\r\n\x1a\n"
_JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_GREY = 0  # colour type of a PNG header
_AS_RGB: int = getattr(cv2, "IMREAD_COLOR_RGB", 0)
"""OpenCV 4.11 and later decode to RGB; exchanging the channels afterwards costs half a millisecond a picture."""
_AGAIN = "Unpack or copy it again."

MAX_PICTURE_PIXELS = 1 << 28
"""268 megapixels: more than any camera's; decoded, they are 800 MB."""

MOST_PICTURE_BYTES = 1 << 30

_MOST_JPEG_HEADER_BYTES = 32 << 20
"""Before a JPEG's size may stand a preview, colour profiles and depth maps."""


def read_image(path: str | Path) -> Image:
    """[H,W,3] uint8 RGB of a PNG or JPEG file with 8 bits a channel.

    Raises:
        DataError: the file is missing, truncated, damaged, no picture, or has 16 bits a channel (a depth map).
    """
    data = _read_whole(path)
    _check_size(data, path)
    if data.startswith(_PNG_START) and _png_header(data)[2] == 16:
        raise DataError(
            f"{path} is a 16-bit PNG where a picture with 8 bits a channel is expected: is it a depth map? "
            "Check the order of the columns in the split file."
        )
    pixels = _decode(data, (_AS_RGB or cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION, path)
    image: Image = pixels if _AS_RGB else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)  # type: ignore[assignment]
    return image


def read_depth_png(path: str | Path, depth_scale: float = 256.0) -> DepthMap:
    """[H,W] float32 depth in metres of a 16-bit PNG with one channel; 0 = no measurement.

    Args:
        depth_scale: counts per metre; 256 in KITTI.
    Raises:
        DataError: the file is missing, truncated, damaged, or not a 16-bit PNG with one channel.
    """
    data = _read_whole(path)
    if not data.startswith(_PNG_START):
        raise DataError(f"{path} is not a PNG file; a depth map is a 16-bit PNG with one channel. {_AGAIN}")
    _check_size(data, path)
    _, _, bits, colour = _png_header(data)
    if bits != 16 or colour != _GREY:
        channels = "one channel" if colour == _GREY else "colours"
        raise DataError(
            f"{path} is a PNG of {bits} bits with {channels}; a depth map has 16 bits and one channel "
            f"(metres * {depth_scale:g}). Is it a picture, or a coloured rendering of depth?"
        )
    counts = _decode(data, cv2.IMREAD_UNCHANGED, path)
    return counts.astype(np.float32) / np.float32(depth_scale)


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) in pixels, from the header of a PNG or JPEG file; decodes nothing.

    Raises:
        DataError: the file is missing, ends in its header, or is neither PNG nor JPEG.
    """
    try:
        with os.fdopen(open_regular(Path(path)), "rb") as file:
            start = file.read(33)
            data = start if start.startswith(_PNG_START) else start + file.read(_MOST_JPEG_HEADER_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from None
    if data.startswith(_PNG_START) and len(data) == 33:
        height, width, _, _ = _png_header(data)
        return height, width
    size = _jpeg_size(data) if data.startswith(_JPEG_START) else None
    if size is None:
        raise DataError(f"{path} is not a whole PNG or JPEG file ({len(data)} bytes looked at). {_AGAIN}")
    return size


def _read_whole(path: str | Path) -> bytes:
    """The bytes of a picture file that starts and ends as its format demands."""
    try:
        data = read_file(Path(path), MOST_PICTURE_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from None
    if not data:
        raise DataError(f"{path} is truncated: 0 bytes. {_AGAIN}")
    if data.startswith(_PNG_START):
        _check_png(data, path)
    elif data.startswith(_JPEG_START):
        if not data.rstrip(b"\0\r\n").endswith(_JPEG_END):
            raise DataError(f"{path} is truncated: {len(data)} bytes, the end marker of JPEG is missing. {_AGAIN}")
    else:
        raise DataError(f"{path} is not a PNG or JPEG file: {len(data)} bytes that start with {data[:8]!r}. {_AGAIN}")
    return data


def _check_size(data: bytes, path: str | Path) -> None:
    """Raises DataError where a picture declares more pixels than any has, before they are decoded."""
    size = _png_header(data)[:2] if data.startswith(_PNG_START) else _jpeg_size(data)
    if size is None:
        raise DataError(f"{path} is damaged: a JPEG without a size. {_AGAIN}")
    if size[0] * size[1] > MAX_PICTURE_PIXELS:
        raise DataError(
            f"{path} declares {size[0]}x{size[1]} px: a picture has {MAX_PICTURE_PIXELS} pixels at most. {_AGAIN}"
        )


def _check_png(data: bytes, path: str | Path) -> None:
    """Walks a PNG's chunks up to IEND; raises DataError where one is cut short or contradicts its checksum."""
    view, place, kind = memoryview(data), len(_PNG_START), b""
    while kind != b"IEND":
        length = int.from_bytes(view[place : place + 4], "big")
        end = place + 12 + length
        if place + 12 > len(data) or end > len(data):
            raise DataError(f"{path} is truncated: {len(data)} bytes, the PNG goes on after them. {_AGAIN}")
        kind = bytes(view[place + 4 : place + 8])
        if zlib.crc32(view[place + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise DataError(
                f"{path} is damaged: the checksum of its chunk {kind!r} at byte {place} is wrong "
                f"({len(data)} bytes). {_AGAIN}"
            )
        if place == len(_PNG_START) and (kind, length) != (b"IHDR", 13):
            raise DataError(f"{path} is damaged: a PNG begins with IHDR, this one with {kind!r}. {_AGAIN}")
        place = end


def _png_header(data: bytes) -> tuple[int, int, int, int]:
    """(height, width, bits a channel, colour type) of a PNG."""
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big"), data[24], data[25]


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) from the frame header of a JPEG; None where there is none."""
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # padding before a marker
            place += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = data[place + 5 : place + 7], data[place + 7 : place + 9]
            return int.from_bytes(height, "big"), int.from_bytes(width, "big")
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None


def _decode(data: bytes, flags: int, path: str | Path) -> npt.NDArray[np.uint8 | np.uint16]:
    try:
        with _silent_opencv():
            pixels: npt.NDArray[np.uint8 | np.uint16] | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise DataError(f"{path} cannot be decoded ({len(data)} bytes): {error.err}. {_AGAIN}") from None
    if pixels is None:
        raise DataError(f"{path} is damaged: {len(data)} bytes that cannot be decoded. {_AGAIN}")
    return pixels


@contextmanager
def _silent_opencv() -> Iterator[None]:
    """Keeps OpenCV's own warnings off the user's terminal: what is wrong is said by DataError."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _unreadable(path: str | Path, error: OSError) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path} does not exist. `tiekd-cache doctor` shows which data are found.")
    return DataError(f"{path} cannot be read: {error.strerror or error}. Check its permissions and the disk.")
