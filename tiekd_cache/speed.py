"""What a user may ask for to make a teacher faster: half precision, another memory layout, compiled networks."""

from __future__ import annotations

import warnings

import torch

from tiekd_cache.answering import MIN_DEPTH_M, PRECISIONS, AnswerRules, compute, forward_passes, predict
from tiekd_cache.errors import ConfigError, DeviceError, TiekdError, first_line
from tiekd_cache.teachers import Teacher
from tiekd_cache.teachers.base import FrameBatch


def default_batch_size(device: torch.device) -> int:
    """Frames a forward pass where nobody says how many: what is fastest on a CPU, and enough to fill a GPU."""
    return 1 if device.type == "cpu" else 4


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ConfigError for an unknown precision, DeviceError for one that the device does not compute in."""
    if precision not in PRECISIONS:
        raise ConfigError(f'Unknown precision "{precision}". It is one of {", ".join(PRECISIONS)}.')
    if precision == "float32":
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # PyTorch warns, and computes in float32
            with torch.autocast(device.type, PRECISIONS[precision]):
                image = torch.ones(1, 1, 4, 4, device=device)
                said = torch.nn.functional.conv2d(image, image[..., :3, :3])
        supported = said.dtype == PRECISIONS[precision]
        why = "it computes in another precision"
    except (RuntimeError, UserWarning) as error:
        supported, why = False, first_line(error)
    if not supported:
        raise DeviceError(f"Device {device} cannot compute in {precision} ({why}): use another --precision.")


def precision_difference(teacher: Teacher, batch: FrameBatch, precision: str) -> str:
    """One line: how far the depths of a batch are from those in float32."""
    exact = predict(teacher, batch, "float32").depth
    said = predict(teacher, batch, precision).depth
    difference = (said - exact).abs()
    relative = float((difference / exact.clamp(min=MIN_DEPTH_M)).mean())
    return (
        f"Precision {precision} differs from float32 by {float(difference.mean()):.3g} m in the mean and"
        f" {float(difference.max()):.3g} m at most, abs_rel {relative:.2g} ({len(batch)} images of the first batch)."
    )


def compile_networks(teacher: Teacher, batch: FrameBatch, rules: AnswerRules) -> None:
    """Compile the teacher's networks, and try them on a batch.

    Raises:
        ConfigError: there is nothing to compile, or it fails; says why in one line.
    """
    if not teacher.networks:
        raise ConfigError(f"Teacher {teacher.name} has no network to compile: leave --compile out.")
    try:
        for network in teacher.networks:
            network.compile()
        compute(teacher, forward_passes(teacher, batch, rules)[0], rules.precision)
    except TiekdError:
        raise
    except Exception as error:  # compilers fail in many ways; whatever it is, the user can do without
        raise ConfigError(
            f"--compile failed for teacher {teacher.name} ({first_line(error)}): leave it out."
        ) from error


def lay_out(teacher: Teacher, channels_last: bool | None, precision: str) -> None:
    """Put the networks' weights channels last, or leave them; None leaves them for float32 on CUDA only.

    On a CPU a forward pass of BTS ResNet-50 at 352 x 1216 takes a tenth less with channels last.
    """
    if channels_last is None:
        channels_last = teacher.device.type != "cuda" or precision != "float32"
    if channels_last:
        for network in teacher.networks:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
