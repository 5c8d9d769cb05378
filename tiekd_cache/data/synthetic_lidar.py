"""Sparse depth as a rotating 64-beam LiDAR would measure it, picked from an exact depth map."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tiekd_cache.data.frame import DepthMap

DEPTH_SCALE = 256.0
MAX_RANGE_M = 80.0
AZIMUTH_STEP_DEG = 0.17
_DROPOUT = 0.03


def beam_elevations() -> npt.NDArray[np.float64]:
    """[64] degrees above the horizontal, from the top beam down.

    Those of a Velodyne HDL-64E: 32 beams 1/3 degree apart from +2, then 32 beams 1/2 degree apart, down to -24.33.
    """
    upper = 2.0 - np.arange(32) / 3
    lower = -8.83 - np.arange(32) / 2
    return np.concatenate([upper, lower])


def lidar_scan(depth: DepthMap, intrinsics: npt.NDArray[np.float64], rng: np.random.Generator) -> DepthMap:
    """[H,W] float32 m, 0 = none: the pixels of `depth` that a LiDAR's beams meet, rounded to 1/256 m.

    Beams fan out in elevation and azimuth, so the pattern is that of KITTI: curved rows of dots, nothing in the upper
    third. The sensor sits at the camera itself, where KITTI's is 8 cm above and 27 cm behind: no point shows through
    at the edge of a near object, and every value is the exact depth of its own pixel.

    Args:
        depth: [H,W] exact, metres along z, 0 = nothing to hit.
        intrinsics: [3,3] pixels.
        rng: draws each beam's start, its small tilt, and which echoes are lost (more of them far away).
    """
    height, width = depth.shape
    focal_x, focal_y = intrinsics[0, 0], intrinsics[1, 1]
    left, right = (np.degrees(np.arctan((u - intrinsics[0, 2]) / focal_x)) for u in (0, width))
    steps = np.arange(left, right, AZIMUTH_STEP_DEG)
    elevation = np.radians(beam_elevations() + rng.normal(0, 0.02, 64))[:, None]
    azimuth = np.radians(steps + rng.uniform(0, AZIMUTH_STEP_DEG, (64, 1)))
    columns = np.rint(intrinsics[0, 2] + focal_x * np.tan(azimuth)).astype(int)
    rows = np.rint(intrinsics[1, 2] - focal_y * np.tan(elevation) / np.cos(azimuth)).astype(int)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    z = np.where(inside, depth[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)], 0)
    distance = z / (np.cos(azimuth) * np.cos(elevation))
    lost = rng.random(z.shape) < _DROPOUT + 0.5 * np.clip(distance / MAX_RANGE_M, 0, 1) ** 3
    echo = inside & (z > 0) & (distance <= MAX_RANGE_M) & ~lost
    scan = np.zeros((height, width), np.float32)
    scan[rows[echo], columns[echo]] = np.rint(z[echo] * DEPTH_SCALE) / DEPTH_SCALE
    return scan
