"""Training state to a file and back: enough to go on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiekd_cache.errors import CheckpointError
from tiekd_cache.students.student_io import read_payload, student_payload, write_payload
from tiekd_cache.training_parts import TrainingParts


def save_checkpoint(path: Path, parts: TrainingParts, step: int, run: Mapping[str, Any]) -> None:
    """Write student, average, optimiser, schedule and step atomically; a kill leaves the previous checkpoint.

    No random state is kept: order and augmentation follow from seed and step (dataset.py), and so does what a
    student draws (training_step.py).

    Args:
        run: what the run is trained from, its store's fingerprint among it.
    """
    payload = student_payload(parts.student, {"step": step, **run})
    payload["optimiser"] = parts.optimiser.state_dict()
    payload["schedule"] = parts.schedule.state_dict()
    payload["step"] = step
    payload["total_steps"] = parts.total_steps
    payload["average"] = None if parts.average is None else parts.average.student.state_dict()
    write_payload(path, payload)


def load_checkpoint(path: Path, parts: TrainingParts) -> int:
    """Bring the parts to the checkpoint's state; returns the number of steps done.

    Raises:
        CheckpointError: the file is truncated, or of a run with another student or another length.
    """
    payload = read_payload(path)
    if payload.get("total_steps") != parts.total_steps:
        raise CheckpointError(
            f"{path} is of a run of {payload.get('total_steps')} steps, not {parts.total_steps}: the learning rate "
            "would follow another curve. Start a new run with another --run."
        )
    try:
        parts.student.load_state_dict(payload["state_dict"])
        parts.optimiser.load_state_dict(payload["optimiser"])
        parts.schedule.load_state_dict(payload["schedule"])
        if parts.average is not None:
            parts.average.student.load_state_dict(payload["average"])
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        what = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} does not fit this run: {what}. Start a new run.") from None
    return int(payload["step"])
