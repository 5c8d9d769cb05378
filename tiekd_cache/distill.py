"""Stage two: a student learns from the cached responses; the teacher is not there any more."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch.utils.data import DataLoader

from tiekd_cache.checkpoint import load_checkpoint
from tiekd_cache.data.frame import FrameSource
from tiekd_cache.dataset import Batch, StepBatches, collate, start_worker
from tiekd_cache.distill_config import DistillConfig
from tiekd_cache.errors import StoreError, TiekdError
from tiekd_cache.progress import ProgressFactory, no_progress_bar, progress_bar
from tiekd_cache.ranks import Ranks
from tiekd_cache.run_folder import RunFolder
from tiekd_cache.scalar_log import ScalarLog
from tiekd_cache.store import ResponseStore
from tiekd_cache.teacher_stores import fingerprints, stores_record
from tiekd_cache.training_loop import InterruptedRunError, TrainingLoop, best_so_far
from tiekd_cache.training_parts import TrainingParts, build_parts, num_workers
from tiekd_cache.training_step import ShareOfBatches
from tiekd_cache.version import __version__

__all__ = ["DistillReport", "InterruptedRunError", "distill"]


@dataclass(frozen=True)
class DistillReport:
    """What a run of stage two did.

    Attributes:
        run: its folder.
        steps: iterations done, those before a resume included.
        first_loss: mean total loss over the first tenth of the steps (at least one step).
        last_loss: the same over the last tenth.
        seconds: wall time of this start.
        best: `step` and `abs_rel` of the validation that best.pt is of; None = without validation, the last step.
    """

    run: Path
    steps: int
    first_loss: float
    last_loss: float
    seconds: float
    best: Mapping[str, float] | None = None


def distill(
    config: DistillConfig,
    source: FrameSource,
    stores: Sequence[ResponseStore],
    run_path: Path,
    *,
    device: torch.device,
    resume: bool = False,
    other_store: bool = False,
    validation: FrameSource | None = None,
    ranks: Ranks | None = None,
    origin: Mapping[str, Any] = MappingProxyType({}),
    progress: ProgressFactory = progress_bar,
    note: Callable[[str], None] = lambda text: None,
) -> DistillReport:
    """Trains the student that `config` names and leaves everything in the run folder.

    Args:
        source: the frames to train on; each store must hold a response to each.
        resume: go on from the run folder's last checkpoint; settings are then the run's own. Without it, too, a
            finished run with the same settings is left as it is.
        other_store: resume with another store or other frames than the run was trained from; `run.json` records it.
        validation: frames with ground truth to validate on now and then; None = no validation.
        ranks: the processes of the run; None = this one alone.
        origin: what else `run.json` shall record, e.g. where the data lie.
        note: told what a user should read, a sentence at a time.
    Raises:
        ConfigError, StoreError: settings, run folder and stores do not fit together.
        NotFiniteError: a loss or gradient became NaN or infinite; names the step's frames.
        InterruptedRunError: Ctrl-C; a checkpoint of the last whole step is saved.
    """
    started = time.monotonic()
    ranks = Ranks(device=device) if ranks is None else ranks
    folder, resume = _open_folder(run_path, config, resume)
    record = _run_record(source, stores)
    if resume:
        config = folder.config()
        _check_same_answers(folder, record, other_store)
        if folder.is_finished():
            note(f"Run: {run_path} is finished already, nothing was left to do")
    parts = build_parts(config, source, stores, device, initial_weights=not resume, ranks=ranks)
    done = load_checkpoint(folder.last_checkpoint, parts) if resume else 0
    ranks.gather(done)  # no process may find what the first one writes now
    scalars = ScalarLog(folder.tensorboard, done) if config.train.tensorboard and ranks.first else None
    if ranks.first:
        if not resume:  # only now, so that settings that cannot be built leave no folder behind
            folder.create(config, {**record, **origin})
        if done < parts.total_steps:  # a finished run learns nothing from others
            _note_other_answers(folder, record, done)
        folder.cut_after(done)
    loop = TrainingLoop(
        config,
        parts,
        folder,
        ranks,
        validation=validation,
        scalars=scalars,
        best=best_so_far(folder.validations()) if ranks.first else None,
        progress=progress if ranks.first else no_progress_bar,
        note=note,
    )
    try:
        loop.run(_loader(config, parts, ranks, done), done)
    finally:
        if scalars is not None:
            scalars.close()
    if ranks.first and not folder.is_finished():
        if loop.best is None:
            loop.keep_best()
        folder.update_run(finished=True)
    ranks.gather(None)  # the folder is whole before any process reads it
    records = folder.metrics()
    tenth = max(1, len(records) // 10)
    return DistillReport(
        run=run_path,
        steps=parts.total_steps,
        first_loss=_mean(record["loss"] for record in records[:tenth]),
        last_loss=_mean(record["loss"] for record in records[-tenth:]),
        seconds=time.monotonic() - started,
        best=loop.best,
    )


def _open_folder(run_path: Path, config: DistillConfig, resume: bool) -> tuple[RunFolder, bool]:
    """The run's folder, and whether to go on from its checkpoint: as was asked, or because nothing is left to do."""
    folder = RunFolder(run_path)
    if folder.last_checkpoint.exists() and (resume or (folder.is_finished() and folder.config() == config)):
        return RunFolder.open(run_path), True
    return RunFolder.unused(run_path), False


def _loader(config: DistillConfig, parts: TrainingParts, ranks: Ranks, done: int) -> Iterable[Batch]:
    workers = num_workers(config)
    order = StepBatches(len(parts.dataset), config.train.batch_size, done, parts.total_steps, config.train.seed)
    loader = DataLoader(
        parts.dataset,
        batch_sampler=ShareOfBatches(order, ranks, config.train.accumulate),
        collate_fn=collate,
        num_workers=workers,
        pin_memory=ranks.device.type == "cuda",
        worker_init_fn=start_worker,
        **start_of_workers(parts.dataset.stores, workers),
    )
    return _errors_in_one_line(loader)


def _errors_in_one_line(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches; of an error in a worker, which comes with the worker's traceback in its text, only what it says."""
    try:
        yield from batches
    except TiekdError as error:
        said = Exception.__str__(error).strip()
        if "\n" not in said:
            raise
        raise type(error)(said.rpartition("\n")[2].partition(": ")[2]) from None


def start_of_workers(stores: Sequence[ResponseStore], workers: int) -> dict[str, Any]:
    """What DataLoader must be told where a store is read over a network.

    Its client's threads do not survive a fork, so that forked workers would wait for ever: they are spawned, and kept,
    as starting one takes seconds.
    """
    if not workers or not any(store.over_network for store in stores):
        return {}
    return {"multiprocessing_context": "spawn", "persistent_workers": True}


def _run_record(source: FrameSource, stores: Sequence[ResponseStore]) -> dict[str, Any]:
    return {
        **stores_record(stores),
        "dataset": source.name,
        "split": source.split,
        "frames": len(source.frame_ids),
        "frames_digest": hashlib.sha256("\n".join(source.frame_ids).encode()).hexdigest(),
        "tiekd_cache": __version__,
        "torch": torch.__version__,
    }


def _check_same_answers(folder: RunFolder, record: Mapping[str, Any], other_store: bool) -> None:
    """Raise StoreError unless store and frames are those that the run was trained from, or others are wanted."""
    before = folder.run()
    if other_store:
        return
    was, now = fingerprints(before), fingerprints(record)
    if was != now:
        names = ", ".join(str(entry["store"]) for entry in record["stores"])
        raise StoreError(
            f"The run {folder.path} was trained from store {_short(was)}, but {names} is {_short(now)}: other answers. "
            "Name the run's own stores in their order, start a new run, or pass --other-store to go on with these."
        )
    if before.get("frames_digest", record["frames_digest"]) != record["frames_digest"]:
        raise StoreError(
            f"The run {folder.path} was trained on {before['frames']} frames, but these {record['frames']} are others: "
            "the order would be another. Name the run's own split, start a new run, or pass --other-store."
        )


def _note_other_answers(folder: RunFolder, record: Mapping[str, Any], done: int) -> None:
    """Record in run.json that the run goes on with another store or other frames, and since which step."""
    before = folder.run()
    keys = ("store", "fingerprint", "teacher", "stores", "frames", "frames_digest")
    unchanged = fingerprints(before), before.get("frames_digest", record["frames_digest"])
    if unchanged == (fingerprints(record), record["frames_digest"]):
        return
    earlier = {**{key: before.get(key) for key in keys}, "until_step": done}
    changed = {key: record[key] for key in keys}
    folder.update_run(**changed, earlier_stores=[*before.get("earlier_stores", []), earlier])


def _short(fingerprints: Sequence[str]) -> str:
    return ", ".join(fingerprint[:12] for fingerprint in fingerprints)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else math.nan
