"""Shadows of a made-up street on its ground: a map from above, drawn by projecting every body along the sun's rays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from tiekd_cache.data.synthetic_camera import Matrix
from tiekd_cache.data.synthetic_cast import Body, Material, Quadric, Solid
from tiekd_cache.data.synthetic_noise import FloatArray, sample_noise

_CELL_M = 0.1
_HALF_WIDTH_M = 28.0
_BEHIND_M = 4.0
_AHEAD_M = 110.0
_LARGE = (Material.FACADE, Material.ROOF)
_CARS = (Material.CAR_BODY, Material.WHEEL)


@dataclass(frozen=True)
class Shadows:
    """How much light reaches the ground, seen from above.

    Attributes:
        first_z: z of the first row, metres.
        sun: [R,C] share of direct sunlight that arrives, 0..1.
        sun_past_houses: the same where only buildings cast shadows: for what stands on the ground itself.
        sky: [R,C] share of the sky's light; small under cars.
    """

    first_z: float
    sun: FloatArray
    sun_past_houses: FloatArray
    sky: FloatArray

    def at(self, table: FloatArray, x: FloatArray, z: FloatArray) -> FloatArray:
        """The table's value at ground points x, z (metres); its border continues outside."""
        column = np.clip((x + _HALF_WIDTH_M) / _CELL_M, 0, table.shape[1] - 1).astype(np.int32)
        row = np.clip((z - self.first_z) / _CELL_M, 0, table.shape[0] - 1).astype(np.int32)
        picked: FloatArray = table[row, column]
        return picked


def cast_shadows(bodies: Sequence[Body], to_sun: Matrix, camera_z: float) -> Shadows:
    """Shadow maps of the bodies for a sun in direction `to_sun` [3] (unit, y < 0)."""
    shape = (int((_BEHIND_M + _AHEAD_M) / _CELL_M), int(2 * _HALF_WIDTH_M / _CELL_M))
    large, small, leaves, under = (np.zeros(shape, np.uint8) for _ in range(4))
    origin = np.array([-_HALF_WIDTH_M, camera_z - _BEHIND_M])
    for body in bodies:
        points = _outline_points(body)
        material = body.look.material
        if material == Material.PAVEMENT:
            continue
        layer = large if material in _LARGE else leaves if material == Material.FOLIAGE else small
        _fill(layer, points - to_sun * (points[:, 1:2] / to_sun[1]), origin)
        if material in _CARS:
            _fill(under, points, origin)
    past_houses = 1 - cv2.blur(large.astype(np.float32), (3, 3))
    rows, columns = np.indices(shape)
    gaps = 0.72 + 0.2 * sample_noise(columns / 0.6, rows / 0.6)
    crowns = cv2.blur(leaves * np.clip(gaps, 0, 1).astype(np.float32), (3, 3))
    sun = past_houses * (1 - cv2.blur(small.astype(np.float32), (3, 3))) * (1 - crowns)
    sky = 1 - 0.75 * cv2.blur(under.astype(np.float32), (7, 7))
    return Shadows(float(origin[1]), np.asarray(sun), np.asarray(past_houses), np.asarray(sky))


def _outline_points(body: Body) -> Matrix:
    """[P,3] points whose convex hull is (nearly) the body, metres."""
    if isinstance(body, Solid):
        return body.vertices
    return _quadric_points(body)


def _quadric_points(body: Quadric) -> Matrix:
    turn = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    ring = np.stack([np.cos(turn), np.zeros_like(turn), np.sin(turn)], axis=1)
    if np.isinf(body.radii[1]):
        radii = np.array([body.radii[0], 0.0, body.radii[2]])
        top, bottom = ([0.0, y, 0.0] for y in body.y_range)
        return np.concatenate([body.centre + ring * radii + top, body.centre + ring * radii + bottom])
    heights = (-1.5, -0.9, -0.3, 0.3, 0.9, 1.5)
    levels = [np.cos(angle) * ring + [0, np.sin(angle), 0] for angle in heights]
    return np.concatenate([body.centre + body.radii * level for level in levels])


def _fill(layer: npt.NDArray[np.uint8], points: Matrix, origin: Matrix) -> None:
    """Set the cells inside the convex hull of ground points [P,3] to 1."""
    cells = (points[:, [0, 2]] - origin) / _CELL_M
    if cells[:, 1].max() < 0 or cells[:, 1].min() > layer.shape[0]:
        return
    hull = cv2.convexHull(np.round(np.clip(cells, -2000, 4000) * 16).astype(np.int32))
    cv2.fillConvexPoly(layer, hull, (1,), lineType=cv2.LINE_8, shift=4)
