"""Ray casting of convex solids and quadrics: which surface each pixel sees, and its exact depth.

World frame: x right, y down, z along the street, metres; the ground is the plane y = 0, so heights are negative y.
Rays are scaled so that their camera-frame z is 1: the ray parameter of a hit *is* its depth, with no further rounding.
Each body is tested only inside the rectangle of pixels that its vertices span.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tiekd_cache.data.frame import DepthMap
from tiekd_cache.data.synthetic_camera import Camera, Matrix
from tiekd_cache.data.synthetic_noise import FloatArray, IntArray, sample_noise

SKY = -1
GROUND_BODY = 0
BACKDROP_BODY = 1


class Material(enum.IntEnum):
    """What a body is made of; the shader has one routine for each."""

    GROUND = 0
    BACKDROP = 1
    PLAIN = 2
    PAVEMENT = 3
    FACADE = 4
    ROOF = 5
    BRICK = 6
    WOOD = 7
    HEDGE = 8
    FOLIAGE = 9
    CAR_BODY = 10
    CAR_CABIN = 11
    WHEEL = 12


@dataclass(frozen=True)
class Look:
    """How a body is painted: its material, sRGB colour (0..1) and up to six numbers that the material explains."""

    material: Material
    colour: tuple[float, float, float]
    params: tuple[float, ...] = ()


@dataclass(frozen=True)
class Solid:
    """A convex polyhedron: points p with normals @ p <= offsets.

    Attributes:
        normals: [K,3] outward unit normals.
        offsets: [K] metres.
        vertices: [V,3] metres.
        look: how it is painted.
    """

    normals: Matrix
    offsets: Matrix
    vertices: Matrix
    look: Look


@dataclass(frozen=True)
class Quadric:
    """An ellipsoid, or a vertical cylinder where the y radius is infinite, cut to a range of y.

    Attributes:
        centre: [3] metres.
        radii: [3] metres; `inf` along y makes a cylinder.
        y_range: (top, bottom) metres; y points down, so top < bottom.
        ragged: 0 = smooth outline; up to 1 = leaves are missing near the outline.
        look: how it is painted.
    """

    centre: Matrix
    radii: Matrix
    y_range: tuple[float, float]
    ragged: float
    look: Look

    @property
    def vertices(self) -> Matrix:
        """[8,3] corners of its bounding box, metres."""
        low = self.centre - self.radii
        high = self.centre + self.radii
        low[1], high[1] = max(low[1], self.y_range[0]), min(high[1], self.y_range[1])
        return _corners(low, high)


Body = Solid | Quadric


@dataclass(frozen=True)
class Hits:
    """What every pixel sees.

    Attributes:
        depth: [H,W] float32, metres along the camera's z axis; 0 = sky.
        body: [H,W] int32: SKY, GROUND_BODY, BACKDROP_BODY or 2 + index in the list of bodies.
        face: [H,W] int32: which face of a solid.
    """

    depth: DepthMap
    body: IntArray
    face: IntArray


def box(low: Sequence[float], high: Sequence[float], look: Look) -> Solid:
    """The axis-aligned box between two opposite corners [3], metres."""
    return frustum(low, high, (low[0], high[0], low[2], high[2]), look)


def frustum(low: Sequence[float], high: Sequence[float], top: tuple[float, float, float, float], look: Look) -> Solid:
    """A box whose upper face is the rectangle `top` = (x low, x high, z low, z high) instead, metres."""
    vertices = _corners(np.asarray(low, dtype=float), np.asarray(high, dtype=float))
    vertices[[0, 1, 2, 3], 0] = [top[0], top[0], top[1], top[1]]
    vertices[[0, 1, 2, 3], 2] = [top[2], top[3], top[2], top[3]]
    faces = [[0, 1, 2], [4, 5, 6], [0, 1, 4], [2, 3, 6], [0, 2, 4], [1, 3, 5]]
    return _solid(vertices, faces, look)


def prism(profile: Sequence[tuple[float, float]], axis: int, low: float, high: float, look: Look) -> Solid:
    """A convex polygon drawn in the two other axes (in their order x, y, z), stretched along `axis`."""
    count = len(profile)
    across = [a for a in range(3) if a != axis]
    vertices = np.zeros((2 * count, 3))
    vertices[:count, across] = vertices[count:, across] = profile
    vertices[:count, axis], vertices[count:, axis] = low, high
    sides = [[i, (i + 1) % count, i + count] for i in range(count)]
    return _solid(vertices, [*sides, [0, 1, 2], [count, count + 1, count + 2]], look)


def cylinder(x: float, z: float, radius: float, height: float, look: Look, base: float = 0.0) -> Quadric:
    """An upright cylinder from `base` metres above the road to `base + height`."""
    radii = np.array([radius, np.inf, radius])
    return Quadric(np.array([x, 0.0, z]), radii, (-base - height, -base), 0.0, look)


def ellipsoid(centre: Sequence[float] | Matrix, radii: Sequence[float] | Matrix, ragged: float, look: Look) -> Quadric:
    """An ellipsoid with axes along x, y, z, metres."""
    return Quadric(np.asarray(centre, dtype=float), np.asarray(radii, dtype=float), (-np.inf, np.inf), ragged, look)


def cast(camera: Camera, rays: FloatArray, bodies: Sequence[Body], backdrop: FloatArray, radius_m: float) -> Hits:
    """The nearest surface along every ray: the ground, the bodies, and a ring-shaped backdrop around the camera.

    Args:
        rays: [3,H,W] of `camera.rays()`.
        bodies: in any order; a solid that holds the camera is not seen.
        backdrop: [A] heights in metres of the ring, over azimuths from -pi to pi.
        radius_m: horizontal distance of the ring from the camera.
    """
    ground = -camera.position[1] / np.maximum(rays[1], 1e-9)
    ring = radius_m / np.hypot(rays[0], rays[2])
    azimuth = (np.arctan2(rays[0], rays[2]) / (2 * np.pi) + 0.5) * len(backdrop)
    ring_top = -backdrop[azimuth.astype(np.int32) % len(backdrop)]
    on_ring = (ring < ground) & (camera.position[1] + ring * rays[1] > ring_top)
    depth = np.where(ground <= ring, ground, np.where(on_ring, ring, np.inf)).astype(np.float32)
    body = np.where(ground <= ring, GROUND_BODY, np.where(on_ring, BACKDROP_BODY, SKY)).astype(np.int32)
    hits = Hits(depth, body, np.zeros(camera.size, np.int32))
    for index, thing in enumerate(bodies):
        rectangle = camera.rectangle(thing.vertices)
        if rectangle is None:
            continue
        if isinstance(thing, Solid):
            _cast_solid(camera, rays, thing, index + 2, rectangle, hits)
        else:
            _cast_quadric(camera, rays, thing, index + 2, rectangle, hits)
    hits.depth[hits.body == SKY] = 0.0
    return hits


def _cast_solid(
    camera: Camera, rays: FloatArray, solid: Solid, index: int, rectangle: tuple[slice, slice], hits: Hits
) -> None:
    """Enter into `hits` the pixels where a solid is nearer than what is there."""
    view = rays[:, rectangle[0], rectangle[1]]
    distance = solid.offsets - solid.normals @ camera.position  # < 0: the camera is on the outer side of this face
    if (distance >= 0).all():
        return
    enter = np.zeros(view.shape[1:], np.float32)
    leave = np.full(view.shape[1:], np.inf, np.float32)
    face = np.zeros(view.shape[1:], np.int32)
    for k in range(len(distance)):
        slope = _along(solid.normals[k], view)
        if distance[k] < 0:  # turned towards the camera: a ray can only enter here, and only if it runs inwards
            reach = np.float32(distance[k]) / np.minimum(slope, np.float32(-1e-9))
            face[reach > enter] = k
            np.maximum(enter, reach, out=enter)
        else:
            np.minimum(leave, np.float32(distance[k]) / np.maximum(slope, np.float32(1e-9)), out=leave)
    _keep_nearer(enter, enter <= leave, index, face, rectangle, hits)


def _cast_quadric(
    camera: Camera, rays: FloatArray, quadric: Quadric, index: int, rectangle: tuple[slice, slice], hits: Hits
) -> None:
    """Enter into `hits` the pixels where a quadric is nearer than what is there."""
    view = rays[:, rectangle[0], rectangle[1]]
    weight = 1.0 / quadric.radii**2
    offset = camera.position - quadric.centre
    if offset @ (weight * offset) <= 1.0:
        return  # the camera is inside
    a = np.maximum(_along(weight, view * view), np.float32(1e-12))
    b = _along(weight * offset, view)
    c = np.float32(offset @ (weight * offset) - 1.0)
    root = b * b - a * c
    reach = (-b - np.sqrt(np.maximum(root, 0))) / a
    y = np.float32(camera.position[1]) + reach * view[1]
    seen = (root > 0) & (reach > 0) & (y >= quadric.y_range[0]) & (y <= quadric.y_range[1])
    if quadric.ragged:
        facing = np.sqrt(np.maximum(root, 0) / a)  # 0 at the outline, 1 where the ray passes through the centre
        x = np.float32(camera.position[0]) + reach * view[0]
        z = np.float32(camera.position[2]) + reach * view[2]
        x, y, z = (np.where(seen, axis, np.float32(0)) / np.float32(0.02) for axis in (x, y, z))
        leaves = sample_noise(x + 0.8 * z, y + 0.5 * z) + sample_noise(x - 0.7 * z, y - 0.6 * z)
        seen &= facing > quadric.ragged * (0.5 + 0.25 * leaves)
    _keep_nearer(reach, seen, index, np.zeros(reach.shape, np.int32), rectangle, hits)


def _keep_nearer(
    reach: FloatArray,
    seen: npt.NDArray[np.bool_],
    index: int,
    face: IntArray,
    rectangle: tuple[slice, slice],
    hits: Hits,
) -> None:
    seen = seen & (reach < hits.depth[rectangle])
    hits.depth[rectangle][seen] = reach[seen]
    hits.body[rectangle][seen] = index
    hits.face[rectangle][seen] = face[seen]


def _along(vector: Matrix, view: FloatArray) -> FloatArray:
    """[h,w] inner product of a [3] vector with [3,h,w] rays; components that are 0 cost nothing."""
    total = np.zeros(view.shape[1:], np.float32)
    for value, component in zip(vector, view, strict=True):
        if value:
            total += np.float32(value) * component
    return total


def _corners(low: Matrix, high: Matrix) -> Matrix:
    """[8,3] corners of a box; the four upper ones (lowest y) first, x then z counting up."""
    return np.array([[x, y, z] for y in (low[1], high[1]) for x in (low[0], high[0]) for z in (low[2], high[2])])


def _solid(vertices: Matrix, faces: Sequence[Sequence[int]], look: Look) -> Solid:
    """A solid from its vertices and three corners of each face, normals turned outwards."""
    corners = vertices[np.asarray(faces)]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    offsets = np.einsum("kc,kc->k", normals, corners[:, 0])
    outwards = np.where(normals @ vertices.mean(axis=0) > offsets, -1.0, 1.0)
    return Solid(normals * outwards[:, None], offsets * outwards, vertices, look)
