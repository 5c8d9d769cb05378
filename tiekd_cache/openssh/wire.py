"""The strings that OpenSSH's binary formats are made of: four bytes of length, then so many bytes."""

from __future__ import annotations


def string(data: bytes) -> bytes:
    """The data with their length in front."""
    return len(data).to_bytes(4, "big") + data


def strings(data: bytes) -> list[bytes]:
    """The strings that stand one behind the other; raises ValueError where they do not fill the data exactly."""
    found = []
    while data:
        length = int.from_bytes(data[:4], "big")
        if len(data) < 4 + length:
            raise ValueError("cut off")
        found.append(data[4 : 4 + length])
        data = data[4 + length :]
    return found
