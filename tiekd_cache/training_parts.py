"""Settings -> the objects that train: the only place where a `DistillConfig` field meets its object."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tiekd_cache.data.frame import FrameSource
from tiekd_cache.data.transforms import TrainTransform
from tiekd_cache.dataset import ResponseDataset
from tiekd_cache.distill_config import DistillConfig
from tiekd_cache.dpm import Bins
from tiekd_cache.errors import ConfigError
from tiekd_cache.losses.objective import Objective
from tiekd_cache.store import ResponseStore
from tiekd_cache.students import Student, build_student


@dataclass
class TrainingParts:
    """What one training run consists of."""

    dataset: ResponseDataset
    student: Student
    objective: Objective
    optimiser: torch.optim.AdamW
    schedule: torch.optim.lr_scheduler.OneCycleLR
    total_steps: int
    rows_cut: int


def build_parts(
    config: DistillConfig,
    source: FrameSource,
    stores: Sequence[ResponseStore],
    device: torch.device,
    *,
    initial_weights: bool = True,
) -> TrainingParts:
    """The objects of a run, as its settings say.

    Args:
        initial_weights: False where a checkpoint will replace the weights at once: ImageNet weights are then
            not fetched.
    Raises:
        ConfigError: the crop is larger than the images, or the weights of the stores are not as many as these.
    """
    height, width = source.image_size
    crop_height, crop_width = config.train.crop
    if crop_height > height or crop_width > width:
        raise ConfigError(f"train.crop {crop_height}x{crop_width} is larger than the images ({height}x{width}).")
    transform = TrainTransform(config.train.crop, config.train.row_cut, config.augmentation)
    student = build_student_from(config, pretrained=config.student.pretrained and initial_weights).to(device)
    objective = Objective.from_config(config.loss, student.bins)
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
    return TrainingParts(
        dataset=ResponseDataset(
            source,
            stores,
            transform,
            config.train.seed,
            with_gt=objective.needs_gt,
            mix=config.teachers.mix,
            weights=config.teachers.weights,
        ),
        student=student,
        objective=objective,
        optimiser=optimiser,
        schedule=schedule,
        total_steps=total_steps,
        rows_cut=transform.rows_cut(height),
    )


def build_student_from(config: DistillConfig, *, pretrained: bool) -> Student:
    """The student that the settings name, its weights drawn from the run's seed."""
    settings = config.student
    bins = Bins.uniform(settings.min_depth, settings.max_depth, settings.num_bins)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        return build_student(settings.name, pretrained=pretrained, bins=bins, decoder_width=settings.decoder_width)


def num_workers(config: DistillConfig) -> int:
    """Loader processes: as set, else one less than the cores, at most 8; none on two cores, where they compete."""
    if config.train.workers is not None:
        return config.train.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return 0 if cores <= 2 else min(8, cores - 1)
