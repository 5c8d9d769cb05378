"""Options of the commands that run a teacher: which one, what counts as an answer, and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from tiekd_cache.cli.common import Command

TEACHER_HELP = (
    "bts, bts-resnet50, bts-densenet161, lidar (no weights), hf:ORG/NAME, or your own package.module:factory."
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
            type=click.FloatRange(0.1, 1000.0),
            help="Metres; more stops the run.  [default: the data set's: 80 for KITTI, 10 for NYU]",
        ),
        click.option("--clip", is_flag=True, help="Cut responses to --max-depth instead of stopping."),
        click.option(
            "--shard-frames",
            type=click.IntRange(1, 4096),
            default=64,
            show_default=True,
            help="Frames a file of the store.",
        ),
    )


def speed_options(command: Command) -> Command:
    """--device and --batch-size: what may change the speed, never the answers beyond rounding."""
    return _add(
        command,
        click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, or auto."),
        click.option(
            "--batch-size", type=click.IntRange(1), default=4, show_default=True, help="Frames a forward pass."
        ),
    )


def _add(command: Command, *options: Any) -> Command:
    decorators: Sequence[Any] = options
    for option in reversed(decorators):
        command = option(command)
    return command
