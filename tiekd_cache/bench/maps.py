"""Depth maps to measure on: a user's own, or made up so that they look like a network's answers."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from tiekd_cache.data.synthetic import render_scene
from tiekd_cache.errors import DataError
from tiekd_cache.store.resize import resize_bilinear

Depth = npt.NDArray[np.float32]

MIN_DEPTH, MAX_DEPTH = 1e-3, 80.0
_NOISE_PX = 6.0


@dataclass(frozen=True)
class BenchMap:
    """One teacher's answers.

    Attributes:
        name: of the data.
        native: [n,h,w] float32, metres: what the network says before its last resize.
        image_size: (H, W) pixels of the picture; where it differs from [h,w], the map is resized bilinearly
            (align_corners as given) on reading.
        align_corners: of that resize.
    """

    name: str
    native: Depth
    image_size: tuple[int, int]
    align_corners: bool = True

    @property
    def full_resolution(self) -> bool:
        """Whether the network's own resolution is the picture's."""
        return self.native.shape[1:] == self.image_size

    def at_image_size(self) -> Depth:
        """[n,H,W] float32, metres: what everyone who knows no native resolution has to keep."""
        return np.stack([resize_bilinear(depth, self.image_size, self.align_corners) for depth in self.native])


def make_maps(size: tuple[int, int] = (352, 1216), frames: int = 2, noise: float = 0.002) -> list[BenchMap]:
    """Made-up streets at full and at half resolution, with the smooth errors of a network; the same at each call.

    Args:
        size: (H, W) pixels of the picture, both even.
        frames: maps of each kind.
        noise: standard deviation of the relative error, correlated over a few pixels.
    """
    rng = np.random.default_rng(0)
    exact = [render_scene(4 + i, i, size).depth for i in range(frames)]
    full = np.stack([_answer(depth, noise, rng) for depth in exact])
    half = np.stack([_answer(depth[::2, ::2], noise, rng) for depth in exact])
    return [BenchMap("synthetic full", full, size), BenchMap("synthetic half", half, size)]


def _answer(depth: Depth, noise: float, rng: np.random.Generator) -> Depth:
    """A depth map with a relative error that is smooth over pixels; the sky is as far as the range goes."""
    error = gaussian_filter(rng.standard_normal(depth.shape), _NOISE_PX)
    error *= noise / max(float(error.std()), 1e-9)
    noisy = np.where(depth == 0, MAX_DEPTH, depth) * (1 + error)
    answer: Depth = np.clip(noisy, np.float32(MIN_DEPTH), MAX_DEPTH).astype(np.float32)
    return answer


def read_maps(path: Path, image_size: tuple[int, int]) -> list[BenchMap]:
    """The maps in an .npz file, one array a teacher; arrays smaller than `image_size` are its own resolution.

    Args:
        path: arrays [n,h,w] or [h,w] of metres.
        image_size: (H, W) pixels of the pictures.
    Raises:
        DataError: the file cannot be read, or an array in it is no depth within 1e-3 .. 80 m.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as .npz ({error}). Pass a file made by numpy.savez.") from error
    return [_checked(path, name, array, image_size) for name, array in arrays.items()]


def _checked(path: Path, name: str, array: npt.NDArray[np.generic], image_size: tuple[int, int]) -> BenchMap:
    rule = f"Arrays must be [n,h,w] or [h,w] of metres within {MIN_DEPTH:g} .. {MAX_DEPTH:g}, n > 0."
    if array.ndim not in (2, 3) or array.dtype.kind not in "fiu" or not array.size:
        raise DataError(f"{path}: array {name!r} is {array.dtype} {_shown(array.shape)}. {rule}")
    native = np.ascontiguousarray(array, np.float32).reshape(-1, *array.shape[-2:])
    if not (native.min() >= np.float32(MIN_DEPTH) and native.max() <= MAX_DEPTH):
        raise DataError(f"{path}: array {name!r} holds {native.min():g} .. {native.max():g} m. {rule}")
    if native.shape[1] > image_size[0] or native.shape[2] > image_size[1]:
        raise DataError(
            f"{path}: array {name!r} holds maps of {_shown(native.shape[1:])} px, larger than the picture,"
            f" {_shown(image_size)} px. Pass the pictures' size."
        )
    return BenchMap(name, native, image_size)


def _shown(shape: Sequence[int]) -> str:
    return "x".join(str(side) for side in shape)
