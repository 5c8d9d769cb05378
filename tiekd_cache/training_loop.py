"""The loop of stage two: steps, lines of metrics, checkpoints, validations, and a stop between two steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar

from tiekd_cache.checkpoint import save_checkpoint
from tiekd_cache.data.frame import FrameSource
from tiekd_cache.dataset import Batch
from tiekd_cache.distill_config import DistillConfig
from tiekd_cache.errors import SharedError
from tiekd_cache.interrupt import INTERRUPTED, StopRequest
from tiekd_cache.progress import ProgressFactory, beside_bars, progress_bar
from tiekd_cache.ranks import Ranks
from tiekd_cache.run_folder import RunFolder
from tiekd_cache.scalar_log import ScalarLog
from tiekd_cache.students import save_student
from tiekd_cache.training_parts import TrainingParts
from tiekd_cache.training_step import seed_step, training_step
from tiekd_cache.validation import is_better, validate


class InterruptedRunError(SharedError):
    """Ctrl-C stopped a run; what it had learned is saved."""

    exit_code: ClassVar[int] = INTERRUPTED


@dataclass
class TrainingLoop:
    """A run from one step to its end; only the first process writes.

    Attributes:
        validation: frames to validate on; None = no validation.
        scalars: where numbers go beside the JSON lines.
        best: `step` and `abs_rel` of the best validation so far.
    """

    config: DistillConfig
    parts: TrainingParts
    folder: RunFolder
    ranks: Ranks
    validation: FrameSource | None = None
    scalars: ScalarLog | None = None
    best: dict[str, float] | None = None
    progress: ProgressFactory = progress_bar
    note: Callable[[str], None] = lambda text: None
    _shown: dict[str, str] = field(default_factory=dict)

    def run(self, batches: Iterable[Batch], done: int) -> None:
        """Take the steps after `done`; `batches` are this process's, `accumulate` of them a step.

        Raises:
            InterruptedRunError: asked to stop; a checkpoint of the last whole step is saved.
            NotFiniteError: as `training_step`.
        """
        train, total = self.config.train, self.parts.total_steps
        pieces = iter(batches)
        validated = train.validation_steps(len(self.parts.dataset)) if self.validation is not None else set()
        title = f"distill {self.config.student.name}"
        with self.progress(total, title, "step", done) as bar, StopRequest() as stop:
            if done in validated and all(line["step"] != done for line in self.folder.validations()):
                self._validate(done)  # the run stopped before it came to this
            for step in range(done + 1, total + 1):
                stopping = self._step(step, pieces, stop.requested)
                bar.set_postfix(self._shown, refresh=False)
                bar.update(1)
                if step in validated and (not stopping or step == total):
                    self._validate(step)
                if step == total or stopping or step in validated or step % train.save_every == 0:
                    self._save(step)
                if stopping and step < total:
                    raise InterruptedRunError(
                        f"Stopped after step {step} of {total}, which is saved. Go on with "
                        f"`tiekd-cache distill --resume --run {self.folder.path}`."
                    )

    def _step(self, step: int, pieces: Iterator[Batch], stop: bool) -> bool:
        """One step and its line; returns whether any process is asked to stop."""
        train, optimiser = self.config.train, self.config.optimiser
        self.parts.student.train()
        loaded = list(islice(pieces, self.parts.accumulate))
        begun = time.monotonic()
        seed_step(train.seed, step, self.ranks.rank)
        samples = [batch.to(self.ranks.device) for batch in loaded]
        numbers, stopping = training_step(self.parts, samples, step, optimiser.grad_clip, self.ranks, stop)
        seconds = time.monotonic() - begun
        epoch = step * train.batch_size / len(self.parts.dataset)
        record = {"step": step, "epoch": round(epoch, 3), **numbers, "seconds": round(seconds, 4)}
        if self.ranks.first:
            self.folder.append(self.folder.metrics_file, record)
            if self.scalars is not None:
                self.scalars.add("train", record)
        self._shown["loss"] = f"{numbers['loss']:.3f}"
        return stopping

    def _validate(self, step: int) -> None:
        """One line in validation.jsonl; the best student so far becomes best.pt."""
        if not self.ranks.first or self.validation is None:
            return
        begun = time.monotonic()
        metrics = validate(self.parts.best_student, self.validation)
        frames = len(self.validation.frame_ids)
        record = {"step": step, **metrics, "frames": frames, "seconds": round(time.monotonic() - begun, 2)}
        if is_better(metrics["abs_rel"], None if self.best is None else self.best["abs_rel"]):
            self.best = {"step": step, "abs_rel": metrics["abs_rel"]}
            self.keep_best()
        self.folder.append(self.folder.validation_file, record)  # a line means that best.pt is written
        if self.scalars is not None:
            self.scalars.add("validation", record)
        self._shown["abs_rel"] = f"{metrics['abs_rel']:.3f}"
        with beside_bars():
            said = f"abs_rel {metrics['abs_rel']:.4f}, rmse {metrics['rmse']:.3f} m (test frames: {frames})"
            self.note(f"Step {step}: {said}")

    def keep_best(self) -> None:
        """Write best.pt from the student as it is now."""
        meta = {"step": self.parts.total_steps if self.best is None else self.best["step"], **self.folder.run()}
        save_student(self.folder.best_checkpoint, self.parts.best_student, {**meta, "best": self.best})

    def _save(self, step: int) -> None:
        if self.ranks.first:
            save_checkpoint(self.folder.last_checkpoint, self.parts, step, self.folder.run())


def best_so_far(validations: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """`step` and `abs_rel` of the first of the best lines of validation.jsonl; None where there is none."""
    best: dict[str, float] | None = None
    for line in validations:
        if is_better(line["abs_rel"], None if best is None else best["abs_rel"]):
            best = {"step": line["step"], "abs_rel": line["abs_rel"]}
    return best
