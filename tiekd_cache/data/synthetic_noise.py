"""Smooth random texture for the made-up street scenes: one tile, sampled at world coordinates."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int32]

TILE = 1024


@functools.lru_cache(maxsize=1)
def noise_tile() -> npt.NDArray[np.float32]:
    """[TILE,TILE] float32 noise that repeats without a seam: mean 0, standard deviation 1, clipped to +-3.

    White noise with its spectrum divided by frequency: detail at every scale, like asphalt, plaster or leaves.
    The same in every process: it is a material, not part of a scene's randomness.
    """
    white = np.random.default_rng(20110926).standard_normal((TILE, TILE))
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(white) / np.maximum(frequency, 8 / TILE) ** 0.9
    noise = np.fft.irfft2(spectrum, s=(TILE, TILE))
    noise = (noise - noise.mean()) / noise.std()
    tile: npt.NDArray[np.float32] = np.clip(noise, -3, 3).astype(np.float32)
    tile.setflags(write=False)
    return tile


def sample_noise(u: FloatArray, v: FloatArray) -> FloatArray:
    """Noise at tile coordinates u, v (one unit = one texel, any value, the texel towards 0): same shape as u."""
    column = u.astype(np.int32) & (TILE - 1)
    row = v.astype(np.int32) & (TILE - 1)
    picked: FloatArray = noise_tile()[row, column]
    return picked


def hash_unit(*values: npt.NDArray[np.integer[Any]]) -> FloatArray:
    """A repeatable random number in [0, 1) for each tuple of integers, e.g. (building, floor, window)."""
    mixed = np.zeros(np.broadcast_shapes(*(value.shape for value in values)), np.uint32)
    for value in values:
        mixed = (mixed ^ value.astype(np.uint32)) * np.uint32(0x9E3779B1)
        mixed ^= mixed >> np.uint32(15)
    mixed = mixed * np.uint32(0x85EBCA6B)
    return ((mixed >> np.uint32(8)) / np.float32(2**24)).astype(np.float32)
