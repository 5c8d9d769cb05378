"""Where everything of a store lies, and the Zarr v3 metadata of its three arrays: the same bytes in every store.

The documents are written out here rather than left to a Zarr library, so that format 1 cannot drift with its
version; the tests prove that zarr-python reads all of it. Chunks and shards are made in `chunks.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiekd_cache.store.schema import JsonObject, StoreSchema

FRAME_ID_CHUNK = 65536
"""Frame ids a chunk: a million of them are 16 files."""

MAX_FRAMES, MAX_SHARDS, MAX_SHARD_FRAMES = 1 << 24, 1 << 20, 1 << 19
"""Of a store: what declares more is none, and would have us ask and count for ever."""

MAX_SHARD_BYTES = 4 << 30
"""Of a shard before compression; whole shards are held in memory where they are shared, checked or cached."""

BLOSC_BLOCK_BYTES = 512 * 1024
"""Blosc's own choice, 32 KiB, nearly doubles the time to decode."""

_TUNING = ("clevel", "level", "blocksize")


@dataclass(frozen=True)
class Layout:
    """Paths and shard arithmetic of a store of `num_frames` maps of `native_size`, `shard_frames` to a shard."""

    path: Path
    num_frames: int
    native_size: tuple[int, int]
    shard_frames: int

    @property
    def frame_bytes(self) -> int:
        """Of one frame before compression."""
        return 2 * self.native_size[0] * self.native_size[1]

    @property
    def largest_chunk(self) -> int:
        """Bytes that a frame's chunk cannot exceed, whatever compressed it."""
        return self.frame_bytes + self.frame_bytes // 64 + 4096

    @property
    def largest_shard(self) -> int:
        """Bytes that a shard's file cannot exceed."""
        return min(self.shard_frames, self.num_frames) * self.largest_chunk + 16 * self.shard_frames + 4096

    def problem(self) -> str | None:
        """What cannot be in these numbers, in words; None where they make sense."""
        if not 1 <= self.num_frames <= MAX_FRAMES:
            return f"a store of {self.num_frames} frames cannot be: it has 1 to {MAX_FRAMES}"
        if not 1 <= self.shard_frames <= MAX_SHARD_FRAMES:
            return f"shards of {self.shard_frames} frames make no sense: they have 1 to {MAX_SHARD_FRAMES}"
        if self.num_shards > MAX_SHARDS:
            return f"{self.num_shards} shards are more than {MAX_SHARDS}: put more frames into each"
        size = min(self.shard_frames, self.num_frames) * self.frame_bytes
        if size > MAX_SHARD_BYTES:
            return (
                f"shards of {self.shard_frames} frames of {self.frame_bytes} bytes have {size} bytes, more than the"
                f" {MAX_SHARD_BYTES} that fit into memory: put fewer frames into each"
            )
        return None

    @property
    def num_shards(self) -> int:
        """Shards of the finished store; the last one may be short."""
        return -(-self.num_frames // self.shard_frames)

    def positions(self, shard: int) -> range:
        """Positions in the frame list of a shard's frames."""
        if not 0 <= shard < self.num_shards:
            raise IndexError(f"shard {shard} of a store of {self.num_shards}")
        start = shard * self.shard_frames
        return range(start, min(start + self.shard_frames, self.num_frames))

    def shard_file(self, shard: int) -> Path:
        """The residuals of a shard's frames."""
        return self.path / "residual" / "c" / str(shard) / "0" / "0"

    def digest_file(self, shard: int) -> Path:
        """The digests of a shard's frames, for other readers of the format; ours takes the done-record's."""
        return self.path / "digest" / "c" / str(shard)

    def record_file(self, shard: int) -> Path:
        """The done-record of a shard; without it the shard does not exist."""
        return self.path / "done" / f"{shard:05d}.json"

    def statistics_file(self, shard: int) -> Path:
        """A shard's statistics, which stage one writes beside the format: no reader needs them."""
        return statistics_file(self.path, shard)

    def claim_file(self, shard: int) -> Path:
        """What a process locks while it makes a shard."""
        return self.path / "claims" / f"{shard:05d}.lock"

    def frame_id_file(self, chunk: int) -> Path:
        """One chunk of the frame list."""
        return self.path / "frame_id" / "c" / str(chunk)

    @property
    def frame_id_chunk(self) -> int:
        """Frame ids in each of the list's chunks."""
        return min(self.num_frames, FRAME_ID_CHUNK)

    def array_metadata(self) -> dict[str, JsonObject]:
        """The `zarr.json` of each array."""
        return {
            "residual": _residual_metadata(self),
            "frame_id": array_document(
                [self.num_frames],
                [self.frame_id_chunk],
                "string",
                "",
                [
                    {"name": "vlen-utf8", "configuration": {}},
                    {"name": "zstd", "configuration": {"level": 3, "checksum": False}},
                    {"name": "crc32c"},
                ],
                ["frame"],
            ),
            "digest": array_document(
                [self.num_frames], [self.shard_frames], "uint32", 0, [BYTES, {"name": "crc32c"}], ["frame"]
            ),
        }

    def group_metadata(self, schema: StoreSchema) -> JsonObject:
        """The `zarr.json` of the group: attributes, and the arrays' metadata consolidated.

        With the consolidated part a reader needs one file to open the group, and zarr-python does not complain that
        the folders `done` and `claims` are no arrays.
        """
        return {
            "attributes": schema.to_attributes(),
            "zarr_format": 3,
            "node_type": "group",
            "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": self.array_metadata()},
        }


def statistics_file(store: Path, shard: int) -> Path:
    """Where a shard's statistics are."""
    return store / "statistics" / f"{shard:05d}.json"


def same_format(metadata: Any, expected: Any) -> bool:
    """Whether metadata differ at most in what only an encoder needs: levels and block sizes of the compressors."""
    return bool(_without_tuning(metadata) == _without_tuning(expected))


def _without_tuning(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_tuning(item) for name, item in value.items() if name not in _TUNING}
    if isinstance(value, list):
        return [_without_tuning(item) for item in value]
    return value


def metadata_bytes(document: JsonObject) -> bytes:
    """A metadata document as it is written."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


BYTES: JsonObject = {"name": "bytes", "configuration": {"endian": "little"}}
"""The codec of integers and floats of more than one byte."""


def _residual_metadata(layout: Layout) -> JsonObject:
    height, width = layout.native_size
    blosc = {
        "name": "blosc",
        "configuration": {
            "typesize": 2,
            "cname": "zstd",
            "clevel": 1,
            "shuffle": "bitshuffle",
            "blocksize": BLOSC_BLOCK_BYTES,
        },
    }
    shape = [layout.num_frames, height, width]
    codecs = [BYTES, blosc, {"name": "crc32c"}]
    return sharded_document(shape, layout.shard_frames, "uint16", codecs, ["frame", "y", "x"])


def sharded_document(
    shape: list[int], shard_frames: int, data_type: str, codecs: list[JsonObject], names: list[str]
) -> JsonObject:
    """The `zarr.json` of an array [frame,...] with a chunk a frame, `shard_frames` chunks to a shard."""
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [1, *shape[1:]],
            "codecs": codecs,
            "index_codecs": [BYTES, {"name": "crc32c"}],
            "index_location": "end",
        },
    }
    return array_document(shape, [shard_frames, *shape[1:]], data_type, 0, [sharding], names)


def array_document(
    shape: list[int],
    chunk_shape: list[int],
    data_type: str,
    fill_value: Any,
    codecs: list[JsonObject],
    names: list[str],
) -> JsonObject:
    """The `zarr.json` of an array."""
    return {
        "shape": shape,
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill_value,
        "codecs": codecs,
        "attributes": {},
        "dimension_names": names,
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
