"""The size that a TIFF file declares, before anybody makes room for it."""

from __future__ import annotations

import struct

_WIDTH, _HEIGHT, _CHANNELS = 256, 257, 277
_KINDS = {3: "H", 4: "I", 16: "Q"}
"""Types of the numbers that a size may be: of 2, 4 and 8 bytes."""


def tiff_size(data: bytes) -> tuple[int, int, int] | None:
    """(height, width, channels) of the first image in a TIFF or BigTIFF file; None where it says none.

    Source: TIFF 6.0, Adobe 1992, section 2; BigTIFF differs in the width of its numbers.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    try:
        (version,) = struct.unpack_from(f"{order}H", data, 2)
        big = version == 43
        (place,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)
        (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, place)
        found = {_CHANNELS: 1}
        for number in range(min(count, 4096)):
            entry = place + (8 + 20 * number if big else 2 + 12 * number)
            tag, kind = struct.unpack_from(f"{order}2H", data, entry)
            if tag in (_WIDTH, _HEIGHT, _CHANNELS) and kind in _KINDS:
                (found[tag],) = struct.unpack_from(f"{order}{_KINDS[kind]}", data, entry + (12 if big else 8))
        return found[_HEIGHT], found[_WIDTH], found[_CHANNELS]
    except (struct.error, KeyError, OverflowError):
        return None
