"""The things that stand along a made-up street: cars, houses, trees, lamps, signs, walls; sizes in metres."""

from __future__ import annotations

import numpy as np

from tiekd_cache.data.synthetic_cast import Body, Look, Material, box, cylinder, ellipsoid, frustum, prism

Colour = tuple[float, float, float]

PAINTS: tuple[Colour, ...] = (
    (0.78, 0.79, 0.80),
    (0.60, 0.62, 0.64),
    (0.92, 0.92, 0.90),
    (0.13, 0.13, 0.14),
    (0.22, 0.24, 0.28),
    (0.55, 0.08, 0.07),
    (0.10, 0.19, 0.42),
    (0.12, 0.28, 0.20),
    (0.62, 0.52, 0.36),
)
PLASTERS: tuple[Colour, ...] = (
    (0.84, 0.81, 0.74),
    (0.77, 0.70, 0.57),
    (0.72, 0.72, 0.70),
    (0.56, 0.38, 0.32),
    (0.46, 0.52, 0.60),
    (0.70, 0.57, 0.46),
    (0.90, 0.89, 0.86),
    (0.52, 0.50, 0.46),
    (0.60, 0.63, 0.55),
)
TILES: tuple[Colour, ...] = ((0.46, 0.28, 0.22), (0.35, 0.25, 0.22), (0.27, 0.27, 0.29))
LEAVES: tuple[Colour, ...] = ((0.24, 0.34, 0.13), (0.17, 0.28, 0.11), (0.33, 0.38, 0.14), (0.46, 0.34, 0.15))
_BARK: Colour = (0.27, 0.22, 0.17)
_STEEL: Colour = (0.45, 0.47, 0.48)
_RUBBER: Colour = (0.06, 0.06, 0.065)


def vary(colour: Colour, rng: np.random.Generator, by: float = 0.06) -> Colour:
    """A colour near this one, sRGB 0..1."""
    r, g, b = np.clip(np.asarray(colour) * (1 + rng.uniform(-by, by) + rng.uniform(-by, by, 3) / 3), 0.02, 0.98)
    return float(r), float(g), float(b)


def pick(palette: tuple[Colour, ...], rng: np.random.Generator) -> Colour:
    """One of the palette's colours, slightly varied."""
    return vary(palette[int(rng.integers(len(palette)))], rng)


def car(x: float, z: float, heading: float, rng: np.random.Generator, *, wheels: bool = True) -> list[Body]:
    """A car (or, one time in eight, a van) whose middle stands at (x, z).

    Args:
        heading: +1 drives away from the camera (its tail is seen), -1 towards it.
        wheels: whether to build the four wheels, which far cars do not need.
    """
    van = bool(rng.random() < 0.125)
    estate = bool(rng.random() < 0.45)
    half = rng.uniform(2.4, 2.9) if van else rng.uniform(1.95, 2.3)
    width = rng.uniform(0.93, 1.0) if van else rng.uniform(0.84, 0.91)
    top = rng.uniform(1.9, 2.4) if van else rng.uniform(1.4, 1.58)
    belt = 0.52 * top if van else 0.61 * top
    paint = vary((0.9, 0.9, 0.9), rng) if van and rng.random() < 0.6 else pick(PAINTS, rng)

    def at(along: float) -> float:
        return z + heading * along

    profile = [
        (-0.24, at(-half)),
        (-0.45 * belt, at(-half - 0.06)),
        (-belt, at(-half + 0.06)),
        (-belt, at(half - (0.55 if van else 1.0))),
        (-0.80 * belt, at(half - 0.1)),
        (-0.45 * belt, at(half + 0.05)),
        (-0.24, at(half - 0.02)),
    ]
    body_look = Look(Material.CAR_BODY, paint, (heading,))
    cabin_look = Look(Material.CAR_CABIN, paint, (heading, float(van)))
    rear_foot, rear_roof = (-half + 0.08, -half + (0.15 if van else 0.45 if estate else 1.0))
    front_foot, front_roof = (half - (0.6 if van else 1.15), half - (1.0 if van else 1.95))
    foot = sorted((at(rear_foot), at(front_foot)))
    roof = sorted((at(rear_roof), at(front_roof)))
    lean = 0.06 if van else 0.2
    cabin_low, cabin_high = (x - width + 0.004, -top, foot[0]), (x + width - 0.004, -belt + 0.02, foot[1])
    cabin_top = (x - width + lean, x + width - lean, roof[0], roof[1])
    bodies: list[Body] = [
        prism(profile, 0, x - width, x + width, body_look),
        frustum(cabin_low, cabin_high, cabin_top, cabin_look),
    ]
    if wheels:
        bodies += _wheels(x, width, (at(-half + 0.75), at(half - 0.85)))
    return bodies


def _wheels(x: float, half_width: float, axles: tuple[float, float]) -> list[Body]:
    radius, count = 0.32, 10
    angles = 2 * np.pi * np.arange(count) / count
    look = Look(Material.WHEEL, _RUBBER)
    wheels: list[Body] = []
    for axle in axles:
        rim = [(float(-radius + radius * np.sin(a)), float(axle + radius * np.cos(a))) for a in angles]
        for low in (x - half_width - 0.02, x + half_width - 0.2):
            wheels.append(prism(rim, 0, low, low + 0.22, look))
    return wheels


def house(side: int, front_x: float, z: tuple[float, float], floors: int, rng: np.random.Generator) -> list[Body]:
    """A building with windows, its front at `front_x`, on the side -1 (left) or +1 (right); gabled or flat."""
    storey = rng.uniform(2.8, 3.4)
    height = floors * storey + rng.uniform(0.3, 0.9)
    depth = rng.uniform(8.0, 13.0)
    far_x = front_x + side * depth
    plaster = pick(PLASTERS, rng)
    windows = (storey, rng.uniform(2.0, 3.6), rng.uniform(0.34, 0.55), rng.uniform(0.42, 0.58), rng.uniform(0.55, 1.0))
    low, high = (min(front_x, far_x), -height, z[0]), (max(front_x, far_x), 0.0, z[1])
    bodies: list[Body] = [box(low, high, Look(Material.FACADE, plaster, (*windows, float(rng.integers(1 << 16)))))]
    eaves = 0.35
    if floors <= 3 and rng.random() < 0.75:
        tiles = Look(Material.ROOF, pick(TILES, rng))
        ridge = -height - rng.uniform(0.3, 0.5) * depth
        if rng.random() < 0.5:  # ridge along the street
            middle = (low[0] + high[0]) / 2
            gable = [(low[0] - eaves, -height), (middle, ridge), (high[0] + eaves, -height)]
            bodies.append(prism(gable, 2, z[0] - eaves / 2, z[1] + eaves / 2, tiles))
        else:
            middle = (z[0] + z[1]) / 2
            gable = [(-height, z[0] - eaves / 2), (ridge, middle), (-height, z[1] + eaves / 2)]
            bodies.append(prism(gable, 0, low[0] - eaves, high[0] + eaves, tiles))
    else:
        edge = Look(Material.PLAIN, vary((0.42, 0.41, 0.40), rng, 0.2))
        outer_low, outer_high = (low[0] - eaves, -height - 0.35, z[0] - 0.1), (high[0] + eaves, -height, z[1] + 0.1)
        bodies.append(box(outer_low, outer_high, edge))
    return bodies


def tree(x: float, z: float, rng: np.random.Generator) -> list[Body]:
    """A trunk and a crown of four to seven ragged ellipsoids; rarely a poplar of three."""
    leaves = pick(LEAVES, rng)
    slender = bool(rng.random() < 0.2)
    trunk = rng.uniform(1.8, 3.2)
    crown = rng.uniform(1.0, 1.4) if slender else rng.uniform(1.5, 2.7)
    rise = crown * (3.0 if slender else 0.95)
    bodies: list[Body] = [cylinder(x, z, rng.uniform(0.1, 0.24), trunk + 0.5 * rise, Look(Material.PLAIN, _BARK))]
    blobs = 3 if slender else int(rng.integers(4, 8))
    for _ in range(blobs):
        offset = rng.normal(0, 0.42, 3) * (crown, rise * 0.8, crown)
        centre = np.array([x, -trunk - rise, z]) + offset
        radii = rng.uniform(0.55, 0.85, 3) * (crown, rise, crown)
        look = Look(Material.FOLIAGE, vary(leaves, rng, 0.12), (trunk + rise,))
        bodies.append(ellipsoid(centre, radii, float(rng.uniform(0.5, 0.8)), look))
    return bodies


def bush(x: float, z: float, rng: np.random.Generator) -> list[Body]:
    """One low ragged ellipsoid."""
    size = rng.uniform(0.5, 1.1)
    look = Look(Material.FOLIAGE, pick(LEAVES, rng), (size,))
    return [ellipsoid((x, -0.55 * size, z), (size, 0.9 * size, size * rng.uniform(0.8, 1.6)), 0.5, look)]


def lamp(x: float, z: float, side: int, rng: np.random.Generator) -> list[Body]:
    """A street lamp whose arm reaches over the road."""
    height = rng.uniform(6.0, 9.0)
    steel = Look(Material.PLAIN, vary(_STEEL, rng, 0.2))
    tip = x - side * rng.uniform(1.2, 2.0)
    arm = box((min(x, tip), -height, z - 0.06), (max(x, tip), -height + 0.12, z + 0.06), steel)
    return [cylinder(x, z, 0.09, height, steel), arm]


def sign(x: float, z: float, rng: np.random.Generator) -> list[Body]:
    """A road sign: a thin pole and a plate that faces the traffic."""
    height, half = rng.uniform(2.2, 3.0), rng.uniform(0.25, 0.4)
    colours: tuple[Colour, ...] = ((0.75, 0.10, 0.10), (0.10, 0.25, 0.65), (0.93, 0.93, 0.93), (0.90, 0.72, 0.12))
    low, high = (x - half, -height, z - 0.05), (x + half, -height + 2 * half, z - 0.02)
    plate = box(low, high, Look(Material.PLAIN, pick(colours, rng)))
    return [cylinder(x, z, 0.045, height, Look(Material.PLAIN, _STEEL)), plate]


def barrier(side: int, x: float, z: tuple[float, float], rng: np.random.Generator) -> list[Body]:
    """A hedge, brick wall or wooden fence along the pavement."""
    kind = int(rng.integers(3))
    material = (Material.HEDGE, Material.BRICK, Material.WOOD)[kind]
    base: Colour = ((0.20, 0.29, 0.11), (0.50, 0.28, 0.20), (0.42, 0.30, 0.20))[kind]
    height, thick = rng.uniform(0.9, 2.1), (0.7, 0.3, 0.08)[kind]
    other = x + side * thick
    look = Look(material, vary(base, rng, 0.15))
    return [box((min(x, other), -height, z[0]), (max(x, other), 0.0, z[1]), look)]
