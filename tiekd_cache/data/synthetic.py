"""Made-up street scenes with exact depth: the data of the demo and of the tests, in KITTI's geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tiekd_cache.data.frame import DepthMap, Image
from tiekd_cache.data.synthetic_camera import Camera
from tiekd_cache.data.synthetic_cast import Body, cast
from tiekd_cache.data.synthetic_shade import shade
from tiekd_cache.data.synthetic_street import CAMERA_HEIGHT_M, VIEW_M, Street, bodies_around, make_street
from tiekd_cache.errors import RangeError, ShapeError

FOCAL_PX = 721.5377
CENTRE_PX = (609.5593, 172.854)


@dataclass(frozen=True)
class Scene:
    """One made-up picture.

    Attributes:
        image: [H,W,3] uint8 RGB.
        depth: [H,W] float32, metres along the camera's z axis, exact; 0 = sky.
        intrinsics: [3,3] float64, pixels.
    """

    image: Image
    depth: DepthMap
    intrinsics: npt.NDArray[np.float64]


def kitti_intrinsics(focal_px: float = FOCAL_PX, centre_px: tuple[float, float] = CENTRE_PX) -> npt.NDArray[np.float64]:
    """[3,3] pinhole matrix in pixels; by default that of KITTI's rectified colour camera of 2011_09_26."""
    return np.array([[focal_px, 0, centre_px[0]], [0, focal_px, centre_px[1]], [0, 0, 1]])


def render_scene(
    seed: int,
    index: int,
    size: tuple[int, int] = (375, 1242),
    *,
    intrinsics: npt.NDArray[np.float64] | None = None,
) -> Scene:
    """Frame `index` of a drive along the street of `seed`; the same arguments give the same bytes.

    Args:
        seed: which street, >= 0: its layout, colours, light and camera mount.
        index: which frame of the drive, >= 0: the camera moves 1 to 2 m from frame to frame.
        size: (height, width) in pixels.
        intrinsics: [3,3] pixels, KITTI's of 2011_09_26 where None; not scaled to `size`.
    Raises:
        RangeError: seed or index is negative.
        ShapeError: size is not positive.
    """
    if seed < 0 or index < 0:
        raise RangeError(f"Scene (seed {seed}, index {index}) does not exist: both start at 0. Pass values >= 0.")
    if min(size) < 1:
        raise ShapeError(f"Scene size {size[0]}x{size[1]} px (height x width) is empty. Pass at least 1x1.")
    street = make_street(seed)
    camera = drive_camera(street, index, size, kitti_intrinsics() if intrinsics is None else intrinsics)
    bodies = bodies_around(street, float(camera.position[2]), index)
    return render_view(street, camera, bodies, np.random.default_rng([seed, 8, index]))


def drive_camera(street: Street, index: int, size: tuple[int, int], intrinsics: npt.NDArray[np.float64]) -> Camera:
    """Where the camera of a drive stands in frame `index`: it swerves, nods and turns slightly."""
    rng = np.random.default_rng([street.seed, 9, index])
    sway, nod, turn = rng.normal(0, 1, 3)
    position = np.array([0.3 * np.sin(index / 7) + 0.05 * sway, -CAMERA_HEIGHT_M, street.speed * index])
    pitch, yaw, roll = street.mount
    return Camera(intrinsics, size, position, pitch + 0.002 * nod, yaw + 0.004 * turn, roll)


def render_view(street: Street, camera: Camera, bodies: Sequence[Body], rng: np.random.Generator) -> Scene:
    """What a camera sees of bodies on a street; `rng` draws exposure and sensor noise."""
    rays = camera.rays()
    hits = cast(camera, rays, bodies, street.backdrop, VIEW_M)
    return Scene(shade(street, camera, rays, bodies, hits, rng), hits.depth, camera.intrinsics)
