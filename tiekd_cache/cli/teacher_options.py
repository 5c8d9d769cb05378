"""Options of the commands that run a teacher: which one, what counts as an answer, and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import click

from tiekd_cache.cli.common import Command, FiniteRange, shard_frames_option

TEACHER_HELP = (
    "bts, adabins, depthformer, lidar (no weights), or another of `tiekd-cache teachers`; hf:ORG/NAME; or your own "
    "package.module:factory."
)


def teacher_options(command: Command) -> Command:
    """--weights, --trained-on and --align: what `load_teacher` needs beside the teacher's name."""
    return _add(
        command,
        click.option(
            "--weights",
            metavar="FILE|random:SEED",
            help="Checkpoint as published.  [default: the teacher's file in $TIEKD_CHECKPOINTS or checkpoints/]",
        ),
        click.option(
            "--trained-on",
            type=click.Choice(["kitti", "nyu"]),
            default="kitti",
            show_default=True,
            help="Data set whose depth range (80 m, 10 m) the weights were trained for.",
        ),
        click.option(
            "--align",
            type=click.Choice(["gt"]),
            help="Fit a relative hf: model's scale and shift to each frame's sparse ground truth.",
        ),
    )


def answer_options(command: Command) -> Command:
    """--flip, --max-depth, --clip, --step and --shard-frames: what the store will hold."""
    return _add(
        command,
        click.option(
            "--flip/--no-flip",
            "flip_average",
            default=None,
            help="Average with the mirrored image's answer.  [default: as published: yes for networks]",
        ),
        click.option(
            "--max-depth",
            type=FiniteRange(0.1, 1000.0),
            help="Metres; more stops the run.  [default: the data set's: 80 for KITTI, 10 for NYU]",
        ),
        click.option(
            "--step",
            callback=_metres,
            metavar="M",
            help="Metres that responses are rounded to, e.g. 1/64 or 11/8192.  [default: 1/64; 1/512 up to 16 m]",
        ),
        click.option("--clip", is_flag=True, help="Cut responses to --max-depth instead of stopping."),
        shard_frames_option,
    )


def speed_options(command: Command) -> Command:
    """--device, --batch-size, --workers, --precision, --channels-last and --compile: how fast.

    Of these only --precision changes answers by more than rounding; the store names it.
    """
    return _add(
        command,
        click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, or auto."),
        click.option(
            "--batch-size", type=click.IntRange(1), help="Frames a forward pass.  [default: 1 on a CPU, 4 on a GPU]"
        ),
        click.option(
            "--workers", type=click.IntRange(1, 256), default=4, show_default=True, help="Threads that decode images."
        ),
        click.option(
            "--precision",
            type=click.Choice(["float32", "bf16", "fp16"]),
            default="float32",
            show_default=True,
            help="What the network computes in; the difference to float32 is measured and shown.",
        ),
        click.option(
            "--channels-last/--no-channels-last",
            default=None,
            help="Memory layout of the network.  [default: yes, but for float32 on CUDA]",
        ),
        click.option("--compile", is_flag=True, help="Compile the network first (torch.compile)."),
    )


def _metres(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    """A number or a fraction of metres."""
    try:
        return None if text is None else float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise click.BadParameter(f"'{text}' is no number of metres, nor a fraction such as 1/64") from None


def _add(command: Command, *options: Any) -> Command:
    decorators: Sequence[Any] = options
    for option in reversed(decorators):
        command = option(command)
    return command
