"""A pinhole camera above a made-up street: its rays, and which pixels can see a thing.

World frame: x right, y down, z along the street, metres; the ground is the plane y = 0, so heights are negative y.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

_NEAR_M = 0.05


@dataclass(frozen=True)
class Camera:
    """A pinhole camera above the street.

    Attributes:
        intrinsics: [3,3] pixels; pixel (row, column) looks through the point (column, row).
        size: (height, width) pixels.
        position: [3] metres; its height above the road is -position[1].
        pitch: radians, positive looks up.
        yaw: radians, positive looks right.
        roll: radians, positive turns the camera clockwise.
    """

    intrinsics: Matrix
    size: tuple[int, int]
    position: Matrix
    pitch: float = 0.0
    yaw: float = 0.0
    roll: float = 0.0

    @property
    def rotation(self) -> Matrix:
        """[3,3], camera axes in the world: world = rotation @ camera."""
        cp, sp, cy, sy, cr, sr = (f(a) for a in (self.pitch, self.yaw, self.roll) for f in (np.cos, np.sin))
        about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        product: Matrix = about_y @ about_x @ about_z
        return product

    def rays(self) -> npt.NDArray[np.float32]:
        """[3,H,W] float32 world directions of every pixel, with a camera-frame z of exactly 1."""
        height, width = self.size
        columns = (np.arange(width) - self.intrinsics[0, 2]) / self.intrinsics[0, 0]
        rows = (np.arange(height) - self.intrinsics[1, 2]) / self.intrinsics[1, 1]
        turn = self.rotation
        rays = turn[:, 0, None, None] * columns + turn[:, 1, None, None] * rows[:, None] + turn[:, 2, None, None]
        directions: npt.NDArray[np.float32] = rays.astype(np.float32)
        return directions

    def rectangle(self, vertices: Matrix) -> tuple[slice, slice] | None:
        """Rows and columns that can see the convex hull of [V,3] world points, or None where no pixel can."""
        points = (vertices - self.position) @ self.rotation
        front = points[points[:, 2] > _NEAR_M]
        behind = points[points[:, 2] <= _NEAR_M]
        if not len(front):
            return None
        if len(behind):  # the hull's part in front of the camera also spans its cut with the near plane
            share = (front[:, None, 2] - _NEAR_M) / (front[:, None, 2] - behind[None, :, 2])
            cut = front[:, None] + share[..., None] * (behind[None] - front[:, None])
            front = np.concatenate([front, cut.reshape(-1, 3)])
        focal, centre = np.diag(self.intrinsics)[:2], self.intrinsics[:2, 2]
        pixels = front[:, :2] / front[:, 2:] * focal + centre
        limit = np.array([self.size[1], self.size[0]])
        low = np.clip(np.floor(pixels.min(axis=0)), 0, limit).astype(int)
        high = np.clip(np.ceil(pixels.max(axis=0)) + 1, 0, limit).astype(int)
        if (low >= high).any():
            return None
        return slice(low[1], high[1]), slice(low[0], high[0])
