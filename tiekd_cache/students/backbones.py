"""Any timm backbone as an encoder: `timm:NAME`, tried out at no cost before it is built."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from tiekd_cache.errors import ConfigError, first_line
from tiekd_cache.students.encoders import Encoder, build_encoder
from tiekd_cache.students.meta import made_on_meta
from tiekd_cache.timm_compat import timm_module

PREFIX = "timm:"

TRIAL_SIZE = (128, 192)
"""Height and width of the trial image, multiples of every stride in use."""
ODD_TRIAL_SIZE = (125, 187)

_ATTEMPTS: tuple[dict[str, Any], ...] = ({}, {"strict_img_size": False})


class _Trial(NamedTuple):
    options: Mapping[str, Any]  # that timm needs to take images of any size
    channels_last: bool
    takes_odd_sizes: bool


class AnySizeEncoder(nn.Module):
    """A backbone with its images and features put in order.

    Args:
        model: maps [B,3,H,W] to features.
        multiple: images are resized (bilinear) up to multiples of this many pixels; 1 = left alone.
        channels_last: features are [B,h,w,c].
    """

    def __init__(self, model: nn.Module, multiple: int, channels_last: bool) -> None:
        super().__init__()
        self.model, self.multiple, self.channels_last = model, multiple, channels_last

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """[B,3,H,W] -> features [B,c_i,h_i,w_i], fine to coarse."""
        size = [math.ceil(side / self.multiple) * self.multiple for side in images.shape[-2:]]
        if size != list(images.shape[-2:]):
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=True)
        features: list[torch.Tensor] = self.model(images)
        return [feature.permute(0, 3, 1, 2).contiguous() for feature in features] if self.channels_last else features


def build_backbone(name: str, pretrained: bool) -> Encoder:
    """The encoder that `timm:NAME` names, without dropout or stochastic depth.

    Args:
        name: `timm:` and a name of `timm.list_models()`, with or without the tag of its weights.
        pretrained: with ImageNet weights; see `build_encoder`.
    Raises:
        ConfigError: timm has no such model, or it gives no pyramid of maps for an image of any size.
        CheckpointError: the weights cannot be had.
    """
    model = name.removeprefix(PREFIX)
    _check_known(model)
    trial = _try_out(model)
    encoder = build_encoder(model, pretrained, trial.options)
    _without_drops(encoder.module)
    if trial.takes_odd_sizes and not trial.channels_last:
        return encoder
    multiple = 1 if trial.takes_odd_sizes else max(encoder.strides)
    return encoder._replace(module=AnySizeEncoder(encoder.module, multiple, trial.channels_last))


def _check_known(model: str) -> None:
    timm = timm_module()
    if timm.is_model(model):
        return
    similar = difflib.get_close_matches(model.partition(".")[0], timm.list_models(), n=3, cutoff=0.5)
    hint = f"Similar: {', '.join(PREFIX + other for other in similar)}." if similar else "See timm.list_models()."
    raise ConfigError(f"timm {timm.__version__} has no model '{model}' (student '{PREFIX}{model}'). {hint}")


def _try_out(model: str) -> _Trial:
    """How a model answers a trial image; on torch's meta device, where nothing is computed and no weight is made."""
    reason = ""
    for options in _ATTEMPTS:
        try:
            encoder = _cut(model, options)
            features = _answer(encoder, TRIAL_SIZE)
        except Exception as error:  # assertions, broadcasting, missing operators: timm's models fail in every way
            reason = reason or first_line(error)
            continue
        layouts = {
            _layout(feature.shape[1:], channels, stride)
            for feature, channels, stride in zip(features, encoder.channels, encoder.strides, strict=False)
        }
        if (
            not 2 <= len(features) == len(encoder.channels)
            or layouts not in ({"first"}, {"last"})
            or sorted(encoder.strides) != [*encoder.strides]
        ):
            shapes = ", ".join(str(list(feature.shape[1:])) for feature in features)
            reason = f"features {shapes} for an image of {TRIAL_SIZE[0]}x{TRIAL_SIZE[1]}"
            break
        try:
            _answer(encoder, ODD_TRIAL_SIZE)
        except Exception:
            return _Trial(options, layouts == {"last"}, takes_odd_sizes=False)
        return _Trial(options, layouts == {"last"}, takes_odd_sizes=True)
    raise ConfigError(
        f"{PREFIX}{model} cannot be a student's encoder ({reason}). It must give two or more maps, fine to coarse, of "
        "an image of any size; convolutional networks do, most plain vision transformers do not."
    )


def _cut(model: str, options: Mapping[str, Any]) -> Encoder:
    return Encoder.of(made_on_meta(lambda: build_encoder(model, False, options).module).eval())


def _answer(encoder: Encoder, size: tuple[int, int]) -> Sequence[torch.Tensor]:
    with torch.no_grad():
        features: Sequence[torch.Tensor] = encoder.module(torch.zeros(1, 3, *size, device="meta"))
        return features


def _layout(shape: Sequence[int], channels: int, stride: int) -> str | None:
    """`first` or `last`, by where the channels stand; None for what is no map of this stride (to 2 pixels)."""
    expected = [side / stride for side in TRIAL_SIZE]
    for layout, own, sides in (("first", shape[0], shape[1:]), ("last", shape[-1], shape[:-1])):
        close = [abs(side - wanted) <= 2 for side, wanted in zip(sides, expected, strict=False)]
        if len(shape) == 3 and own == channels and all(close):
            return layout
    return None


def _without_drops(module: nn.Module) -> None:
    """Some of timm's models come with stochastic depth; the published students know none."""
    for part in module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.p = 0.0
        for name in ("drop_prob", "drop_rate", "drop_path_rate"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
