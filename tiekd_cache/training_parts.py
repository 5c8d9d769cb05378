"""Settings -> the objects that train: the only place where a `DistillConfig` field meets its object."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tiekd_cache.data.frame import FrameSource
from tiekd_cache.data.protocol import protocol_of
from tiekd_cache.data.transforms import TrainTransform
from tiekd_cache.dataset import ResponseDataset
from tiekd_cache.distill_config import DistillConfig
from tiekd_cache.dpm import Bins
from tiekd_cache.errors import ConfigError
from tiekd_cache.losses.objective import Objective
from tiekd_cache.ranks import Ranks
from tiekd_cache.store import ResponseStore
from tiekd_cache.students import Student, build_student
from tiekd_cache.timm_compat import timm_module
from tiekd_cache.training_module import TrainingModule, check_precision
from tiekd_cache.weight_average import WeightAverage


@dataclass
class TrainingParts:
    """What one training run consists of.

    Attributes:
        module: student and objective, wrapped for several processes where there are any.
        average: of the student's weights; None where none is asked for, or another process keeps it.
        rows_cut: rows at the top of the crop that do not count in the losses.
        accumulate: forward passes a step.
    """

    dataset: ResponseDataset
    student: Student
    objective: Objective
    optimiser: torch.optim.AdamW
    schedule: torch.optim.lr_scheduler.OneCycleLR
    total_steps: int
    rows_cut: int
    module: nn.Module
    average: WeightAverage | None = None
    accumulate: int = 1

    @property
    def best_student(self) -> Student:
        """The student that is validated and kept: the average's where there is one."""
        return self.student if self.average is None else self.average.student

    def gradients_stay_here(self, stay: bool) -> AbstractContextManager[None]:
        """While entered, a backward pass does not average gradients between processes, if `stay`."""
        if stay and isinstance(self.module, DistributedDataParallel):
            waiting: AbstractContextManager[None] = self.module.no_sync()
            return waiting
        return nullcontext()


def build_parts(
    config: DistillConfig,
    source: FrameSource,
    stores: Sequence[ResponseStore],
    device: torch.device,
    *,
    initial_weights: bool = True,
    ranks: Ranks | None = None,
) -> TrainingParts:
    """The objects of a run, as its settings say.

    Args:
        initial_weights: False where a checkpoint will replace the weights at once: ImageNet weights are then
            not fetched.
        ranks: the processes of the run; None = this one alone.
    Raises:
        ConfigError: the crop is larger than the images, the loss needs ground truth and no frame has any, the batch
            cannot be divided as asked for, or the weights of the stores are not as many as these.
        DeviceError: the device does not compute in the precision.
    """
    ranks = Ranks(device=device) if ranks is None else ranks
    check_precision(config.train.precision, device)
    _check_division(config, ranks)
    height, width = source.image_size
    crop_height, crop_width = config.train.crop
    if crop_height > height or crop_width > width:
        raise ConfigError(f"train.crop {crop_height}x{crop_width} is larger than the images ({height}x{width}).")
    row_cut = config.train.row_cut
    if row_cut is None:
        row_cut = protocol_of(source.name, source.max_depth).first_row
    transform = TrainTransform(config.train.crop, row_cut, config.augmentation)
    student = build_student_from(config, pretrained=config.student.pretrained and initial_weights).to(device)
    lay_out(student, config, ranks)
    mixture = config.teachers
    objective = Objective.from_config(
        config.loss,
        student.bins,
        output=student.output,
        teacher_weights=mixture.weights if mixture.mix == "average" else (),
    )
    settings = config.optimiser
    optimiser = torch.optim.AdamW(
        student.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay
    )
    total_steps = config.train.total_steps(len(source.frame_ids))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=settings.lr,
        total_steps=total_steps + 1,  # the schedule counts its starting point as a step
        pct_start=settings.warmup_share,
        cycle_momentum=False,  # the published betas are constant
        div_factor=settings.div_factor,
        final_div_factor=settings.final_div_factor,
    )
    decay = config.train.ema_decay
    return TrainingParts(
        dataset=ResponseDataset(
            source,
            stores,
            transform,
            config.train.seed,
            with_gt=objective.needs_gt,
            mix=mixture.mix,
            weights=mixture.weights,
        ),
        student=student,
        objective=objective,
        optimiser=optimiser,
        schedule=schedule,
        total_steps=total_steps,
        rows_cut=transform.rows_cut(height),
        module=_module(config, student, objective, transform.rows_cut(height), ranks),
        average=WeightAverage(student, decay) if decay > 0 and ranks.first else None,
        accumulate=config.train.accumulate,
    )


def uses_channels_last(config: DistillConfig, device: torch.device) -> bool:
    """As set, else on a GPU in bf16, where convolutions want it; elsewhere sums keep the order they always had."""
    if config.train.channels_last is not None:
        return config.train.channels_last
    return device.type == "cuda" and config.train.precision == "bf16"


def _check_division(config: DistillConfig, ranks: Ranks) -> None:
    parts = ranks.world_size * config.train.accumulate
    if config.train.batch_size % parts:
        raise ConfigError(
            f"train.batch_size = {config.train.batch_size} cannot be divided into {ranks.world_size} processes x "
            f"train.accumulate = {config.train.accumulate}: make it a multiple of {parts}."
        )


def lay_out(student: Student, config: DistillConfig, ranks: Ranks) -> None:
    """Memory layout, and BatchNorm over all GPUs; in place, so that names in files stay the same."""
    if ranks.world_size > 1 and ranks.device.type == "cuda":
        timm_module().layers.convert_sync_batchnorm(student)
    if uses_channels_last(config, ranks.device):
        student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _module(config: DistillConfig, student: Student, objective: Objective, rows_cut: int, ranks: Ranks) -> nn.Module:
    module: nn.Module = TrainingModule(
        student,
        objective,
        rows_cut=rows_cut,
        precision=config.train.precision,
        channels_last=uses_channels_last(config, ranks.device),
        compiled=config.train.compile,
    )
    if ranks.world_size == 1:
        return module
    gpu = [ranks.device] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=gpu)


def build_student_from(config: DistillConfig, *, pretrained: bool) -> Student:
    """The student that the settings name, its weights drawn from the run's seed."""
    settings = config.student
    bins = Bins.spaced(settings.spacing, settings.min_depth, settings.max_depth, settings.num_bins)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        return build_student(
            settings.name,
            pretrained=pretrained,
            bins=bins,
            decoder_width=settings.decoder_width,
            decoder=settings.decoder,
            output=config.loss.student_output if settings.output == "auto" else settings.output,
        )


def num_workers(config: DistillConfig) -> int:
    """Loader processes: as set, else one less than the cores, at most 8; none on two cores, where they compete."""
    if config.train.workers is not None:
        return config.train.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return 0 if cores <= 2 else min(8, cores - 1)
