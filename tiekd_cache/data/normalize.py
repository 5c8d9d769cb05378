"""The one place where images become network input, for teachers and students alike."""

from __future__ import annotations

import functools

import numpy as np
import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@functools.cache
def _constants(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean, standard deviation) on a device: copied there once, since every copy waits for the device's work."""
    with torch.inference_mode(False):
        return torch.tensor(IMAGENET_MEAN, device=device), torch.tensor(IMAGENET_STD, device=device)


def normalize(image: torch.Tensor) -> torch.Tensor:
    """[...,H,W,3] uint8 RGB -> [...,3,H,W] float32: value/255, minus ImageNet mean, over its standard deviation."""
    mean, std = _constants(image.device)
    planes = image.movedim(-1, -3)
    if image.device.type != "cpu":
        return _scale(planes, torch.empty(planes.shape, dtype=torch.float32, device=image.device), mean, std)
    # Numpy's memory comes in huge pages, which are touched three times as fast as torch's; and a whole batch, four
    # times over, would not stay in the cache.
    scaled = torch.from_numpy(np.empty(planes.shape, np.float32))
    for source, target in zip(planes.unsqueeze(0).flatten(0, -4), scaled.unsqueeze(0).flatten(0, -4), strict=True):
        _scale(source, target, mean, std)
    return scaled


def _scale(planes: torch.Tensor, out: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Fill out [...,3,H,W] float32 from planes [...,3,H,W] uint8."""
    return out.copy_(planes).div_(255.0).sub_(mean[:, None, None]).div_(std[:, None, None])


def denormalize(image: torch.Tensor) -> torch.Tensor:
    """The inverse of `normalize`: [...,3,H,W] float32 -> [...,H,W,3] uint8 RGB, for pictures."""
    mean, std = _constants(image.device)
    scaled = image.movedim(-3, -1) * std + mean
    return (scaled * 255.0).round().clamp(0, 255).to(torch.uint8)
