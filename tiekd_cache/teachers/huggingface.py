"""Depth models of the Hugging Face hub, or of a local folder in that layout, through `transformers`.

Five families are known by the meaning of their output: Depth Anything (relative, or metric where its configuration
says so), ZoeDepth, GLPN and Depth Pro (metric) and DPT/MiDaS (relative). Relative models say inverse depth up to scale
and shift: they are used with `align="gt"` only, see `align`.

A model's own map is kept at its own resolution, and brought to the image's by bilinear interpolation with
align_corners=False: the one rule that a store can replay. The models' image processors resize by bicubic interpolation
at this last step (Depth Pro: bilinear, of inverse depth); the difference is of edges only. ZoeDepth is the exception:
its processor pads the image, so its answer is resized and cropped here exactly as its processor does, to the image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from tiekd_cache.data.normalize import denormalize
from tiekd_cache.device import exact_float32
from tiekd_cache.errors import DataError, ShapeError
from tiekd_cache.teachers.align import MIN_DEPTH_M, align_description, fit_scale_shift, to_depth
from tiekd_cache.teachers.base import Resize, Teacher, TeacherDepth
from tiekd_cache.teachers.digest import network_digest

if TYPE_CHECKING:
    from torch import nn

    from tiekd_cache.data.frame import Frame, FrameSource, Image

# what of an image processor's settings changes pixels; the rest differs between versions of transformers
_PIXELS = (
    *("do_resize", "size", "resample", "keep_aspect_ratio", "ensure_multiple_of", "size_divisor", "do_pad"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
)
_ZOE_PADDING = 3  # int(sqrt(pixels / 2) * 3) reflected pixels at each side


class HuggingFaceTeacher(Teacher):
    """A depth model with its image processor. Metric where `align` is None, else fitted to each frame's LiDAR.

    Args:
        model: a `transformers` model for depth estimation of one of `hub.FAMILIES`.
        processor: its image processor.
        name: `hf:` and the model's id, or its folder's name.
        weights_source: where it came from, in words.
        device: where the model goes.
        align: farthest depth, metres, of maps aligned to LiDAR; None for a metric model.
    """

    def __init__(
        self, model: Any, processor: Any, *, name: str, weights_source: str, device: torch.device, align: float | None
    ) -> None:
        self.name = name
        self.architecture = type(model).__name__
        self.weights_source = weights_source
        self.align = align
        self.needs_lidar = align is not None
        self.clamps_to = (MIN_DEPTH_M, align) if align is not None else _range_of(model.config)
        self.model = model.float().to(device).eval().requires_grad_(False)
        self.processor = processor
        self._family = str(model.config.model_type)
        self._device = device

    @property
    def preprocessing(self) -> Mapping[str, Any]:  # type: ignore[override]
        """The image processor's settings and how the output becomes metres, as JSON values."""
        settings = json.loads(self.processor.to_json_string())
        kept = {key: settings[key] for key in _PIXELS if settings.get(key) is not None}
        found: dict[str, Any] = {"colour": "RGB", "family": self._family, "processor": kept}
        return found if self.align is None else {**found, "align": dict(align_description(self.align))}

    @cached_property
    def digest(self) -> str:
        """sha256 of the weights, the architecture and the preprocessing, the alignment among it."""
        return network_digest(
            self.model, {"architecture": self.architecture, "preprocessing": dict(self.preprocessing)}
        )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._device

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The model."""
        return (self.model,)

    def predict(self, images: torch.Tensor, focal_px: torch.Tensor | None = None) -> TeacherDepth:
        """Metric depth, [B,1,h,w] float32 m, of images [B,3,H,W] float32, ImageNet-normalised RGB.

        Args:
            images: turned back to uint8 first, since the image processor has a normalisation of its own.
            focal_px: [B] pixels; needed by Depth Pro only.
        Raises:
            ShapeError: images are of another shape, or Depth Pro got no focal lengths.
            DataError: the teacher is aligned to LiDAR, which an image alone does not hold.
        """
        if self.align is not None:
            raise DataError(
                f"Teacher {self.name} with --align gt answers frames with LiDAR depth, not images. Call predict_frames."
            )
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ShapeError(f"Images must be [B,3,H,W] float32, normalised, not {list(images.shape)} {images.dtype}.")
        return self._metric(list(denormalize(images.cpu()).numpy()), focal_px)

    def predict_frames(self, frames: Sequence[Frame]) -> TeacherDepth:
        """Depth of frames of equal size, [B,1,h,w] float32 m; aligned to their `gt_depth` where asked for.

        Raises:
            DataError: with alignment, a frame has no LiDAR depth, or it cannot be fitted; names the frame.
        """
        images = [frame.image for frame in frames]
        if self.align is None:
            return self._metric(images, torch.tensor([frame.focal_px for frame in frames], dtype=torch.float32))
        said = self._ask(images)
        resize = Resize((images[0].shape[0], images[0].shape[1]))
        maps = []
        for frame, small, large in zip(frames, said, resize(said), strict=True):
            if frame.gt_depth is None:
                raise DataError(f"Frame {frame.frame_id} has no LiDAR depth, which {self.name} with --align gt needs.")
            measured = frame.gt_depth > 0
            predicted = large[0].cpu().numpy()[measured]
            s, t = fit_scale_shift(predicted, frame.gt_depth[measured], frame.frame_id)
            maps.append(to_depth(small[0].cpu().numpy(), s, t, self.align))
        return TeacherDepth(torch.from_numpy(np.stack(maps)).unsqueeze(1).to(self._device), resize)

    def cannot_answer(self, source: FrameSource, frame_id: str) -> str | None:
        """With alignment: a frame without any LiDAR file."""
        if self.align is None or source.has_lidar(frame_id):
            return None
        return "no depth PNG and no velodyne scan to align to"

    def _ask(self, images: Sequence[Image]) -> torch.Tensor:
        """[B,1,h,w] float32: what the model says, in its own terms and at its own resolution."""
        inputs = self.processor(images=list(images), return_tensors="pt", input_data_format="channels_last")
        with torch.inference_mode(), exact_float32():
            said = self.model(pixel_values=inputs["pixel_values"].to(self._device, torch.float32)).predicted_depth
        return said.to(torch.float32, copy=True).unsqueeze(1)  # type: ignore[no-any-return]

    def _metric(self, images: Sequence[Image], focal_px: torch.Tensor | None) -> TeacherDepth:
        said, size = self._ask(images), (images[0].shape[0], images[0].shape[1])
        if self._family == "zoedepth":
            return TeacherDepth(_without_padding(said, size, bool(self.processor.do_pad)))
        if self._family == "depth_pro":
            if focal_px is None or focal_px.shape != (len(images),):
                raise ShapeError(f"Teacher {self.name} needs focal_px [{len(images)}], pixels.")
            # canonical inverse depth; its own estimate of the focal length is not needed where the camera's is known
            said = said * (size[1] / focal_px.to(said).view(-1, 1, 1, 1))
            said = 1.0 / said.clamp(1e-4, 1e4)
        return TeacherDepth(said, Resize(size))


def _without_padding(depth: torch.Tensor, size: tuple[int, int], padded: bool) -> torch.Tensor:
    """[B,1,H,W] m of the image alone: what ZoeDepth's image processor makes of its answer to a padded image."""
    pad_y, pad_x = (int(np.sqrt(pixels / 2) * _ZOE_PADDING) if padded else 0 for pixels in size)
    whole = (size[0] + 2 * pad_y, size[1] + 2 * pad_x)
    large = F.interpolate(depth, size=whole, mode="bicubic", align_corners=False)
    return large[..., pad_y : pad_y + size[0], pad_x : pad_x + size[1]].contiguous()


def _range_of(config: Any) -> tuple[float, float] | None:
    """(min, max) metres that a metric model's last layer can say, where it has such bounds."""
    if config.model_type == "zoedepth":
        return MIN_DEPTH_M, max(float(bins["max_depth"]) for bins in config.bin_configurations)
    return None if config.model_type == "depth_pro" else (MIN_DEPTH_M, float(config.max_depth))
