"""Chunks of the frame list: a round trip, and what declares more than a list can be is refused before it is made."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numcodecs.zstd import Zstd

from tiekd_cache.store.chunks import Damage, decode_frame_ids, encode_frame_ids, with_crc, without_crc


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=30))
def test_ids_come_back(ids: list[str]) -> None:
    [chunk] = encode_frame_ids(ids, len(ids))
    assert decode_frame_ids(chunk) == ids


def test_a_chunk_of_the_longest_list_comes_back() -> None:
    ids = [f"2011_09_26_drive_0001_sync/image_02/{i:010d}" for i in range(70_000)]
    chunks = encode_frame_ids(ids, 65_536)
    assert [len(decode_frame_ids(chunk)) for chunk in chunks] == [65_536, 65_536]
    assert decode_frame_ids(chunks[0]) == ids[:65_536]


def declaring(content_bytes: int) -> bytes:
    """A chunk whose zstd frame says that it has so much in it."""
    frame = bytearray(Zstd(level=3).encode(bytes(70_000)))
    assert frame[4] >> 6 == 2, "four bytes of size"
    frame[5:9] = struct.pack("<I", content_bytes)
    return with_crc(bytes(frame))


def without_a_size() -> bytes:
    frame = bytearray(Zstd(level=3).encode(bytes(100)))
    frame[4] &= 0b0001_1111
    return with_crc(bytes(frame))


@pytest.mark.parametrize(
    ("chunk", "says"),
    [
        (declaring(4_000_000_000), "declares 4000000000 bytes"),
        (declaring(1_000), "cannot be decoded"),
        (without_a_size(), "does not declare its size"),
        (with_crc(Zstd(level=3).encode(struct.pack("<I", 2**31) + bytes(64))), "declares 2147483648 frames"),
        (with_crc(b"no zstd at all, but long enough"), "no zstd frame"),
        (with_crc(b""), "no zstd frame"),
        (b"", "checksum"),
    ],
)
def test_what_cannot_be_a_frame_list_is_refused(chunk: bytes, says: str) -> None:
    with pytest.raises(Damage, match=says):
        decode_frame_ids(chunk)


def test_the_checksum_is_looked_at_first() -> None:
    [chunk] = encode_frame_ids(["a", "b"], 2)
    flipped = bytearray(chunk)
    flipped[6] ^= 1
    with pytest.raises(Damage, match="checksum"):
        decode_frame_ids(bytes(flipped))
    assert len(without_crc(chunk)) == len(chunk) - 4
