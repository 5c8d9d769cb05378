"""The bytes of chunks and shards: Blosc and crc32c around a residual, the index at a shard's end, the frame list.

These are Zarr's own encodings, done here because a random read through zarr-python spends half its time in the event
loop around them. Anything that is not exactly what was written raises `Damage`; nothing is filled in.
"""

from __future__ import annotations

import itertools
import struct
import threading
from collections.abc import Sequence

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import Blosc, blosc
from numcodecs.vlen import VLenUTF8
from numcodecs.zstd import Zstd

from tiekd_cache.store.codec import Codes
from tiekd_cache.store.kernels import kernels
from tiekd_cache.store.layout import BLOSC_BLOCK_BYTES, FRAME_ID_CHUNK, Layout

blosc.use_threads = False  # as zarr-python sets it: Blosc's global thread pool does not survive a fork

_BLOSC = Blosc(cname="zstd", clevel=1, shuffle=Blosc.BITSHUFFLE, blocksize=BLOSC_BLOCK_BYTES)
CRC_BYTES = 4
_BLOSC_HEADER_BYTES = 16
_OUR_HEADER = bytes([2, 1, 0b1001_0100, 2])
"""Blosc 2, its zstd 1; compressor zstd, streams not split, bitshuffle; integers of two bytes."""
_PLAIN_FLAGS = bytes([0b1001_0000])
_THREAD = threading.local()
_ZSTD = Zstd(level=1)
_ZSTD_MAGIC = bytes.fromhex("28b52ffd")
_MOST_CHUNK_BYTES = FRAME_ID_CHUNK * (4 + 4096)
"""Of a chunk of the frame list: ids as long as the longest path."""
MAX_FRAME_LIST_BYTES = 1 << 29
"""Of all its chunks together: 32 bytes for each of the most frames that a store may have."""
_SMALLEST = 32 * 1024
"""Bytes of a map below which frames of their own for some bit planes cost more than they save."""

Index = npt.NDArray[np.uint64]
"""[shard_frames,2]: offset and length in bytes of each chunk of a shard."""

ABSENT = np.iinfo(np.uint64).max
"""Offset and length of a chunk that a shard does not have: the positions behind the last frame."""


class Damage(Exception):
    """Bytes are not what was written; says what is wrong with them, the caller says where."""


class NotAsSigned(Damage):
    """Bytes are not what a trusted signer has signed."""


def with_crc(data: bytes) -> bytes:
    """The data followed by its crc32c, as Zarr's `crc32c` codec writes it."""
    return data + int(google_crc32c.value(data)).to_bytes(CRC_BYTES, "little")


def without_crc(data: bytes) -> bytes:
    """The data before its crc32c.

    Raises:
        Damage: the checksum does not match.
    """
    body = data[:-CRC_BYTES]
    if len(data) < CRC_BYTES or google_crc32c.value(body) != int.from_bytes(data[-CRC_BYTES:], "little"):
        raise Damage("checksum (crc32c) does not match")
    return body


def encode_chunk(residual: Codes) -> bytes:
    """One frame's residual [h,w] as a chunk of the array."""
    data = np.ascontiguousarray(residual, dtype="<u2")
    if kernels().fast_planes and _LITTLE_ENDIAN and data.nbytes >= _SMALLEST and not data.nbytes % 16:
        packed = _pack_planes(data)
        if len(packed) <= data.nbytes:
            return with_crc(packed)
    return with_crc(_BLOSC.encode(data))


def _pack_planes(data: Codes) -> bytes:
    """What Blosc would make of it, smaller: it compresses the 16 bit planes of a block together, here the three lowest
    are zstd frames of their own. They are nearly noise, and with the others share a poor code. Frames that follow each
    other are one stream of zstd, so every Blosc reads it."""
    block = min(BLOSC_BLOCK_BYTES, data.nbytes)
    planes = kernels().split_planes(data.reshape(-1), block // 2)
    starts, packed = [], b""
    first = _BLOSC_HEADER_BYTES + 4 * -(-data.nbytes // block)
    for start in range(0, data.nbytes, block):
        stride = min(block, data.nbytes - start) // 16
        cuts = [start, *(start + plane * stride for plane in (1, 2, 3, 16))]
        frames = b"".join(_ZSTD.encode(planes[a:b]) for a, b in itertools.pairwise(cuts))
        if len(frames) >= 16 * stride:
            frames = planes[start : start + 16 * stride].tobytes()  # Blosc's mark of a block that is not compressed
        starts.append(first + len(packed))
        packed += struct.pack("<i", len(frames)) + frames
    header = _OUR_HEADER + struct.pack("<3I", data.nbytes, block, first + len(packed))
    return header + struct.pack(f"<{len(starts)}i", *starts) + packed


def decode_chunk(chunk: bytes, out: Codes) -> None:
    """Fill `out` [h,w] uint16, contiguous, with the residual in a chunk.

    Raises:
        Damage: the chunk is not whole, or holds a map of another size.
    """
    data = without_crc(chunk)
    if len(data) < _BLOSC_HEADER_BYTES or int.from_bytes(data[4:8], "little") != out.nbytes:
        raise Damage(f"chunk does not hold a map of {out.shape[0]}x{out.shape[1]} px")
    block = int.from_bytes(data[8:12], "little")
    loops = kernels()
    try:
        if loops.fast_planes and _LITTLE_ENDIAN and data[:4] == _OUR_HEADER and not (block | out.nbytes) % 16:
            # A chunk whose header does not speak of bitshuffle is decompressed to bit planes: joining them here is
            # faster than inside Blosc.
            planes = _scratch(out.nbytes)
            _BLOSC.decode(data[:2] + _PLAIN_FLAGS + data[3:], planes)
            loops.join_planes(planes, block // 2, out.reshape(-1))
            return
        _BLOSC.decode(data, out)
    except (RuntimeError, ValueError) as error:
        raise Damage(f"chunk cannot be decompressed ({error})") from error
    if not _LITTLE_ENDIAN:
        out.byteswap(inplace=True)


def _scratch(length: int) -> npt.NDArray[np.uint8]:
    """Memory of this thread: fresh pages for each frame would cost a tenth of reading it."""
    found: npt.NDArray[np.uint8] | None = getattr(_THREAD, "scratch", None)
    if found is None or len(found) != length:
        found = _THREAD.scratch = np.empty(length, np.uint8)
    return found


def pack_shard(chunks: Sequence[bytes], shard_frames: int) -> bytes:
    """A shard of these chunks: one after the other, then the index with its checksum."""
    index = np.full((shard_frames, 2), ABSENT, "<u8")
    lengths = np.array([len(chunk) for chunk in chunks], "<u8")
    index[: len(chunks), 1] = lengths
    index[: len(chunks), 0] = np.cumsum(lengths) - lengths
    return b"".join([*chunks, with_crc(index.tobytes())])


def index_bytes(shard_frames: int) -> int:
    """Length of a shard's index with its checksum."""
    return 16 * shard_frames + CRC_BYTES


def parse_index(tail: bytes, layout: Layout, num_frames: int, file_bytes: int) -> Index:
    """The index in the last bytes of a shard.

    Args:
        tail: the last `index_bytes(layout.shard_frames)` bytes of the file.
        layout: of the store.
        num_frames: frames that this shard holds.
        file_bytes: length of the file.
    Raises:
        Damage: the index is not whole, points outside the file, or to a chunk larger than a frame's can be.
    """
    if len(tail) != index_bytes(layout.shard_frames):
        raise Damage(f"file is truncated: {file_bytes} bytes are less than its index")
    try:
        index = np.frombuffer(without_crc(tail), "<u8").reshape(layout.shard_frames, 2).astype(np.uint64)
    except Damage as damage:
        raise Damage(f"index of the shard: {damage} (the file may be truncated)") from damage
    offsets, lengths = index[:num_frames, 0], index[:num_frames, 1]
    limit = np.uint64(file_bytes)
    if (offsets > limit).any() or (lengths > limit).any() or (offsets + lengths > limit).any():
        raise Damage("index of the shard points outside the file")
    if (lengths > np.uint64(layout.largest_chunk)).any():
        raise Damage(f"index of the shard declares a chunk of {lengths.max()} bytes, more than a frame can have")
    return index


def encode_digests(digests: Sequence[int], shard_frames: int) -> bytes:
    """One chunk of the digest array; the positions behind the last frame are 0."""
    padded = np.zeros(shard_frames, "<u4")
    padded[: len(digests)] = digests
    return with_crc(padded.tobytes())


def decode_digests(chunk: bytes, shard_frames: int, num_frames: int) -> list[int]:
    """The digests in a chunk of the digest array.

    Raises:
        Damage: the chunk is not whole.
    """
    data = without_crc(chunk)
    if len(data) != 4 * shard_frames:
        raise Damage(f"chunk of digests holds {len(data) // 4} of {shard_frames}")
    return np.frombuffer(data, "<u4")[:num_frames].tolist()  # type: ignore[no-any-return]


def encode_frame_ids(frame_ids: Sequence[str], chunk: int) -> list[bytes]:
    """The chunks of the frame list, `chunk` ids each; the last one is filled up with empty strings."""
    chunks = []
    for start in range(0, len(frame_ids), chunk):
        ids = np.full(chunk, "", dtype=object)
        part = frame_ids[start : start + chunk]
        ids[: len(part)] = part
        chunks.append(with_crc(Zstd(level=3).encode(VLenUTF8().encode(ids))))
    return chunks


def decode_frame_ids(chunk: bytes, at_most: int = MAX_FRAME_LIST_BYTES) -> list[str]:
    """The ids in a chunk of the frame list, the filling of the last one included.

    Args:
        at_most: bytes that they may have, uncompressed.
    Raises:
        Damage: the chunk is not whole, or declares more than a frame list can be, which is then not made.
    """
    data = without_crc(chunk)
    declared = zstd_content_bytes(data)
    if declared > min(at_most, _MOST_CHUNK_BYTES):
        raise Damage(f"frame list declares {declared} bytes, more than one can have")
    try:
        texts = np.empty(declared, np.uint8)
        Zstd().decode(data, texts)  # without room of ours it would unfold whatever follows the first frame
        count = int.from_bytes(texts[:4].tobytes(), "little")
        if count > FRAME_ID_CHUNK:
            raise Damage(f"frame list declares {count} frames in a chunk, more than {FRAME_ID_CHUNK}")
        return VLenUTF8().decode(texts).tolist()  # type: ignore[no-any-return]
    except (RuntimeError, ValueError) as error:
        raise Damage(f"frame list cannot be decoded ({error})") from error


def zstd_content_bytes(data: bytes) -> int:
    """What a zstd frame says that it decompresses to (RFC 8878, 3.1.1.1); raises Damage where it does not say."""
    if data[:4] != _ZSTD_MAGIC or len(data) < 9:
        raise Damage("what is compressed is no zstd frame")
    descriptor = data[4]
    single_segment = bool(descriptor & 0x20)
    start = 5 + (not single_segment) + (0, 1, 2, 4)[descriptor & 3]  # behind window and dictionary
    length = (int(single_segment), 2, 4, 8)[descriptor >> 6]
    if not length:
        raise Damage("what is compressed does not declare its size")
    return int.from_bytes(data[start : start + length], "little") + 256 * (length == 2)


_LITTLE_ENDIAN = np.dtype("<u2").isnative
