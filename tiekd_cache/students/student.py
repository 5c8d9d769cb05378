"""A student: encoder, decoder and a head, whose softmax is the student's DPM or which gives depth directly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tiekd_cache.dpm import Bins, dpm_to_depth
from tiekd_cache.errors import ConfigError, ShapeError
from tiekd_cache.students import mobilenetv2
from tiekd_cache.students.architectures import DECODERS, OUTPUTS, STUDENTS
from tiekd_cache.students.backbones import PREFIX, build_backbone
from tiekd_cache.students.decoder import DenseDepthDecoder, fitting_shape, resize, scale_widths
from tiekd_cache.students.encoders import Encoder, build_encoder
from tiekd_cache.students.heads import DepthHead
from tiekd_cache.students.published import to_student_state
from tiekd_cache.students.slim import SlimDecoder

ROWS_AT_ONCE = 8
"""`predict` takes the DPM this many rows at a time: the whole of it is 440 MB for one KITTI image."""


class Student(nn.Module):
    """Images -> features; with its head: logits, DPM and depth.

    Attributes:
        output: `dpm`, or `depth` for plain regression.
        bins: depth bins of the DPM; of a plain student only their range counts.
        encoder, decoder: what `forward` runs through.
        head: 1x1 convolution from features to the K logits; with output `depth` a `DepthHead`, features to metres.
    """

    head: Any  # nn.Conv2d or DepthHead, as `output` says

    def __init__(
        self, name: str, *, pretrained: bool, bins: Bins, decoder_width: float, decoder: str, output: str
    ) -> None:
        super().__init__()
        self.name, self.bins, self.decoder_width = name, bins, float(decoder_width)
        self.decoder_name, self.output = decoder, output
        self.is_published = name in STUDENTS and decoder == "densedepth"
        encoder = _build_encoder(name, pretrained)
        self.encoder = encoder.module
        self.decoder = _build_decoder(name, encoder, decoder, decoder_width)
        if output == "dpm":
            self.head = nn.Conv2d(self.decoder.out_channels, bins.num_bins, 1)
        else:
            self.head = DepthHead(self.decoder.out_channels, bins.max_depth)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features of images.

        Args:
            images: [B,3,H,W] float, ImageNet-normalised RGB.
        Returns:
            [B,C,h,w], C = `decoder.out_channels`: 128 for the published students, 32 with the slim decoder, times the
            decoder's width. h, w = H, W: the features are resized (bilinear, align_corners=True) where the decoder
            ends at another size. Only the published students leave them, as released, at 2 times the encoder's
            finest feature, or 4 times for MobileNetV2: the same where H and W are multiples of 2, or of 4.
        Raises:
            ShapeError: images are not float [B,3,H,W].
        """
        if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ShapeError(
                f"Images are {images.dtype} {list(images.shape)}; they must be float [B,3,H,W], "
                "ImageNet-normalised RGB."
            )
        features: torch.Tensor = self.decoder(self.encoder(images))
        return features if self.is_published else resize(features, *images.shape[-2:])

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """[B,3,H,W] -> [B,K,h,w]: scores of the bins, before the softmax.

        Raises:
            ConfigError: the student regresses depth.
        """
        if self.output != "dpm":
            raise ConfigError(f"Student '{self.name}' regresses depth (output='depth') and has no DPM. Use predict.")
        scores: torch.Tensor = self.head(self(images))
        return scores

    def dpm(self, images: torch.Tensor) -> torch.Tensor:
        """[B,3,H,W] -> [B,K,h,w] float32 probabilities at the head's resolution; sums to 1 over K.

        Raises:
            ConfigError: the student regresses depth.
        """
        return _softmax(self.logits(images))

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """Depth of images, without gradient; call `eval()` first, as `build_student` and `load_student` do.

        Args:
            images: [B,3,H,W] float, ImageNet-normalised RGB.
        Returns:
            [B,1,H,W] float32, metres: the DPM's expected depth, or the regressed one clamped to the bins' range;
            resized (bilinear, align_corners=True) where the image has another size. The expected depth lies between
            the first and the last bin centre by construction, so that the release's clamp to the range has nothing
            to do. No flip averaging.
        """
        with torch.no_grad():
            return resize(self._depth(self(images)), *images.shape[-2:])

    def _depth(self, features: torch.Tensor) -> torch.Tensor:
        if self.output == "depth":
            depth: torch.Tensor = self.head(features)
            return depth.clamp(self.bins.min_depth, self.bins.max_depth)
        tiles = torch.split(features, ROWS_AT_ONCE, dim=2)
        return torch.cat([dpm_to_depth(_softmax(self.head(tile)), self.bins) for tile in tiles], dim=2)

    def load_published(self, state: Mapping[str, Any]) -> None:
        """Take the weights of a published TIE-KD checkpoint of this student.

        Args:
            state: its state dict, or the file's {"state_dict": …} around it; with or without `module.` before keys.
        Raises:
            ConfigError: no student with this encoder and decoder was published.
            CheckpointError: keys are missing, unknown or of another shape, or the checkpoint is of a student with the
                other output; the student is then as before.
        """
        if not self.is_published:
            raise ConfigError(
                f"Student '{self.name}' with decoder '{self.decoder_name}' was not published: there is no checkpoint "
                f"of it. Those of {', '.join(STUDENTS)} with 'densedepth' can be loaded."
            )
        self.load_state_dict(to_student_state(state, self.state_dict(), f"student '{self.name}'"))

    def settings(self) -> dict[str, Any]:
        """JSON values from which `build_student` makes the same student, but for its weights."""
        return {
            "name": self.name,
            "decoder_width": self.decoder_width,
            "decoder": self.decoder_name,
            "output": self.output,
            "bins": self.bins.to_json(),
        }


def build_student(
    name: str,
    *,
    pretrained: bool = True,
    bins: Bins | None = None,
    decoder_width: float = 1.0,
    decoder: str = "densedepth",
    output: str = "dpm",
) -> Student:
    """A student in evaluation mode (call `train()` to train it); random weights follow torch's seed.

    Args:
        name: one of `STUDENTS`, or `timm:NAME` for any backbone of timm that gives two or more maps.
        pretrained: start the encoder from ImageNet weights.
        bins: None = the paper's for KITTI, 257 from 1e-3 to 80 m.
        decoder_width: multiplies the decoder's channels; 1.0 = as published.
        decoder: `densedepth`, as published; or `slim`, see `SlimDecoder`.
        output: `dpm`, or `depth` for plain regression, as the paper's baselines and Res-KD students.
    Raises:
        ConfigError: unknown name, decoder or output, a width that makes no decoder, or a backbone that is no encoder.
        CheckpointError: the ImageNet weights cannot be had.
    """
    if name not in STUDENTS and not name.startswith(PREFIX):
        raise ConfigError(
            f"Student '{name}' is not known. Use one of: {', '.join(STUDENTS)}, or {PREFIX}NAME for a backbone of timm."
        )
    for setting, value, known in (("decoder", decoder, DECODERS), ("output", output, OUTPUTS)):
        if value not in known:
            raise ConfigError(f"Student's {setting} '{value}' is not known. Use one of: {', '.join(known)}.")
    bins = Bins.uniform(1e-3, 80.0, 257) if bins is None else bins
    return Student(
        name, pretrained=pretrained, bins=bins, decoder_width=decoder_width, decoder=decoder, output=output
    ).eval()


def _build_encoder(name: str, pretrained: bool) -> Encoder:
    if name not in STUDENTS:
        return build_backbone(name, pretrained)
    architecture = STUDENTS[name]
    encoder = build_encoder(architecture.encoder, pretrained, architecture.options)
    if architecture.dilated:
        mobilenetv2.dilate_as_published(encoder.module)
    return encoder


def _build_decoder(name: str, encoder: Encoder, decoder: str, width: float) -> DenseDepthDecoder | SlimDecoder:
    if decoder == "slim":
        return SlimDecoder(encoder.channels, encoder.strides, width)
    if name in STUDENTS:
        widths, num_upsamplings = STUDENTS[name].widths, STUDENTS[name].num_upsamplings
    else:
        widths, num_upsamplings = fitting_shape(encoder.channels, encoder.strides)
    return DenseDepthDecoder(encoder.channels, scale_widths(widths, width), num_upsamplings)


def _softmax(logits: torch.Tensor) -> torch.Tensor:
    return torch.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=1)
