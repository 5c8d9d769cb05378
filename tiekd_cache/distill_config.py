"""The settings of stage two; the defaults are the paper's for KITTI."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tiekd_cache.data.transforms import Augmentation
from tiekd_cache.errors import ConfigError
from tiekd_cache.losses.loss_config import LossConfig


@dataclass(frozen=True)
class StudentConfig:
    """Which student.

    Attributes:
        name: e.g. `resnet18`, or `timm:NAME`.
        pretrained: start from ImageNet weights.
        decoder: `densedepth`, as published, or `slim`.
        decoder_width: multiplies the decoder's channels; 1.0 = as published.
        output: `dpm`, `depth` (plain regression), or `auto` = as published for the loss: `depth` for `baseline` and
            `res-kd-…`, `dpm` for all others.
        num_bins: depth bins K.
        spacing: of the bins: `uniform` (as published), `log` or `inverse`.
        min_depth: nearest bin edge, metres.
        max_depth: farthest bin edge, metres.
    """

    name: str = "resnet18"
    pretrained: bool = True
    decoder: str = "densedepth"
    decoder_width: float = 1.0
    output: str = "auto"
    num_bins: int = 257
    spacing: str = "uniform"
    min_depth: float = 1e-3
    max_depth: float = 80.0


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW and a one-cycle learning rate, per iteration.

    Attributes:
        lr: highest learning rate.
        betas: of AdamW.
        weight_decay: of AdamW.
        warmup_share: share of the steps in which the rate rises.
        div_factor: lr / first rate.
        final_div_factor: first rate / last rate.
        grad_clip: largest norm of the gradient; inf = no clipping.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.95, 0.99)
    weight_decay: float = 0.01
    warmup_share: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 100.0
    grad_clip: float = 35.0

    def __post_init__(self) -> None:
        for name in ("lr", "div_factor", "final_div_factor"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ConfigError(f"optimiser.{name} = {value}: must be positive and finite.")
        if not self.grad_clip > 0:
            raise ConfigError(f"optimiser.grad_clip = {self.grad_clip}: must be positive; inf = no clipping.")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"optimiser.weight_decay = {self.weight_decay}: must be finite, and 0 or more.")
        if not 0 <= self.warmup_share <= 1:
            raise ConfigError(f"optimiser.warmup_share = {self.warmup_share}: a share of the steps lies in 0..1.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"optimiser.betas = {list(self.betas)}: each must be at least 0 and less than 1.")


@dataclass(frozen=True)
class TrainConfig:
    """How long, how large, how often.

    Attributes:
        epochs: passes over the frames; not used where `steps` is given.
        steps: iterations, or None for `epochs`.
        batch_size: samples a step, over all processes and forward passes together.
        crop: (height, width) of the training crop, pixels.
        row_cut: rows at the top of the images that carry no measurements and are cut before the losses; None = by
            the data set: 110 for KITTI, 0 for others.
        limit_frames: use only the first so many frames.
        seed: of weights, order and augmentation.
        workers: processes that prepare samples; None = by the number of cores. Never changes the result.
        save_every: steps between checkpoints.
        picture_frames: rows of the picture grid.
        precision: of the student up to its features, `float32` or `bf16`; losses and weights are float32.
        channels_last: memory layout of the student; None = on a GPU in bf16.
        compile: run the student through `torch.compile`.
        accumulate: forward passes that a step's samples are divided into, for memory; BatchNorm sees one at a time.
        ema_decay: share of the old that the running average of the weights keeps a step, e.g. 0.999; 0 = none.
        validate_every: steps between validations; None = an epoch.
        validate_frames: frames of the test split that are validated on; 0 = none.
        tensorboard: write metrics for TensorBoard too.
    """

    epochs: int = 24
    steps: int | None = None
    batch_size: int = 16
    crop: tuple[int, int] = (352, 704)
    row_cut: int | None = None
    limit_frames: int | None = None
    seed: int = 0
    workers: int | None = None
    save_every: int = 500
    picture_frames: int = 4
    precision: str = "float32"
    channels_last: bool | None = None
    compile: bool = False
    accumulate: int = 1
    ema_decay: float = 0.0
    validate_every: int | None = None
    validate_frames: int = 64
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "batch_size", "limit_frames", "save_every", "accumulate", "validate_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"train.{name} = {value}: must be at least 1.")
        for name in ("picture_frames", "validate_frames"):
            if getattr(self, name) < 0:
                raise ConfigError(f"train.{name} = {getattr(self, name)}: must be at least 0; 0 = none.")
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"train.workers = {self.workers}: must be at least 0; 0 = no processes.")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"train.seed = {self.seed}: must be at least 0 and less than 2^63.")
        if self.precision not in ("float32", "bf16"):
            raise ConfigError(f'train.precision = "{self.precision}" is not known. Use float32 or bf16.')
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"train.ema_decay = {self.ema_decay}: must be at least 0 and less than 1; 0 = none.")

    def total_steps(self, num_frames: int) -> int:
        """Iterations of the whole run."""
        return self.steps if self.steps is not None else -(-self.epochs * num_frames // self.batch_size)

    def validation_steps(self, num_frames: int) -> set[int]:
        """After which steps to validate: early, so that mistakes show at once; regularly; and after the last one."""
        total = self.total_steps(num_frames)
        every = self.validate_every if self.validate_every is not None else -(-num_frames // self.batch_size)
        return {min(100, max(1, total // 100)), *range(every, total, every), total}


MIXES = ("average", "sample")
"""What becomes of several stores' responses to a frame."""


@dataclass(frozen=True)
class TeachersConfig:
    """How a student learns from several stores; without effect where there is one.

    Attributes:
        mix: `average` puts every store's response into each sample (the loss averages over them); `sample` one of
            them, drawn for each sample.
        weights: of the stores, in their order, relative to each other; empty = equal.
    """

    mix: str = "average"
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.mix not in MIXES:
            raise ConfigError(f"teachers.mix = '{self.mix}' is not known. Use one of: {', '.join(MIXES)}.")
        if not all(0 < weight < math.inf for weight in self.weights):
            raise ConfigError(f"teachers.weights = {list(self.weights)}: each must be positive and finite.")

    def shares(self, num_stores: int) -> tuple[float, ...]:
        """Each store's weight, so that they sum to 1; raises ConfigError where they are not as many as the stores."""
        if self.weights and len(self.weights) != num_stores:
            raise ConfigError(
                f"{len(self.weights)} teachers.weights for {num_stores} stores: give a --store-weight for each --store."
            )
        weights = self.weights or (1.0,) * num_stores
        return tuple(weight / sum(weights) for weight in weights)


@dataclass(frozen=True)
class DistillConfig:
    """Everything that determines a run of stage two, but for the data and the store."""

    student: StudentConfig = field(default_factory=StudentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    teachers: TeachersConfig = field(default_factory=TeachersConfig)
