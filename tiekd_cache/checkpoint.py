"""Training state to a file and back: enough to go on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiekd_cache.errors import CheckpointError
from tiekd_cache.students.student_io import read_payload, student_payload, write_payload
from tiekd_cache.training_parts import TrainingParts


def save_checkpoint(path: Path, parts: TrainingParts, step: int, run: Mapping[str, Any]) -> None:
    """Write student, optimiser, schedule and step atomically; a kill leaves the previous checkpoint.

    No random state is kept because there is none: order and augmentation follow from seed and step
    (dataset.py), and nothing random happens inside the student.
    """
    payload = student_payload(parts.student, {"step": step, **run})
    payload["optimiser"] = parts.optimiser.state_dict()
    payload["schedule"] = parts.schedule.state_dict()
    payload["step"] = step
    payload["total_steps"] = parts.total_steps
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
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not fit this run: {str(error).splitlines()[0]}. Start a new run.") from None
    return int(payload["step"])
