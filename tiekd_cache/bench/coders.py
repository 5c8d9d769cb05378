"""Ways to keep a teacher's depth: this store, and what people use otherwise. Each writes, reads and counts its bytes.

All but the store know no native resolution and keep maps at the picture's size. PNG and HDF5 hold depth * 65535 / 80
as 16-bit integers, as the public TIE-KD release does; Blosc holds the store's own codes, without their prediction.
"""

from __future__ import annotations

import functools
import importlib
import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import cv2
import h5py
import numpy as np
import numpy.typing as npt
from numcodecs import Blosc

from tiekd_cache.bench.maps import MAX_DEPTH, MIN_DEPTH, BenchMap
from tiekd_cache.errors import ConfigError
from tiekd_cache.store import StoreSchema, StoreWriter, open_store
from tiekd_cache.store.chunks import Damage, decode_chunk, encode_chunk
from tiekd_cache.store.codec import FINE_STEP, dequantise, frame_digest, quantise
from tiekd_cache.store.kernels import kernels
from tiekd_cache.store.resize import resize_bilinear

Depth = npt.NDArray[np.float32]
Levels = npt.NDArray[np.uint16]

STEP = 1 / 64
_LEVELS_PER_M = np.float32(65535 / MAX_DEPTH)
_BLOSC = Blosc(cname="zstd", clevel=5, shuffle=Blosc.BITSHUFFLE)
_FILE_NUMBERS = itertools.count()  # HDF5 refuses two files of one name, in memory too


class Coder(Protocol):
    """One way to keep maps."""

    name: str

    def encode(self, i: int) -> Any:
        """Frame i as it is kept, in memory."""

    def decode(self, data: Any) -> Depth:
        """[H,W] float32, metres, of what `encode` gave."""

    def num_bytes(self, data: Any) -> int:
        """Size of what `encode` gave."""

    def write(self, folder: Path) -> None:
        """Keep all frames in an empty folder."""

    def read(self, i: int) -> Depth:
        """[H,W] float32, metres: frame i out of that folder."""


class StoreCoder:
    """This store: quantise, digest, predict, compress; and back, with replay of the resize."""

    def __init__(self, maps: BenchMap, step: float = STEP, name: str = "tiekd-cache") -> None:
        self.name = name
        self._maps, self._step = maps, step
        self._frame_ids = [f"frame/{i:04d}" for i in range(len(maps.native))]

    def encode(self, i: int) -> tuple[bytes, int]:
        """See Coder."""
        codes, residual = kernels().encode(self._maps.native[i], self._step, MIN_DEPTH, MAX_DEPTH)
        return encode_chunk(residual), frame_digest(codes)

    def decode(self, data: tuple[bytes, int]) -> Depth:
        """See Coder."""
        codes = np.empty(self._maps.native.shape[1:], np.uint16)
        depth = np.empty(codes.shape, np.float32)
        decode_chunk(data[0], codes)
        kernels().decode(codes, depth, self._step, MIN_DEPTH)
        if frame_digest(codes) != data[1]:
            raise Damage("the response does not have its digest")
        maps = self._maps
        return depth if maps.full_resolution else resize_bilinear(depth, maps.image_size, maps.align_corners)

    def num_bytes(self, data: tuple[bytes, int]) -> int:
        """See Coder; the frame's place in the shard's index and its digest included."""
        return len(data[0]) + 16 + 4

    def write(self, folder: Path) -> None:
        """See Coder."""
        maps, images = self._maps, {"crop": "none", "flip_average": False, "preprocessing": {}}
        resize = {"size": maps.image_size, "mode": "bilinear", "align_corners": maps.align_corners}
        teacher = {"name": "bench", "digest": "0" * 64, "architecture": "none", "weights": "none", "trained": True}
        schema = StoreSchema.build(
            teacher=teacher,
            input={**images, "image_size": maps.image_size},
            native_size=(maps.native.shape[1], maps.native.shape[2]),
            min_depth=MIN_DEPTH,
            max_depth=MAX_DEPTH,
            step=self._step,
            clamp=(MIN_DEPTH, MAX_DEPTH),
            dataset={"name": "bench", "split": maps.name},
            frame_ids=self._frame_ids,
            resize=None if maps.full_resolution else resize,
        )
        writer = StoreWriter.open(folder / "bench.zarr", schema, self._frame_ids)
        for shard in range(writer.num_shards):
            count = len(writer.frames_of(shard))
            writer.write_shard(shard, maps.native[64 * shard : 64 * shard + count])
        self._store = open_store(folder / "bench.zarr")

    def read(self, i: int) -> Depth:
        """See Coder."""
        return self._store[self._frame_ids[i]]


class FileCoder:
    """A file a frame, of the map at the picture's size.

    Args:
        name: of the way.
        depth: [n,H,W] float32, metres.
        encode: a map to the bytes of its file.
        decode: back.
    """

    def __init__(
        self, name: str, depth: Depth, encode: Callable[[Depth], bytes], decode: Callable[[bytes], Depth]
    ) -> None:
        self.name, self._depth, self._encode, self.decode = name, depth, encode, decode

    def encode(self, i: int) -> bytes:
        """See Coder."""
        return self._encode(self._depth[i])

    def num_bytes(self, data: bytes) -> int:
        """See Coder."""
        return len(data)

    def write(self, folder: Path) -> None:
        """See Coder."""
        self._folder = folder
        for i in range(len(self._depth)):
            (folder / f"{i:04d}").write_bytes(self.encode(i))

    def read(self, i: int) -> Depth:
        """See Coder."""
        return self.decode((self._folder / f"{i:04d}").read_bytes())


class HdfCoder:
    """One HDF5 file, gzip and shuffle, a chunk a frame."""

    name = "HDF5 gzip"

    def __init__(self, depth: Depth) -> None:
        self._depth = depth

    def encode(self, i: int) -> h5py.File:
        """See Coder."""
        file = h5py.File(f"bench-{next(_FILE_NUMBERS)}", "w", driver="core", backing_store=False)
        self._dataset(file, 1)[0] = to_levels(self._depth[i])
        return file

    def decode(self, data: h5py.File) -> Depth:
        """See Coder."""
        return from_levels(data["depth"][0])

    def num_bytes(self, data: h5py.File) -> int:
        """See Coder."""
        return int(data["depth"].id.get_storage_size())

    def write(self, folder: Path) -> None:
        """See Coder."""
        with h5py.File(folder / "bench.h5", "w") as file:
            dataset = self._dataset(file, len(self._depth))
            for i, depth in enumerate(self._depth):
                dataset[i] = to_levels(depth)
        self._read = h5py.File(folder / "bench.h5", "r", rdcc_nbytes=0)["depth"]

    def read(self, i: int) -> Depth:
        """See Coder."""
        return from_levels(self._read[i])

    def _dataset(self, file: h5py.File, count: int) -> Any:
        size = self._depth.shape[1:]
        return file.create_dataset(
            "depth", (count, *size), np.uint16, chunks=(1, *size), compression="gzip", shuffle=True
        )


def to_levels(depth: Depth) -> Levels:
    """depth * 65535 / 80, rounded."""
    levels: Levels = np.rint(depth * _LEVELS_PER_M).astype(np.uint16)
    return levels


def from_levels(levels: Levels) -> Depth:
    """Metres of such levels."""
    return np.multiply(levels, np.float32(MAX_DEPTH / 65535), dtype=np.float32)


def all_coders(maps: BenchMap) -> list[Coder]:
    """Every way for these maps: PNG by Pillow, which the ratios refer to, comes first, then the store with both steps.

    Raises:
        ConfigError: Pillow is not installed.
    """
    depth = maps.at_image_size()
    return [
        pillow_coder(depth),
        StoreCoder(maps),
        StoreCoder(maps, FINE_STEP, "tiekd-cache, fine step"),
        FileCoder("PNG16 OpenCV", depth, _opencv_png, _read_opencv_png),
        HdfCoder(depth),
        FileCoder("Blosc, no prediction", depth, _blosc, functools.partial(_read_blosc, depth.shape[1:])),
    ]


def pillow_coder(depth: Depth) -> Coder:
    """16-bit PNG by Pillow with its default settings.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        image: Any = importlib.import_module("PIL.Image")
    except ImportError as error:
        raise ConfigError(
            f"Pillow is not installed ({error}), and the benchmark's ratios refer to its PNG files: `pip install"
            " 'tiekd-cache[bench]'`"
        ) from error

    def encode(depth: Depth) -> bytes:
        content = io.BytesIO()
        image.fromarray(to_levels(depth)).save(content, "PNG")
        return content.getvalue()

    def decode(data: bytes) -> Depth:
        return from_levels(np.asarray(image.open(io.BytesIO(data))))

    return FileCoder("PNG16 Pillow", depth, encode, decode)


def _opencv_png(depth: Depth) -> bytes:
    return cv2.imencode(".png", to_levels(depth))[1].tobytes()


def _read_opencv_png(data: bytes) -> Depth:
    levels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return from_levels(levels)


def _blosc(depth: Depth) -> bytes:
    return _BLOSC.encode(quantise(depth, STEP, MIN_DEPTH, MAX_DEPTH))  # type: ignore[no-any-return]


def _read_blosc(size: tuple[int, int], data: bytes) -> Depth:
    return dequantise(np.frombuffer(_BLOSC.decode(data), np.uint16).reshape(size), STEP, MIN_DEPTH)
