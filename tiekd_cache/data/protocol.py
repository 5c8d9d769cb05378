"""How each data set is evaluated: which pixels count, up to which depth, and by which ranges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tiekd_cache.data.nyu_protocol import nyu_eigen_mask
from tiekd_cache.data.transforms import eigen_crop_mask, garg_crop_mask
from tiekd_cache.errors import ConfigError

Mask = npt.NDArray[np.bool_]
Range = tuple[float, float]

_CROPS: Mapping[str, Mapping[str, Callable[[int, int], Mask]]] = {
    "kitti": {"garg": garg_crop_mask, "eigen": eigen_crop_mask},
    "nyu": {"eigen": nyu_eigen_mask},
}
"""Data set -> crop -> its mask of (height, width). `none`, the whole frame, goes with every data set."""


@dataclass(frozen=True)
class Protocol:
    """Which pixels of a data set's frames count.

    Attributes:
        name: of the data set.
        crop: `garg`, `eigen` or `none`: the part of a frame in which ground truth counts.
        min_depth: metres; ground truth at or below it does not count, predictions are clamped to it.
        max_depth: metres; ground truth at or beyond it does not count, predictions are clamped to it.
        ranges: (near, far), metres: metrics are also computed over the ground truth with near <= depth < far.
        first_row: rows above it carry no measurements: they are cut before the losses, and a student is compared
            with its teacher from this row down.
    Raises:
        ConfigError: the data set has no such crop, or a range or limit is empty.
    """

    name: str
    crop: str
    min_depth: float
    max_depth: float
    ranges: tuple[Range, ...]
    first_row: int

    def __post_init__(self) -> None:
        known = [*_CROPS.get(self.name, {}), "none"]
        if self.crop not in known:
            raise ConfigError(f"crop = '{self.crop}' is no crop of {self.name}. Use one of: {', '.join(known)}.")
        if not 0 < self.min_depth < self.max_depth:
            raise ConfigError(
                f"Depth from {self.min_depth:g} to {self.max_depth:g} m is no range: 0 < min_depth < max_depth."
            )
        for near, far in self.ranges:
            if not (0 <= near < far and near < self.max_depth):
                raise ConfigError(
                    f"The range {near:g}-{far:g} m holds no depth of {self.name}, which is evaluated up to "
                    f"{self.max_depth:g} m. Give NEAR-FAR with 0 <= NEAR < FAR and NEAR < {self.max_depth:g}."
                )

    def counts(self, gt_depth: npt.NDArray[np.float32]) -> Mask:
        """[H,W] bool: the pixels of ground truth [H,W] (metres, 0 = none) that count."""
        valid: Mask = (gt_depth > self.min_depth) & (gt_depth < self.max_depth)
        mask = _CROPS.get(self.name, {}).get(self.crop)
        return valid if mask is None else valid & mask(*gt_depth.shape)


def protocol_of(
    name: str,
    data_max_depth: float,
    *,
    crop: str | None = None,
    min_depth: float = 1e-3,
    max_depth: float | None = None,
    ranges: tuple[Range, ...] | None = None,
) -> Protocol:
    """The protocol of a data set, with what the caller wants otherwise.

    KITTI: Garg crop, 80 m, ranges 0-20, 20-40 and 40-80 m, first row 110 (no LiDAR above). NYU Depth v2: Eigen's crop,
    10 m, ranges 0-2.5, 2.5-5 and 5-10 m. Other data: whole frames, the same shares of their range.

    Args:
        name: of the data set, e.g. `kitti`.
        data_max_depth: farthest depth of the data set, metres.
        crop, min_depth, max_depth, ranges: as `Protocol`; None = the data set's. Ranges are clipped to `max_depth`.
    Raises:
        ConfigError: as `Protocol`.
    """
    farthest = data_max_depth if max_depth is None else max_depth
    if ranges is None:
        quarter, half = data_max_depth / 4, data_max_depth / 2
        usual: tuple[Range, ...] = ((0.0, quarter), (quarter, half), (half, data_max_depth))
        ranges = tuple((near, far) for near, far in usual if near < farthest)
    if crop is None:
        crop = next(iter(_CROPS.get(name, {})), "none")
    clipped = tuple((near, min(far, farthest) if near < farthest else far) for near, far in ranges)
    return Protocol(name, crop, min_depth, farthest, clipped, 110 if name == "kitti" else 0)


def range_name(bounds: Range) -> str:
    """`20-40` for (20.0, 40.0)."""
    return f"{bounds[0]:g}-{bounds[1]:g}"
