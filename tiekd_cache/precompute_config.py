"""The settings of stage one."""

from __future__ import annotations

from dataclasses import dataclass

from tiekd_cache.answering import AnswerRules
from tiekd_cache.data.frame import FrameSource
from tiekd_cache.errors import ConfigError
from tiekd_cache.speed import default_batch_size
from tiekd_cache.teachers import Teacher


@dataclass(frozen=True)
class PrecomputeConfig:
    """Settings of stage one.

    Attributes:
        batch_size: frames a forward pass, mirror images not counted; None = 1 on a CPU, 4 on a GPU.
        flip_average: average with the mirrored image's answer; None = as the teacher's kind suggests.
        max_depth: metres; a response beyond it stops the run; None = the data set's own (80 for KITTI).
        clip: cut responses to `max_depth` instead of stopping.
        shard_frames: frames a shard: what a kill can cost, and what one file holds.
        step: metres; what a response is rounded to. None = 1/64 m, and 1/512 m where max_depth is at most 16 m.
        workers: threads that decode images ahead.
        precision: float32, bf16 or fp16: what the teacher computes in.
        channels_last: memory layout of its networks; None = what is faster on the device.
        compile: compile its networks first.
        with_images: store the images as well, so that stage two needs nothing but the store.
    """

    batch_size: int | None = None
    flip_average: bool | None = None
    max_depth: float | None = None
    clip: bool = False
    shard_frames: int = 64
    step: float | None = None
    workers: int = 4
    precision: str = "float32"
    channels_last: bool | None = None
    compile: bool = False
    with_images: bool = False

    def rules(self, teacher: Teacher, source: FrameSource) -> AnswerRules:
        """What was left to the teacher and to the data, decided.

        Raises:
            ConfigError: a precision is asked for, and the teacher's arithmetic does not follow it.
        """
        if self.precision != "float32" and not teacher.autocasts:
            raise ConfigError(f"Teacher {teacher.name} does not compute in {self.precision}: leave --precision out.")
        return AnswerRules(
            batch_size=default_batch_size(teacher.device) if self.batch_size is None else self.batch_size,
            flip_average=teacher.flip_average if self.flip_average is None else self.flip_average,
            max_depth=source.max_depth if self.max_depth is None else self.max_depth,
            clip=self.clip,
            precision=self.precision,
            workers=self.workers,
        )
