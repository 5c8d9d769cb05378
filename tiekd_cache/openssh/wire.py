"""The strings that OpenSSH's binary formats are made of: four bytes of length, then so many bytes."""

from __future__ import annotations


def string(data: bytes) -> bytes:
    """The data with their length in front."""
    return len(data).to_bytes(4, "big") + data


def strings(data: bytes) -> list[bytes]:
    """The strings that stand one behind the other; raises ValueError where they do not fill the data exactly."""
    found, place = [], 0
    while place < len(data):
        end = place + 4 + int.from_bytes(data[place : place + 4], "big")
        if end > len(data) or place + 4 > len(data):
            raise ValueError("cut off")
        found.append(data[place + 4 : end])
        place = end
    return found
