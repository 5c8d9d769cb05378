"""The layout of a made-up street: endless, built plot by plot from its seed, with traffic that depends on the frame."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from tiekd_cache.data import synthetic_bodies as made
from tiekd_cache.data.synthetic_camera import Matrix
from tiekd_cache.data.synthetic_cast import Body, Look, Material, box
from tiekd_cache.data.synthetic_noise import FloatArray

PLOT_M = 21.0
VIEW_M = 150.0
CAMERA_HEIGHT_M = 1.65
_LOT_M = 7.0  # a third of a plot: one parked car
_WHEELS_WITHIN_M = 45.0
_BEHIND_M = 25.0


@dataclass(frozen=True)
class Light:
    """Sun, sky and air of a street.

    Attributes:
        to_sun: [3] unit vector from the ground to the sun (y < 0).
        sun: strength of direct light; about 2.8 on a clear day, 0.3 under clouds.
        sky: strength of the light from the whole sky.
        haze_m: distance over which 63 % of a surface's colour turns into haze.
        blueness: 0 = white, clouded sky, 1 = blue above.
    """

    to_sun: Matrix
    sun: float
    sky: float
    haze_m: float
    blueness: float


@dataclass(frozen=True)
class Side:
    """One side of a street: style of its plots and distances from the kerb outwards, metres."""

    style: str
    pavement: float
    setback: float
    parked: float
    trees: float


@dataclass(frozen=True)
class Street:
    """What stays the same along one street, drawn from its seed.

    Attributes:
        seed: any integer >= 0.
        lane: width of a lane, metres; the camera's own lane is centred on x = 0.
        left, right: distances of the two kerbs from x = 0, metres.
        parking: width of the parking strip on the right, metres, 0 = none.
        oncoming: number of oncoming lanes on the left.
        dashed: whether the lane line is broken.
        asphalt: sRGB grey of the road.
        sides: the left and the right side.
        light: sun, sky and air.
        speed: metres that the camera moves from one frame to the next.
        mount: (pitch, yaw, roll) of the camera on the car, radians.
        backdrop: [A] heights of the ring of far trees and houses, metres.
    """

    seed: int
    lane: float
    left: float
    right: float
    parking: float
    oncoming: int
    dashed: bool
    asphalt: float
    sides: tuple[Side, Side]
    light: Light
    speed: float
    mount: tuple[float, float, float]
    backdrop: FloatArray = field(repr=False)


def make_street(seed: int) -> Street:
    """The street of a seed: the same in every process."""
    rng = np.random.default_rng([seed, 1])
    lane = float(rng.uniform(2.9, 3.6))
    oncoming = int(rng.choice([1, 1, 1, 2]))
    strip = (2.2, 2.2)
    parking = [float(width * (rng.random() < 0.6)) for width in strip]
    sides = (_make_side(rng, parking[0]), _make_side(rng, parking[1]))
    mount = np.radians([rng.normal(0, 0.5), rng.normal(0, 1.2), rng.normal(0, 0.35)])
    return Street(
        seed=seed,
        lane=lane,
        left=lane / 2 + oncoming * lane + parking[0] + float(rng.uniform(0.2, 0.7)),
        right=lane / 2 + parking[1] + float(rng.uniform(0.2, 0.7)),
        parking=parking[1],
        oncoming=oncoming,
        dashed=bool(rng.random() < 0.7),
        asphalt=float(rng.uniform(0.34, 0.48)),
        sides=sides,
        light=_make_light(rng),
        speed=float(rng.uniform(1.0, 2.0)),
        mount=(float(mount[0]), float(mount[1]), float(mount[2])),
        backdrop=_make_backdrop(rng),
    )


def _make_side(rng: np.random.Generator, parking: float) -> Side:
    style = str(rng.choice(["urban", "houses", "houses", "park"]))
    setback = {"urban": rng.uniform(0.0, 1.0), "houses": rng.uniform(3.0, 7.0), "park": rng.uniform(1.0, 4.0)}[style]
    parked = float(rng.uniform(0.3, 0.9)) if parking else 0.0
    return Side(style, float(rng.uniform(1.4, 3.0)), float(setback), parked, float(rng.choice([0.0, 0.15, 0.4])))


def _make_light(rng: np.random.Generator) -> Light:
    clear = bool(rng.random() < 0.75)
    elevation, azimuth = np.radians(rng.uniform(24, 58)), rng.uniform(-np.pi, np.pi)
    to_sun = np.array([np.cos(elevation) * np.sin(azimuth), -np.sin(elevation), np.cos(elevation) * np.cos(azimuth)])
    if clear:
        strengths = (float(rng.uniform(2.4, 3.2)), float(rng.uniform(0.4, 0.6)))
    else:
        strengths = (float(rng.uniform(0.1, 0.5)), float(rng.uniform(1.1, 1.4)))
    blueness = float(rng.uniform(0.3, 1.0)) if clear else float(rng.uniform(0.0, 0.15))
    return Light(to_sun, *strengths, haze_m=float(rng.uniform(400, 1500)), blueness=blueness)


def _make_backdrop(rng: np.random.Generator) -> FloatArray:
    """[8192] heights of the skyline, metres: tree tops everywhere, with a few flat roofs among them."""
    count = 8192
    steps = np.arange(count) / count * 2 * np.pi
    height = np.full(count, rng.uniform(7.0, 11.0))
    for wave in (5, 11, 23, 47, 97, 151, 290, 611, 1203, 2111):
        height += rng.uniform(0.5, 1.6) * (6 / (6 + wave)) ** 0.4 * np.sin(wave * steps + rng.uniform(0, 2 * np.pi))
    for _ in range(14):
        start, width = int(rng.integers(count)), int(rng.integers(40, 180))
        height[start : start + width] = rng.uniform(8, 20)
    skyline: FloatArray = np.clip(height, 3.0, 22.0).astype(np.float32)
    return skyline


def bodies_around(street: Street, camera_z: float, index: int) -> list[Body]:
    """Everything within sight of a camera at `camera_z` metres along the street, in frame `index`."""
    first = int(np.floor((camera_z - _BEHIND_M) / PLOT_M))
    last = int(np.floor((camera_z + VIEW_M) / PLOT_M))
    bodies: list[Body] = []
    for plot in range(first, last + 1):
        rng = np.random.default_rng([street.seed, 2, plot + (1 << 20)])
        for which, side in enumerate((-1, 1)):
            bodies += _plot(street, side, street.sides[which], plot * PLOT_M, camera_z, rng)
    return bodies + _traffic(street, camera_z, index)


def _plot(street: Street, side: int, plan: Side, z: float, camera_z: float, rng: np.random.Generator) -> list[Body]:
    """One side of one plot: pavement, what lies behind it, and what stands or is parked at the kerb."""
    kerb = side * (street.left if side < 0 else street.right)
    back = kerb + side * plan.pavement
    stone = Look(Material.PAVEMENT, made.vary((0.52, 0.50, 0.48), np.random.default_rng([street.seed, 3])), (kerb,))
    bodies: list[Body] = [box((min(kerb, back), -0.12, z), (max(kerb, back), 0.0, z + PLOT_M), stone)]
    style = plan.style if rng.random() < 0.75 else str(rng.choice(["urban", "houses", "park"]))
    bodies += {"urban": _urban, "houses": _houses, "park": _park}[style](side, back, plan.setback, z, rng)
    for lot in range(int(PLOT_M / _LOT_M)):
        middle = z + (lot + 0.5) * _LOT_M
        spot = np.random.default_rng([street.seed, 4, int(middle * 2) + (1 << 20), side + 1])
        if spot.random() < plan.parked:
            x = kerb - side * (1.12 + spot.uniform(-0.1, 0.12))
            near = abs(middle - camera_z) < _WHEELS_WITHIN_M
            heading = float(side) if spot.random() < 0.8 else -float(side)
            bodies += made.car(x, middle + spot.uniform(-0.6, 0.6), heading, spot, wheels=near)
        if spot.random() < plan.trees:
            bodies += made.tree(kerb + side * 0.7, middle + 3.2, spot)
    if rng.random() < 0.35:
        bodies += made.lamp(kerb + side * 0.5, z + rng.uniform(1, PLOT_M - 1), side, rng)
    if rng.random() < 0.35:
        bodies += made.sign(kerb + side * 0.55, z + rng.uniform(1, PLOT_M - 1), rng)
    return bodies


def _urban(side: int, back: float, setback: float, z: float, rng: np.random.Generator) -> list[Body]:
    """One or two tall buildings that fill the plot."""
    cuts = [z, z + PLOT_M] if rng.random() < 0.5 else [z, z + rng.uniform(8, 13), z + PLOT_M]
    front = back + side * min(setback, 1.5)
    bodies: list[Body] = []
    for low, high in itertools.pairwise(cuts):
        gap = rng.uniform(0, 3.5) if rng.random() < 0.25 else 0.0
        bodies += made.house(side, front, (low, high - gap), int(rng.integers(2, 6)), rng)
    return bodies


def _houses(side: int, back: float, setback: float, z: float, rng: np.random.Generator) -> list[Body]:
    """One detached house behind a garden, with a hedge or wall along the pavement and perhaps a tree."""
    start, length = rng.uniform(1.0, 6.0), rng.uniform(9.0, 13.0)
    front = back + side * (max(setback, 1.5) + rng.uniform(0.0, 1.5))
    bodies = made.house(side, front, (z + start, z + start + length), int(rng.integers(1, 4)), rng)
    if rng.random() < 0.7:
        bodies += made.barrier(side, back, (z, z + PLOT_M - rng.choice([0.0, 4.0])), rng)
    if rng.random() < 0.6:
        bodies += made.tree(back + side * rng.uniform(1.5, 3.0), z + rng.uniform(0, PLOT_M), rng)
    if rng.random() < 0.5:
        bodies += made.bush(back + side * rng.uniform(1.2, 2.2), z + rng.uniform(0, PLOT_M), rng)
    return bodies


def _park(side: int, back: float, setback: float, z: float, rng: np.random.Generator) -> list[Body]:
    """Grass with trees and bushes, sometimes behind a wall."""
    bodies: list[Body] = []
    if rng.random() < 0.4:
        bodies += made.barrier(side, back + side * 0.3, (z, z + PLOT_M), rng)
    for _ in range(int(rng.integers(1, 5))):
        bodies += made.tree(back + side * rng.uniform(setback, setback + 14), z + rng.uniform(0, PLOT_M), rng)
    for _ in range(int(rng.integers(0, 4))):
        bodies += made.bush(back + side * rng.uniform(1.4, 8), z + rng.uniform(0, PLOT_M), rng)
    return bodies


def _traffic(street: Street, camera_z: float, index: int) -> list[Body]:
    """Cars on the move: perhaps one ahead in the own lane, some oncoming."""
    bodies: list[Body] = []
    rng = np.random.default_rng([street.seed, 5])
    if rng.random() < 0.65:
        gap = rng.uniform(9, 40) + 4 * np.sin(index / 9)
        bodies += made.car(rng.uniform(-0.3, 0.3), camera_z + gap, 1.0, np.random.default_rng([street.seed, 6]))
    for lane in range(street.oncoming):
        x = -street.lane * (lane + 1)
        for number in range(int(rng.integers(0, 4))):
            ahead = (rng.uniform(0, VIEW_M) - 2.2 * street.speed * index) % VIEW_M
            own = np.random.default_rng([street.seed, 7, lane, number])
            bodies += made.car(x, camera_z + ahead + 5.0, -1.0, own, wheels=bool(ahead < _WHEELS_WITHIN_M))
    return bodies
