"""What a student costs: parameters and multiply-adds, counted without computing anything."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from tiekd_cache.students.meta import made_on_meta
from tiekd_cache.students.student import build_student

IMAGE_SIZE = (352, 1216)
"""KITTI's benchmark crop, for which costs are usually given."""


class Cost(NamedTuple):
    """Cost of one image."""

    parameters: int
    gmac: float  # 1e9 multiply-adds


def student_cost(
    name: str,
    *,
    decoder: str = "densedepth",
    output: str = "dpm",
    decoder_width: float = 1.0,
    image_size: tuple[int, int] = IMAGE_SIZE,
) -> Cost:
    """Parameters of a student, and the multiply-adds of its convolutions, linear layers and attention for one image.

    Norms, activations, resizing and the expectation over bins are free, as is usual.

    Raises:
        ConfigError: see `build_student`.
    """
    student = made_on_meta(
        lambda: build_student(name, pretrained=False, decoder=decoder, output=output, decoder_width=decoder_width)
    )
    head = student.head if output == "dpm" else student.head.conv  # its float32 guard knows no meta device
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        head(student(torch.zeros(1, 3, *image_size, device="meta")))
    return Cost(sum(parameter.numel() for parameter in student.parameters()), counter.get_total_flops() / 2e9)
