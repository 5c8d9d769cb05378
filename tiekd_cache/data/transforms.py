"""The sole home of crops and augmentation: one geometric transform moves image, teachers' depth and ground truth."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from tiekd_cache.data.frame import DepthMap, Image
from tiekd_cache.errors import ConfigError, ShapeError

KB_SIZE = (352, 1216)
"""(height, width) of the KITTI benchmark's crop, pixels: the size that all its dates have in common."""

Matrix = npt.NDArray[np.float64]
Pixels = TypeVar("Pixels", Image, DepthMap)


def kb_offset(height: int, width: int) -> tuple[int, int]:
    """(top, left) of the KITTI benchmark crop in an image: at the bottom, in the middle.

    Raises:
        ShapeError: the image is smaller than the crop.
    """
    if height < KB_SIZE[0] or width < KB_SIZE[1]:
        raise ShapeError(f"{height}x{width} pixels are fewer than the KB crop of {KB_SIZE[0]}x{KB_SIZE[1]}.")
    return height - KB_SIZE[0], int((width - KB_SIZE[1]) / 2)


def kb_crop(array: Pixels) -> Pixels:
    """[352,1216,...] contiguous copy: the KITTI benchmark crop of an image or depth map [H,W,...].

    Raises:
        ShapeError: the array is smaller than the crop.
    """
    top, left = kb_offset(*array.shape[:2])
    return np.ascontiguousarray(array[top : top + KB_SIZE[0], left : left + KB_SIZE[1]])


def shift_intrinsics(intrinsics: Matrix, top: int, left: int) -> Matrix:
    """[3,3] intrinsics (pixels) of an image whose first `top` rows and `left` columns were cut away."""
    shifted = intrinsics.copy()
    shifted[0, 2] -= left
    shifted[1, 2] -= top
    return shifted


def garg_crop_mask(height: int, width: int) -> npt.NDArray[np.bool_]:
    """[height,width] bool: the part of an image in which depth is evaluated on KITTI.

    Source: R. Garg et al., ECCV 2016, in the fractions that public evaluation code uses.
    """
    return _fraction_mask(height, width, (0.40810811, 0.99189189), (0.03594771, 0.96405229))


def eigen_crop_mask(height: int, width: int) -> npt.NDArray[np.bool_]:
    """[height,width] bool: the older part of an image for evaluation on KITTI; it begins and ends higher up.

    Source: D. Eigen et al., NeurIPS 2014, in the fractions that public evaluation code uses (monodepth, BTS).
    """
    return _fraction_mask(height, width, (0.3324324, 0.91351351), (0.0359477, 0.96405229))


def _fraction_mask(
    height: int, width: int, rows: tuple[float, float], columns: tuple[float, float]
) -> npt.NDArray[np.bool_]:
    """[height,width] bool, True between fractions of the height and of the width, each rounded down."""
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[int(rows[0] * height) : int(rows[1] * height), int(columns[0] * width) : int(columns[1] * width)] = True
    return mask


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for each sample; the published settings by default.

    Attributes:
        rotate_deg: rotation about the image's centre, uniform in +-rotate_deg degrees.
        rotate_p, flip_p, colour_p: probabilities of rotation, of mirroring, and of all colour changes together.
        gamma, brightness, channel: ranges of the exponent, of the factor, and of each channel's own factor.
    Raises:
        ConfigError: a probability outside 0..1, a negative angle, or an empty or non-positive range.
    """

    rotate_deg: float = 2.5
    rotate_p: float = 0.5
    flip_p: float = 0.5
    colour_p: float = 0.5
    gamma: tuple[float, float] = (0.9, 1.1)
    brightness: tuple[float, float] = (0.9, 1.1)
    channel: tuple[float, float] = (0.9, 1.1)

    def __post_init__(self) -> None:
        for name in ("rotate_p", "flip_p", "colour_p"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is a probability, 0 to 1, not {getattr(self, name)}.")
        if not 0.0 <= self.rotate_deg <= 45.0:
            raise ConfigError(f"rotate_deg is an angle of 0 to 45 degrees, not {self.rotate_deg}.")
        for name in ("gamma", "brightness", "channel"):
            low, high = getattr(self, name)
            if not 0.0 < low <= high:
                raise ConfigError(f"{name} is a range of positive factors (low, high), not ({low}, {high}).")


@dataclass(frozen=True)
class Draw:
    """The random choices of one sample, each uniform in 0..1.

    All are drawn always and in this order, so that switching one augmentation off, or another crop, leaves the
    rest as they were.
    """

    rotate: float
    angle: float
    flip: float
    top: float
    left: float
    colour: float
    gamma: float
    brightness: float
    red: float
    green: float
    blue: float

    @classmethod
    def from_rng(cls, rng: np.random.Generator) -> Draw:
        """The next sample's choices."""
        return cls(*(float(value) for value in rng.random(len(fields(cls)))))


@dataclass(frozen=True)
class TrainTransform:
    """Rotation, mirroring, random crop and colour change of a training sample.

    Attributes:
        crop: (height, width) of the samples, pixels.
        row_cut: rows at the top of the image that carry no LiDAR and are cut before the losses (see `rows_cut`).
        augmentation: what is drawn.
    """

    crop: tuple[int, int] = (352, 704)
    row_cut: int = 110
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if min(self.crop) < 1 or self.row_cut < 0:
            raise ConfigError(f"The crop is at least 1x1 and row_cut at least 0, not {self.crop} and {self.row_cut}.")

    def __call__(
        self, image: Image, teacher_depth: DepthMap, gt_depth: DepthMap | None, rng: np.random.Generator
    ) -> tuple[Image, DepthMap, DepthMap | None]:
        """One sample: all moved by the same transform, the image changed in colour as well.

        Args:
            image: [H,W,3] uint8.
            teacher_depth: [H,W] or [T,H,W] float32, metres, 0 = missing.
            gt_depth: [H,W] float32, metres, 0 = missing, or None.
            rng: source of all choices; 11 numbers are taken.
        Returns:
            ([h,w,3], [h,w] or [T,h,w], [h,w] or None), contiguous, of the crop's size.
        Raises:
            ShapeError: the arrays differ in size, or are smaller than the crop, or have no row below `row_cut`.
        """
        size = (image.shape[0], image.shape[1])
        for name, depth in (("teacher_depth", teacher_depth), ("gt_depth", gt_depth)):
            if depth is not None and depth.shape[-2:] != size:
                raise ShapeError(f"{name} is {depth.shape} but the image is {size}: they must be equal.")
        place = self.place(size, rng)
        if teacher_depth.ndim == 3:
            moved = np.empty((len(teacher_depth), *self.crop), np.float32)
            for depth, out in zip(teacher_depth, moved, strict=True):
                place.depth(depth, out)
        else:
            moved = place.depth(teacher_depth)
        return place.image(image), moved, None if gt_depth is None else place.depth(gt_depth)

    def place(self, size: tuple[int, int], rng: np.random.Generator) -> Placement:
        """What is drawn for one sample of an image of `size` (height, width) pixels; raises as a call does."""
        draw = Draw.from_rng(rng)
        height, width = size
        top, left = self._corner(height, width, draw)
        window = _Window(top, left, *self.crop, flip=draw.flip < self.augmentation.flip_p)
        turned, coloured = draw.rotate < self.augmentation.rotate_p, draw.colour < self.augmentation.colour_p
        angle = (2.0 * draw.angle - 1.0) * self.augmentation.rotate_deg
        return Placement(
            window,
            window.affine(angle, height, width) if turned else None,
            _colour_table(self.augmentation, draw) if coloured else None,
        )

    def rows_cut(self, height: int) -> int:
        """How many rows to cut from the top of every crop before the losses; constant for a configuration.

        The crop's top row is drawn between t = min(row_cut, height - crop height) and the lowest place. A crop
        short enough to lie below the cut loses nothing; one of full height loses `row_cut` rows.

        Args:
            height: of the image that the crop is taken from, pixels.
        """
        return max(0, self.row_cut - (height - self.crop[0]))

    def _corner(self, height: int, width: int, draw: Draw) -> tuple[int, int]:
        """(top, left) of the crop in the rotated and mirrored image."""
        free_rows, free_columns = height - self.crop[0], width - self.crop[1]
        if free_rows < 0 or free_columns < 0:
            raise ShapeError(f"The crop of {self.crop[0]}x{self.crop[1]} is larger than the image of {height}x{width}.")
        if self.row_cut >= height:
            raise ShapeError(f"row_cut = {self.row_cut} leaves nothing of an image of {height} rows.")
        highest = min(self.row_cut, free_rows)
        top = highest + int(draw.top * (free_rows - highest + 1))
        return top, int(draw.left * (free_columns + 1))


@dataclass(frozen=True)
class Placement:
    """The transform of one sample: the same for its image and for each of its depth maps.

    A rotated image is sampled bilinearly and is black (0) where it comes from outside, as in the published training;
    depth maps take the nearest pixel, never a mean across an object's border, and are 0 = missing outside, so that
    no loss looks at the black wedges.
    """

    _window: _Window
    _matrix: Matrix | None
    _colours: Image | None

    def image(self, image: Image, out: Image | None = None) -> Image:
        """[h,w,3] uint8, contiguous: the sample's part of an image [H,W,3], its colours changed; in `out` if given."""
        moved = self._move(image, cv2.INTER_LINEAR, out)
        if self._colours is None:
            return moved
        changed: Image = cv2.LUT(moved, self._colours, moved)
        return changed

    def depth(self, depth: DepthMap, out: DepthMap | None = None) -> DepthMap:
        """[h,w] float32, metres, contiguous: the sample's part of a depth map [H,W]; in `out` if given."""
        return self._move(depth, cv2.INTER_NEAREST, out)

    def _move(self, array: Pixels, interpolation: int, out: Pixels | None) -> Pixels:
        if out is None:
            window = self._window
            out = np.empty((window.height, window.width, *array.shape[2:]), array.dtype)
        if self._matrix is None:
            self._window.cut(array, out)
        else:
            size = (self._window.width, self._window.height)
            cv2.warpAffine(
                array, self._matrix, size, out, flags=interpolation, borderMode=cv2.BORDER_CONSTANT, borderValue=0
            )
        return out


@dataclass(frozen=True)
class _Window:
    """A crop of an image that is mirrored first, or not."""

    top: int
    left: int
    height: int
    width: int
    flip: bool

    def cut(self, array: Pixels, out: Pixels) -> None:
        """Fill `out` with the crop, exact."""
        left = array.shape[1] - self.left - self.width if self.flip else self.left
        cropped = array[self.top : self.top + self.height, left : left + self.width]
        if self.flip:
            cv2.flip(cropped, 1, out)
        else:
            out[...] = cropped

    def affine(self, angle_deg: float, height: int, width: int) -> Matrix:
        """[2,3]: pixel of the image -> pixel of the crop; rotation about the image's centre, mirror, shift."""
        centre = ((width - 1) / 2.0, (height - 1) / 2.0)
        rotation = np.vstack([cv2.getRotationMatrix2D(centre, angle_deg, 1.0), [0.0, 0.0, 1.0]])
        mirror = np.array([[-1.0, 0.0, width - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]) if self.flip else np.eye(3)
        shift = np.array([[1.0, 0.0, -self.left], [0.0, 1.0, -self.top], [0.0, 0.0, 1.0]])
        combined: Matrix = (shift @ mirror @ rotation)[:2]
        return combined


def _colour_table(augmentation: Augmentation, draw: Draw) -> Image:
    """[1,256,3]: value ** gamma * brightness * channel on the unit range, clipped, for each value of a pixel."""
    gamma = _between(augmentation.gamma, draw.gamma)
    brightness = _between(augmentation.brightness, draw.brightness)
    channels = np.array([_between(augmentation.channel, value) for value in (draw.red, draw.green, draw.blue)])
    values = (np.arange(256) / 255.0) ** gamma * brightness
    table: Image = np.rint(np.clip(values[:, None] * channels, 0.0, 1.0) * 255.0).astype(np.uint8)[None]
    return table


def _between(bounds: tuple[float, float], fraction: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * fraction
