"""A student: encoder, decoder and the 1x1 head whose softmax is the student's DPM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tiekd_cache.dpm import Bins, dpm_to_depth
from tiekd_cache.errors import ConfigError, ShapeError
from tiekd_cache.students import mobilenetv2
from tiekd_cache.students.decoder import DenseDepthDecoder, scale_widths
from tiekd_cache.students.encoders import build_encoder
from tiekd_cache.students.published import to_student_state

ROWS_AT_ONCE = 8
"""`predict` takes the DPM this many rows at a time: the whole of it is 440 MB for one KITTI image."""


@dataclass(frozen=True)
class Architecture:
    """What makes a student the one that was published under a name.

    Attributes:
        encoder: timm's name of the backbone, with the tag of its ImageNet weights: for the ResNets those that the
            release starts from, for MobileNetV2 timm's own (the release takes OpenMMLab's).
        widths: the decoder's channels, coarse to fine, at decoder_width 1.
        num_upsamplings: doublings at its end.
        options: for `timm.create_model`.
        dilated: with the published dilations of MobileNetV2.
    """

    encoder: str
    widths: tuple[int, ...]
    num_upsamplings: int
    options: Mapping[str, Any] = field(default_factory=dict)
    dilated: bool = False


STUDENTS: Mapping[str, Architecture] = MappingProxyType(
    {
        "mobilenetv2": Architecture(
            "mobilenetv2_100.ra_in1k", (2048, 512, 256, 128), 2, mobilenetv2.OPTIONS, dilated=True
        ),
        "resnet18": Architecture("resnet18.tv_in1k", (512, 256, 256, 128, 128), 1),
        "resnet50": Architecture("resnet50.tv_in1k", (2048, 1024, 512, 256, 128), 1),
    }
)


class Student(nn.Module):
    """Images -> features; with its head: logits, DPM and depth.

    Attributes:
        bins: depth bins of the DPM.
        encoder, decoder: what `forward` runs through.
        head: 1x1 convolution from features to the K logits.
    """

    def __init__(self, name: str, *, pretrained: bool, bins: Bins, decoder_width: float) -> None:
        super().__init__()
        architecture = STUDENTS[name]
        widths = scale_widths(architecture.widths, decoder_width)
        self.name, self.decoder_width, self.bins = name, float(decoder_width), bins
        self.encoder, channels = build_encoder(architecture.encoder, pretrained, architecture.options)
        if architecture.dilated:
            mobilenetv2.dilate_as_published(self.encoder)
        self.decoder = DenseDepthDecoder(channels, widths, architecture.num_upsamplings)
        self.head = nn.Conv2d(self.decoder.out_channels, bins.num_bins, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features of images.

        Args:
            images: [B,3,H,W] float, ImageNet-normalised RGB.
        Returns:
            [B,C,h,w], C = 128 times the decoder's width; h, w = H, W where both are even.
        Raises:
            ShapeError: images are not float [B,3,H,W].
        """
        if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ShapeError(
                f"Images are {images.dtype} {list(images.shape)}; they must be float [B,3,H,W], "
                "ImageNet-normalised RGB."
            )
        features: torch.Tensor = self.decoder(self.encoder(images))
        return features

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """[B,3,H,W] -> [B,K,h,w]: scores of the bins, before the softmax."""
        scores: torch.Tensor = self.head(self(images))
        return scores

    def dpm(self, images: torch.Tensor) -> torch.Tensor:
        """[B,3,H,W] -> [B,K,h,w] float32 probabilities at the head's resolution; sums to 1 over K."""
        return _softmax(self.logits(images))

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """Depth of images, without gradient; call `eval()` first, as `build_student` and `load_student` do.

        Args:
            images: [B,3,H,W] float, ImageNet-normalised RGB.
        Returns:
            [B,1,H,W] float32, metres: the DPM's expected depth, resized (bilinear, align_corners=True) where the image
            has another size. Between the first and the last bin centre by construction, so that the release's clamp
            to the range has nothing to do. No flip averaging.
        """
        with torch.no_grad():
            tiles = self(images).split(ROWS_AT_ONCE, dim=2)
            depth = torch.cat([dpm_to_depth(_softmax(self.head(tile)), self.bins) for tile in tiles], dim=2)
            if depth.shape[-2:] != images.shape[-2:]:
                depth = F.interpolate(depth, size=images.shape[-2:], mode="bilinear", align_corners=True)
            return depth

    def load_published(self, state: Mapping[str, Any]) -> None:
        """Take the weights of a published TIE-KD checkpoint of this student.

        Args:
            state: its state dict, or the file's {"state_dict": …} around it; with or without `module.` before keys.
        Raises:
            CheckpointError: keys are missing, unknown or of another shape; the student is then as before.
        """
        self.load_state_dict(to_student_state(state, self.state_dict(), f"student '{self.name}'"))

    def settings(self) -> dict[str, Any]:
        """JSON values from which `build_student` makes the same student, but for its weights."""
        return {"name": self.name, "decoder_width": self.decoder_width, "bins": self.bins.to_json()}


def build_student(
    name: str, *, pretrained: bool = True, bins: Bins | None = None, decoder_width: float = 1.0
) -> Student:
    """A student in evaluation mode (call `train()` to train it); random weights follow torch's seed.

    Args:
        name: one of `STUDENTS`.
        pretrained: start the encoder from ImageNet weights.
        bins: None = the paper's for KITTI, 257 from 1e-3 to 80 m.
        decoder_width: multiplies the decoder's channels; 1.0 = as published.
    Raises:
        ConfigError: unknown name, or a width that makes no decoder.
        CheckpointError: the ImageNet weights cannot be had.
    """
    if name not in STUDENTS:
        raise ConfigError(f"Student '{name}' is not known. Use one of: {', '.join(STUDENTS)}.")
    bins = Bins.uniform(1e-3, 80.0, 257) if bins is None else bins
    return Student(name, pretrained=pretrained, bins=bins, decoder_width=decoder_width).eval()


def _softmax(logits: torch.Tensor) -> torch.Tensor:
    return torch.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=1)
