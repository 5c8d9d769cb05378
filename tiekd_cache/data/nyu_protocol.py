"""The protocol of NYU Depth v2: crop, depth range and camera.

Images are 480x640 with a white frame; rows 45:472 and columns 43:608 hold the picture. Depth counts up to 10 m.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tiekd_cache.data.frame import DepthMap, Image
from tiekd_cache.data.transforms import shift_intrinsics
from tiekd_cache.errors import DataError

FULL_SIZE = (480, 640)
"""(height, width) of the data set's images, pixels."""

TOP, BOTTOM, LEFT, RIGHT = 45, 472, 43, 608
NYU_SIZE = (BOTTOM - TOP, RIGHT - LEFT)
"""(height, width) of the cropped images, pixels: 427x565."""

NYU_CROP = f"nyu rows {TOP}:{BOTTOM} columns {LEFT}:{RIGHT}"
MAX_DEPTH_M = 10.0

# Of the RGB camera, from the data set's toolbox (camera_params.m), pixels.
_CAMERA = np.array([[518.85790117, 0, 325.58244941], [0, 519.46961112, 253.73616633], [0, 0, 1]])

Pixels = TypeVar("Pixels", Image, DepthMap)


def nyu_crop(array: Pixels, where: str) -> Pixels:
    """[427,565,...] contiguous copy of an image or depth map [480,640,...].

    Args:
        where: the file and frame, for errors.
    Raises:
        DataError: the array has another size.
    """
    if array.shape[:2] != FULL_SIZE:
        raise DataError(
            f"{where} is {array.shape[0]}x{array.shape[1]} pixels; images of NYU Depth v2 are {FULL_SIZE[0]}x"
            f"{FULL_SIZE[1]}. Was it resized or cropped?"
        )
    return np.ascontiguousarray(array[TOP:BOTTOM, LEFT:RIGHT])


def nyu_intrinsics() -> npt.NDArray[np.float64]:
    """[3,3], pixels, of the cropped image."""
    return shift_intrinsics(_CAMERA, TOP, LEFT)


def nyu_eigen_mask(height: int, width: int) -> npt.NDArray[np.bool_]:
    """[height,width] bool, of a cropped image: rows 45:471 and columns 41:601 of the whole one.

    Columns 41 and 42 are outside the crop that the frames have, so that 558 of the 560 columns are evaluated.

    Source: D. Eigen et al., NeurIPS 2014, as public evaluation code has it (BTS, AdaBins).
    """
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[: 471 - TOP, : 601 - LEFT] = True
    return mask
