"""From what each pixel sees to an 8-bit picture: paint, sun and sky light, shadows, haze, exposure, sensor noise."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from tiekd_cache.data.frame import Image
from tiekd_cache.data.synthetic_camera import Camera
from tiekd_cache.data.synthetic_cast import SKY, Body, Hits, Material, Quadric, Solid
from tiekd_cache.data.synthetic_noise import FloatArray, IntArray, sample_noise
from tiekd_cache.data.synthetic_paint import PAINTERS, Patch, linear
from tiekd_cache.data.synthetic_shadow import Shadows, cast_shadows
from tiekd_cache.data.synthetic_street import Light, Street

_SUN_TINT = np.array([1.0, 0.94, 0.84], np.float32)[:, None]
_SKY_TINT = np.array([0.88, 0.96, 1.08], np.float32)[:, None]
_HAZE_TINT = np.array([0.93, 0.96, 1.0], np.float32)[:, None]
_ON_GROUND = (Material.GROUND, Material.PAVEMENT)
_SHADED_BY_HOUSES = (Material.CAR_BODY, Material.CAR_CABIN, Material.WHEEL, Material.PLAIN)
_ROUND = (Material.FOLIAGE, Material.PLAIN)
_LEVEL = np.array([1, 0, 1], np.float32)[:, None]
_GLOSSY = {Material.CAR_BODY: 0.10, Material.CAR_CABIN: 0.13}


def shade(
    street: Street, camera: Camera, rays: FloatArray, bodies: Sequence[Body], hits: Hits, rng: np.random.Generator
) -> Image:
    """[H,W,3] uint8 RGB picture of the hits.

    Args:
        rays: [3,H,W] of `camera.rays()`.
        bodies: the list that was cast.
        rng: for exposure and sensor noise, which differ from frame to frame.
    """
    table = _BodyTable(bodies)
    light = street.light
    shadows = cast_shadows(bodies, light.to_sun, float(camera.position[2]))
    horizon = _HAZE_TINT * np.float32(0.8 * (light.sky + 0.25 * light.sun))
    flat_rays, body = rays.reshape(3, -1), hits.body.reshape(-1)
    depth, face = hits.depth.reshape(-1), hits.face.reshape(-1)
    radiance = np.zeros((body.size, 3), np.float32)
    materials = table.material[body]  # SKY is -1, the last row
    brightness = 0.0
    for material, paint in PAINTERS.items():
        pixels = np.flatnonzero(materials == material)
        if not len(pixels):
            continue
        view = flat_rays.take(pixels, axis=1)
        patch = table.patch(camera, material, view, depth[pixels], body[pixels], face[pixels])
        leaving = _lit(material, paint(patch, street), patch, view, light, shadows)
        haze = np.exp(depth[pixels] / np.float32(-light.haze_m))
        leaving = leaving * haze + horizon * (1 - haze)
        brightness += float(leaving.sum(dtype=np.float64))
        radiance[pixels] = leaving.T
    pixels = np.flatnonzero(body == SKY)
    radiance[pixels] = _sky(flat_rays.take(pixels, axis=1), light).T
    scene_mean = brightness / (3 * max(body.size - len(pixels), 1))
    return _develop(radiance.reshape(*camera.size, 3), scene_mean, rng)


class _BodyTable:
    """The bodies' numbers as arrays for pixels to look up: ground, backdrop, the bodies; for materials also the sky."""

    def __init__(self, bodies: Sequence[Body]) -> None:
        boxes = [body.vertices for body in bodies]
        ground = np.zeros(3)
        self.material = np.array(
            [Material.GROUND, Material.BACKDROP, *(body.look.material for body in bodies), -1], np.int32
        )
        self.low = _columns([ground, ground, *(points.min(axis=0) for points in boxes)])
        high = _columns([ground, ground, *(points.max(axis=0) for points in boxes)])
        self.size = np.maximum(high - self.low, np.float32(1e-3))
        self.colour = linear(_columns([ground, ground, *(np.asarray(body.look.colour) for body in bodies)]))
        params = [(*body.look.params, *[0.0] * (6 - len(body.look.params))) for body in bodies]
        self.params = _columns([np.zeros(6), np.zeros(6), *(np.asarray(row) for row in params)])
        self.is_solid = np.array([False, False, *(isinstance(body, Solid) for body in bodies)])
        faces = max((len(body.normals) for body in bodies if isinstance(body, Solid)), default=1)
        self.normals = np.zeros((3, len(bodies) + 2, faces), np.float32)
        self.centre = np.zeros((3, len(bodies) + 2), np.float32)
        self.weight = np.zeros((3, len(bodies) + 2), np.float32)
        for row, body in enumerate(bodies, start=2):
            if isinstance(body, Quadric):
                self.centre[:, row], self.weight[:, row] = body.centre, 1 / body.radii**2
            else:
                self.normals[:, row, : len(body.normals)] = body.normals.T

    def patch(
        self,
        camera: Camera,
        material: Material,
        view: FloatArray,
        depth: FloatArray,
        body: IntArray,
        face: IntArray,
    ) -> Patch:
        """The pixels with rays `view` [3,N] as one patch."""
        point = camera.position.astype(np.float32)[:, None] + depth * view
        if material == Material.GROUND:
            normal: FloatArray = np.zeros(point.shape, np.float32)
            normal[1] = -1
        elif material == Material.BACKDROP:
            normal = _unit(-view * _LEVEL)
        else:
            normal = self.normals.reshape(3, -1).take(body * self.normals.shape[2] + face, axis=1)
        if material in _ROUND:
            curved = self.weight.take(body, axis=1) * (point - self.centre.take(body, axis=1))
            normal = np.where(self.is_solid[body], normal, _unit(curved))
        facing = np.abs(_dot(normal, view)) / _length(view)
        return Patch(
            point=point,
            normal=normal.astype(np.float32),
            local=point - self.low.take(body, axis=1),
            size=self.size.take(body, axis=1),
            step=depth / np.float32(camera.intrinsics[0, 0]),
            slant=(1 / np.maximum(facing, 1e-3)).astype(np.float32),
            colour=self.colour.take(body, axis=1),
            params=self.params.take(body, axis=1),
            body=body,
        )


def _columns(rows: Sequence[npt.NDArray[np.float64]]) -> FloatArray:
    """[C,N] from N rows of C numbers: one column a body, so that a look-up for many pixels runs along memory."""
    return np.ascontiguousarray(np.array(rows, np.float32).T)


def _dot(a: FloatArray, b: FloatArray) -> FloatArray:
    """[N] inner products of [3,N] with [3,N] or [3,1]; written out because a sum over three rows is slow."""
    product: FloatArray = a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
    return product


def _length(a: FloatArray) -> FloatArray:
    root: FloatArray = np.sqrt(_dot(a, a))
    return root


def _unit(a: FloatArray) -> FloatArray:
    unit: FloatArray = a / np.maximum(_length(a), 1e-12)
    return unit


def _lit(
    material: Material, albedo: FloatArray, patch: Patch, view: FloatArray, light: Light, shadows: Shadows
) -> FloatArray:
    """[3,N] light that leaves the patch towards the camera."""
    x, z = patch.point[0], patch.point[2]
    to_sun = light.to_sun.astype(np.float32)[:, None]
    direct = np.maximum(_dot(patch.normal, to_sun), 0)
    open_sky = 0.6 - 0.4 * patch.normal[1]
    if material in _ON_GROUND:
        direct = direct * shadows.at(shadows.sun, x, z)
        open_sky = open_sky * shadows.at(shadows.sky, x, z)
    elif material in _SHADED_BY_HOUSES:
        shift = -patch.point[1] / to_sun[1]  # where the sun's ray through this point meets the ground
        direct = direct * shadows.at(shadows.sun_past_houses, x + shift * to_sun[0], z + shift * to_sun[2])
    elif material in (Material.FOLIAGE, Material.HEDGE):
        direct = 0.75 * direct + 0.15  # leaves let light through
    leaving = albedo * (light.sun * direct * _SUN_TINT + light.sky * open_sky * _SKY_TINT)
    gloss = _GLOSSY.get(material)
    if gloss is not None:
        mirrored = view - 2 * _dot(view, patch.normal) * patch.normal
        upward = np.clip(-mirrored[1] / _length(mirrored) + 0.1, 0, 1)
        leaving = leaving + gloss * upward * (light.sky + 0.3 * light.sun) * _SKY_TINT
    radiance: FloatArray = leaving.astype(np.float32)
    return radiance


def _sky(view: FloatArray, light: Light) -> FloatArray:
    """[3,N] light of the sky: white at the horizon, bluer above, thin clouds, bright around the sun."""
    unit = _unit(view)
    up = np.clip(-unit[1], 0.01, 1)
    above = np.clip(up / 0.35, 0, 1) ** 0.8 * np.float32(light.blueness)
    cloud = np.clip(0.5 + 0.35 * sample_noise(unit[0] / (up + 0.2) * 160 + 300, unit[2] / (up + 0.2) * 160), 0, 1)
    white = np.ones((3, 1), np.float32)
    blue = np.array([0.30, 0.52, 0.92], np.float32)[:, None]
    colour = white + (blue - white) * above * (1 - 0.6 * cloud)
    toward = np.clip(_dot(unit, light.to_sun.astype(np.float32)[:, None]), 0, 1)
    glow = 0.6 * toward**6 * np.float32(light.sun)
    radiance: FloatArray = (colour * np.float32(1.1 * light.sky + 0.5 * light.sun) + glow).astype(np.float32)
    return radiance


def _develop(radiance: FloatArray, scene_mean: float, rng: np.random.Generator) -> Image:
    """Exposure for the scene without the sky, a lens's slight blur, noise, clipping and gamma."""
    exposure = 0.20 / max(scene_mean, 1e-3) ** 0.85 * rng.uniform(0.8, 1.25)
    picture = cv2.GaussianBlur(np.minimum(radiance * np.float32(exposure), 1.6), (0, 0), 0.6)
    noise = rng.standard_normal(picture.shape, dtype=np.float32)
    picture = picture + noise * np.sqrt(1e-5 + 4e-4 * picture)
    result: Image = _gamma_table()[(np.clip(picture, 0, 1) * 65535).astype(np.uint16)]
    return result


@functools.lru_cache(maxsize=1)
def _gamma_table() -> npt.NDArray[np.uint8]:
    """[65536] 8-bit codes of linear values: a look-up is ten times faster than the power."""
    return np.rint((np.arange(65536) / 65535) ** (1 / 2.2) * 255).astype(np.uint8)
