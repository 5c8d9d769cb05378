"""Stage two: a student learns from the cached responses; the teacher is not there any more."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch.utils.data import DataLoader

from tiekd_cache.checkpoint import load_checkpoint, save_checkpoint
from tiekd_cache.data.frame import FrameSource
from tiekd_cache.dataset import Batch, Sample, StepBatches, collate, start_worker
from tiekd_cache.distill_config import DistillConfig
from tiekd_cache.errors import RangeError, TiekdError
from tiekd_cache.interrupt import StopRequest
from tiekd_cache.progress import ProgressFactory, progress_bar
from tiekd_cache.run_folder import RunFolder
from tiekd_cache.store import ResponseStore
from tiekd_cache.students import save_student
from tiekd_cache.teacher_stores import check_same_stores, stores_record
from tiekd_cache.training_parts import TrainingParts, build_parts, num_workers
from tiekd_cache.version import __version__


class InterruptedRunError(TiekdError):
    """Ctrl-C stopped a run; what it had learned is saved."""


@dataclass(frozen=True)
class DistillReport:
    """What a run of stage two did.

    Attributes:
        run: its folder.
        steps: iterations done, those before a resume included.
        first_loss: mean total loss over the first tenth of the steps (at least one step).
        last_loss: the same over the last tenth.
        seconds: wall time of this start.
    """

    run: Path
    steps: int
    first_loss: float
    last_loss: float
    seconds: float


def distill(
    config: DistillConfig,
    source: FrameSource,
    stores: Sequence[ResponseStore],
    run_path: Path,
    *,
    device: torch.device,
    resume: bool = False,
    origin: Mapping[str, Any] = MappingProxyType({}),
    progress: ProgressFactory = progress_bar,
) -> DistillReport:
    """Trains the student that `config` names and leaves everything in the run folder.

    Args:
        source: the frames to train on; each store must hold a response to each.
        origin: what else `run.json` shall record, e.g. where the data lie.
        resume: go on from the run folder's last checkpoint; settings are then the run's own.
    Raises:
        ConfigError, StoreError: settings, run folder and stores do not fit together.
        RangeError: the loss became NaN or infinite; names the step and the frames.
        InterruptedRunError: Ctrl-C; a checkpoint of the last whole step is saved.
    """
    started = time.monotonic()
    resume = resume and RunFolder(run_path).last_checkpoint.exists()
    folder = RunFolder.open(run_path) if resume else RunFolder.unused(run_path)
    if resume:
        config = folder.config()
        check_same_stores(run_path, folder.run(), stores)
    parts = build_parts(config, source, stores, device, initial_weights=not resume)
    if not resume:  # only now, so that settings that cannot be built leave no folder behind
        folder.create(config, {**_run_record(source, stores), **origin})
    done = load_checkpoint(folder.last_checkpoint, parts) if resume else 0
    folder.cut_metrics(done)
    _train(config, parts, folder, device, done, progress)
    records = folder.metrics()
    save_student(folder.best_checkpoint, parts.student, {"step": parts.total_steps, **folder.run()})
    tenth = max(1, len(records) // 10)
    return DistillReport(
        run=run_path,
        steps=parts.total_steps,
        first_loss=_mean(record["loss"] for record in records[:tenth]),
        last_loss=_mean(record["loss"] for record in records[-tenth:]),
        seconds=time.monotonic() - started,
    )


def training_step(parts: TrainingParts, batch: Sample, grad_clip: float) -> dict[str, float]:
    """One optimisation step; returns its named losses, learning rate and gradient norm.

    Rows above the cut are dropped from the features, before the head: the head is a 1x1 convolution, so this
    equals cutting its output, and costs less.
    """
    rows = slice(parts.rows_cut, None)
    parts.optimiser.zero_grad(set_to_none=True)
    result = parts.objective(
        parts.student(batch.image)[:, :, rows],
        parts.student.head,
        batch.teacher_depth[:, :, rows],
        batch.valid_mask[:, :, rows],
        batch.gt_depth[:, :, rows],
    )
    total = float(result.total.detach())
    if not math.isfinite(total):
        raise RangeError(
            f"The loss is {total} (frames {', '.join(batch.frame_ids)}): training cannot go on. The last checkpoint is "
            "from before this step; try a lower optimiser.lr, and look at these frames."
        )
    result.total.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(parts.student.parameters(), grad_clip)
    lr = float(parts.schedule.get_last_lr()[0])
    parts.optimiser.step()
    parts.schedule.step()
    terms = {f"l_{name}": float(value) for name, value in result.terms.items()}
    return {"loss": total, **terms, "lr": lr, "grad_norm": float(norm)}


def _train(
    config: DistillConfig,
    parts: TrainingParts,
    folder: RunFolder,
    device: torch.device,
    done: int,
    progress: ProgressFactory,
) -> None:
    """The loop; saves on the way, at the end, and when interrupted."""
    parts.student.train()
    batches = _loader(config, parts, device, done)
    with progress(parts.total_steps, f"distill {config.student.name}", "step", done) as bar, StopRequest() as stop:
        for step, batch in enumerate(batches, start=done + 1):
            begun = time.monotonic()
            numbers = training_step(parts, batch.to(device), config.optimiser.grad_clip)
            seconds = time.monotonic() - begun
            epoch = step * config.train.batch_size / len(parts.dataset)
            folder.append_metrics({"step": step, "epoch": round(epoch, 3), **numbers, "seconds": round(seconds, 4)})
            bar.set_postfix(loss=f"{numbers['loss']:.3f}", refresh=False)
            bar.update(1)
            last = step == parts.total_steps
            if last or stop.requested or step % config.train.save_every == 0:
                save_checkpoint(folder.last_checkpoint, parts, step, folder.run())
            if stop.requested and not last:
                raise InterruptedRunError(
                    f"Stopped after step {step} of {parts.total_steps}, which is saved. Go on with "
                    f"`tiekd-cache distill --resume --run {folder.path}`."
                )


def _loader(config: DistillConfig, parts: TrainingParts, device: torch.device, done: int) -> Iterable[Batch]:
    workers = num_workers(config)
    order = StepBatches(len(parts.dataset), config.train.batch_size, done, parts.total_steps, config.train.seed)
    return DataLoader(
        parts.dataset,
        batch_sampler=order,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=start_worker,
    )


def _run_record(source: FrameSource, stores: Sequence[ResponseStore]) -> dict[str, Any]:
    return {
        **stores_record(stores),
        "dataset": source.name,
        "split": source.split,
        "frames": len(source.frame_ids),
        "tiekd_cache": __version__,
        "torch": torch.__version__,
    }


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else math.nan
