"""The colours of a made-up street: one routine for each material, from where on the surface a pixel looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tiekd_cache.data.synthetic_cast import Material
from tiekd_cache.data.synthetic_noise import FloatArray, IntArray, hash_unit, sample_noise
from tiekd_cache.data.synthetic_street import PLOT_M, Street


@dataclass(frozen=True)
class Patch:
    """All pixels of one material.

    Attributes:
        point, normal: [3,N] world position (metres) and unit normal.
        local: [3,N] metres from the low corner of the body's bounding box.
        size: [3,N] metres, extent of that box.
        step: [N] metres per pixel on a surface that faces the camera.
        slant: [N] how many times longer that gets along the slanted direction, >= 1.
        colour: [3,N] the body's own colour, linear.
        params: [6,N] the numbers of its look.
        body: [N] its index.
    """

    point: FloatArray
    normal: FloatArray
    local: FloatArray
    size: FloatArray
    step: FloatArray
    slant: FloatArray
    colour: FloatArray
    params: FloatArray
    body: IntArray

    @property
    def along(self) -> FloatArray:
        """[N] metres along the wall: z on walls that run with the street, x on those across it."""
        along: FloatArray = np.where(np.abs(self.normal[0]) > 0.5, self.point[2], self.point[0])
        return along

    def grain(self, cell_m: float) -> FloatArray:
        """[N] noise with details of `cell_m` metres, fading to 0 where a pixel covers several of them."""
        noise = sample_noise((self.along + 0.37 * self.body) / cell_m, self.point[1] / cell_m)
        return noise * np.clip(2.5 * cell_m / (self.step * self.slant), 0, 1)


def linear(colour: FloatArray) -> FloatArray:
    """sRGB values 0..1 -> linear, with the plain power 2.2."""
    return colour ** np.float32(2.2)


def band(value: FloatArray, low: FloatArray | float, high: FloatArray | float, step: FloatArray) -> FloatArray:
    """Share of a pixel of width `step` around `value` that lies between low and high: an edge without stairs."""
    return np.clip((value - low) / step + 0.5, 0, 1) * np.clip((high - value) / step + 0.5, 0, 1)


def _blend(base: FloatArray, over: FloatArray | float, share: FloatArray) -> FloatArray:
    return base + (over - base) * share


def _ground(patch: Patch, street: Street) -> FloatArray:
    """Asphalt with patches, wheel tracks and markings between the kerbs; grass outside."""
    x, z = patch.point[0], patch.point[2]
    step = patch.step
    step_z = step * np.maximum(patch.params[5], 1.0)
    fine = sample_noise(x / 0.012, z / 0.012) * np.clip(0.06 / step, 0, 1) * np.clip(0.15 / step_z, 0, 1)
    coarse = sample_noise(x / 0.05, z / 0.2) * np.clip(1.5 / step_z, 0, 1)
    repair = hash_unit(np.floor(x / 2.3).astype(np.int32), np.floor(z / 7).astype(np.int32))
    tone = 1 + 0.16 * fine + 0.04 * coarse - 0.18 * (repair < 0.07) + 0.1 * (repair > 0.95)
    tone -= 0.08 * np.exp(-(((np.abs(x) - 0.75) / 0.25) ** 2))
    road = linear(np.float32(street.asphalt) * np.ones(3, np.float32))[:, None] * np.maximum(tone, 0.2)
    wear = np.clip(0.8 + 0.12 * sample_noise(x / 0.02, z / 0.04), 0.3, 1)
    road = _blend(road, 0.62, _markings(x, z, step, step_z, street) * wear)
    blade = sample_noise(x / 0.015, z / 0.03) * np.clip(0.1 / step_z, 0.15, 1)
    field = sample_noise(x / 0.08, z / 0.08)
    meadow = np.array([0.075, 0.115, 0.03], np.float32)[:, None] * np.maximum(1 + 0.25 * blade + 0.2 * field, 0.2)
    on_road = (x > -street.left) & (x < street.right)
    return np.where(on_road, road, meadow)


def _markings(x: FloatArray, z: FloatArray, step: FloatArray, step_z: FloatArray, street: Street) -> FloatArray:
    """[N] share of each pixel that is painted: lane lines, the line of the parking strip, zebra crossings."""
    on = band(z % 9.0, 0.0, 3.5, step_z)
    line = -street.lane / 2
    painted = band(x, line - 0.07, line + 0.07, step) * (on if street.dashed else 1.0)
    for number in range(1, street.oncoming):
        line = -street.lane * (0.5 + number)
        painted = np.maximum(painted, band(x, line - 0.07, line + 0.07, step) * on)
    if street.parking:
        line = street.lane / 2 + 0.15
        painted = np.maximum(painted, band(x, line - 0.06, line + 0.06, step) * band(z % 2.0, 0.0, 1.0, step_z))
    plot = np.floor(z / PLOT_M).astype(np.int32)
    crossing = hash_unit(plot, np.full_like(plot, street.seed % (1 << 31))) < 0.12
    stripes = band(x % 1.0, 0.0, 0.5, step) * band(z - plot * np.float32(PLOT_M), 8.0, 11.0, step_z)
    share: FloatArray = np.maximum(painted, stripes * crossing)
    return share


def _backdrop(patch: Patch, street: Street) -> FloatArray:
    """Far trees: green, darker below, blotched."""
    blotch = sample_noise(patch.along / 0.25, patch.point[1] / 0.2)
    shade = np.clip(0.55 - patch.point[1] / 20, 0.4, 1.2) * np.maximum(1 + 0.3 * blotch, 0.2)
    trees: FloatArray = np.array([0.06, 0.085, 0.04], np.float32)[:, None] * shade
    return trees


def _plain(patch: Patch, street: Street) -> FloatArray:
    painted: FloatArray = patch.colour * np.maximum(1 + 0.05 * patch.grain(0.02), 0.2)
    return painted


def _pavement(patch: Patch, street: Street) -> FloatArray:
    """Square slabs with dark joints behind a row of light kerb stones."""
    x, z = patch.point[0], patch.point[2]
    step_z = patch.step * patch.slant
    joint = np.maximum(1 - band(x % 0.5, 0.02, 0.5, patch.step), 1 - band(z % 0.5, 0.02, 0.5, step_z))
    slab = hash_unit(np.floor(x / 0.5).astype(np.int32), np.floor(z / 0.5).astype(np.int32)) - 0.5
    fade = np.clip(0.5 / step_z, 0, 1)
    dirt = 0.1 * sample_noise(x / 0.03, z / 0.03) * fade
    colour = patch.colour * (1 + 0.15 * slab * fade + dirt) * (1 - 0.35 * joint * fade)
    kerb = np.abs(x - patch.params[0]) < 0.18
    stone = patch.colour * 1.25 * (1 - 0.4 * (1 - band(z % 1.0, 0.02, 1.0, step_z)) * fade + dirt)
    return np.maximum(np.where(kerb, stone, colour), 0.01)


def _facade(patch: Patch, street: Street) -> FloatArray:
    """Plaster with rows of framed windows; a darker base; doors on the ground floor."""
    storey, bay, wide, tall, base_tone, seed = patch.params
    along = np.where(np.abs(patch.normal[0]) > 0.5, patch.local[2], patch.local[0])
    up = patch.size[1] - patch.local[1]
    extent = np.where(np.abs(patch.normal[0]) > 0.5, patch.size[2], patch.size[0])
    bays = np.maximum(np.floor(extent / bay), 1)
    width = extent / bays
    column, row = np.floor(along / width).astype(np.int32), np.floor(up / storey).astype(np.int32)
    u, v = along / width - column, up / storey - row
    wall = patch.colour * np.maximum(1 + 0.08 * patch.grain(0.02) + 0.06 * patch.grain(0.3), 0.3)
    wall = wall * np.where(up < 0.6 + 0.4 * storey * (base_tone < 0.7), base_tone, 1.0)
    key = (seed.astype(np.int32), column, row)
    door = (row == 0) & (hash_unit(*key) < 0.16)
    low, high = np.where(door, 0.0, 0.5 - tall * 0.45), np.where(door, 0.72, 0.5 + tall * 0.55)
    step_u, step_v = patch.step * 1.5 / width, patch.step / storey
    inside = (row < np.floor(patch.size[1] / storey)) & (np.abs(patch.normal[1]) < 0.5)
    frame = band(u, 0.5 - wide / 2 - 0.04, 0.5 + wide / 2 + 0.04, step_u) * band(v, low - 0.03, high + 0.03, step_v)
    pane = band(u, 0.5 - wide / 2, 0.5 + wide / 2, step_u) * band(v, low, high, step_v)
    cross = 1 - band(np.abs(u - 0.5), 0.015, 1.0, step_u)
    dim = hash_unit(*key, patch.body)
    sheen = 0.05 + 0.25 * np.clip(v - 0.3 * dim, 0, 1) * (dim > 0.35)
    glass = np.stack([sheen * 0.8, sheen * 0.95, sheen * 1.1]) + 0.3 * (dim > 0.88)
    glass = np.where(door, patch.colour[::-1] * 0.25, glass)
    painted = _blend(wall, 0.55, frame * inside)
    painted = _blend(painted, glass, pane * inside)
    return _blend(painted, 0.5, pane * cross * inside * (1 - door))


def _roof(patch: Patch, street: Street) -> FloatArray:
    """Rows of tiles."""
    rows = 0.5 + 0.5 * np.sin(patch.point[1] / 0.2 * 2 * np.pi)
    fade = np.clip(0.08 / (patch.step * patch.slant), 0, 1) ** 2
    tiles: FloatArray = patch.colour * np.maximum(1 + 0.25 * (rows - 0.5) * fade + 0.15 * patch.grain(0.04), 0.2)
    return tiles


def _brick(patch: Patch, street: Street) -> FloatArray:
    """Bricks of 25 x 8 cm in staggered courses."""
    course = np.floor(patch.point[1] / 0.08).astype(np.int32)
    shifted = patch.along / 0.25 + 0.5 * (course & 1)
    tint = hash_unit(np.floor(shifted).astype(np.int32), course) - 0.5
    joint = np.maximum(shifted % 1 < 0.06, patch.point[1] % 0.08 < 0.012)
    fade = np.clip(0.05 / (patch.step * patch.slant), 0, 1) ** 2
    colour = patch.colour * np.maximum(1 + 0.4 * tint * fade + 0.15 * patch.grain(0.1), 0.2)
    return _blend(colour, 0.3, joint * 0.6 * fade)


def _wood(patch: Patch, street: Street) -> FloatArray:
    """Upright boards of 12 cm with dark gaps."""
    board = patch.along / 0.12
    tint = hash_unit(np.floor(board).astype(np.int32), patch.body) - 0.5
    fade = np.clip(0.06 / (patch.step * patch.slant), 0, 1) ** 2
    colour = patch.colour * np.maximum(1 + 0.45 * tint * fade + 0.15 * patch.grain(0.02), 0.2)
    return colour * (1 - 0.7 * (board % 1 < 0.1) * fade)


def _leaves(patch: Patch, street: Street) -> FloatArray:
    """Leaves: strong contrast from clumps down to single ones, darker deep inside and below."""
    x, y, z = patch.point
    # two slanted samplings: where one is stretched by the surface's direction, the other is not
    noise = sample_noise((x + 0.6 * z) / 0.02, (y + 0.5 * z) / 0.02)
    noise = 0.7 * (noise + sample_noise((x - 0.7 * z) / 0.02, (y - 0.4 * z) / 0.02))
    noise *= np.clip(0.12 / patch.step, 0.35, 1)
    clump = sample_noise((x - z) / 0.09, (y + x) / 0.09)
    height = np.clip(1 - patch.local[1] / np.maximum(patch.size[1], 0.1), 0, 1)
    tone = np.maximum(0.55 + 0.65 * height + 0.34 * noise + 0.22 * clump, 0.12)
    warm = 1 + np.float32(0.15) * noise * np.array([1, 0.4, -0.5], np.float32)[:, None]
    leaves: FloatArray = patch.colour * tone * np.maximum(warm, 0.3)
    return leaves


def _car_body(patch: Patch, street: Street) -> FloatArray:
    """Paint with a dark sill, door gaps, lamps red behind and white in front, and a number plate."""
    heading = patch.params[0]
    across = np.abs(patch.local[0] / patch.size[0] - 0.5)
    up = 1 - patch.local[1] / patch.size[1]
    along = patch.local[2] / patch.size[2]
    side = np.abs(patch.normal[0]) > 0.7
    front = np.where(heading > 0, along, 1 - along) > 0.5
    end = ~side & (np.abs(patch.normal[2]) > 0.3)
    colour = patch.colour * np.maximum(1 + 0.04 * patch.grain(0.05), 0.5)
    gap = np.abs(np.abs(along - 0.5) - 0.18) * patch.size[2] < np.maximum(0.012, patch.step)
    colour = np.where((side & gap & (up > 0.15)) | (up < 0.08), colour * 0.35, colour)
    bumper = end & (up < 0.38)
    colour = np.where(bumper, colour * 0.7 + 0.01, colour)
    lamps = end & (across > 0.33) & (up > 0.55) & (up < 0.86)
    red, white = (np.array(c, np.float32)[:, None] for c in ((0.45, 0.02, 0.02), (0.75, 0.75, 0.7)))
    colour = np.where(lamps, np.where(front, white, red), colour)
    grille = end & front & (across < 0.3) & (up > 0.42) & (up < 0.68)
    colour = np.where(grille, 0.02, colour)
    plate = end & (across < 0.15) & (up > np.where(front, 0.2, 0.55)) & (up < np.where(front, 0.36, 0.72))
    return np.where(plate, 0.6, colour)


def _car_cabin(patch: Patch, street: Street) -> FloatArray:
    """Windows between pillars of the body's colour; the roof is paint."""
    up = 1 - patch.local[1] / patch.size[1]
    side = np.abs(patch.normal[0]) > 0.7
    across = np.abs(patch.local[0] / patch.size[0] - 0.5)
    along = np.abs(patch.local[2] / patch.size[2] - 0.5)
    lean = 0.12 * up
    pillar = np.where(side, (along < 0.02) | (along > 0.42 - lean), across > 0.46 - lean)
    blind = (patch.params[1] > 0.5) & side & (patch.local[2] / patch.size[2] * patch.params[0] < 0.6)
    roof = (patch.normal[1] < -0.8) | (up > 0.88) | (up < 0.05)
    glass = np.array([0.018, 0.022, 0.026], np.float32)[:, None] * (1 + 2.5 * np.clip(up, 0, 1))
    return np.where(roof | pillar | blind, patch.colour, glass)


def _wheel(patch: Patch, street: Street) -> FloatArray:
    """A bright rim inside dark rubber."""
    radius = np.hypot(patch.local[1] - patch.size[1] / 2, patch.local[2] - patch.size[2] / 2)
    rim = (np.abs(patch.normal[0]) > 0.7) & (radius < 0.2)
    spoke = np.cos(5 * np.arctan2(patch.local[1] - patch.size[1] / 2, patch.local[2] - patch.size[2] / 2)) > -0.2
    return np.where(rim, np.where(spoke, 0.3, 0.04), patch.colour)


PAINTERS: dict[Material, Callable[[Patch, Street], FloatArray]] = {
    Material.GROUND: _ground,
    Material.BACKDROP: _backdrop,
    Material.PLAIN: _plain,
    Material.PAVEMENT: _pavement,
    Material.FACADE: _facade,
    Material.ROOF: _roof,
    Material.BRICK: _brick,
    Material.WOOD: _wood,
    Material.HEDGE: _leaves,
    Material.FOLIAGE: _leaves,
    Material.CAR_BODY: _car_body,
    Material.CAR_CABIN: _car_cabin,
    Material.WHEEL: _wheel,
}
