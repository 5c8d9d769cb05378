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
        step = payload["step"]
        if type(step) is not int or not 0 <= step <= parts.total_steps:
            raise ValueError(f"it has done no number of its {parts.total_steps} steps")
        _check_alike(payload, parts)
        parts.student.load_state_dict(payload["state_dict"])
        parts.optimiser.load_state_dict(payload["optimiser"])
        parts.schedule.load_state_dict(payload["schedule"])
        if parts.average is not None:
            parts.average.student.load_state_dict(payload["average"])
    except (AttributeError, LookupError, ValueError, RuntimeError, TypeError) as error:
        what = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} does not fit this run: {what}. Start a new run.") from None
    return step


def _check_alike(payload: Mapping[str, Any], parts: TrainingParts) -> None:
    """Raise ValueError where optimiser or schedule hold something else than those of a run with these parameters do.

    torch takes over whatever stands in a schedule's state, and looks at no shape in an optimiser's.
    """
    own, optimiser, schedule = parts.optimiser.state_dict(), payload["optimiser"], payload["schedule"]
    settings = [(theirs, mine) for theirs, mine in zip(optimiser["param_groups"], own["param_groups"], strict=True)]
    for theirs, mine in [*settings, (schedule, parts.schedule.state_dict())]:
        wrong = [name for name in theirs.keys() & mine.keys() if not _same_kind(theirs[name], mine[name])]
        wrong += [name for name in theirs if callable(getattr(parts.schedule, name, None))]
        if wrong:
            raise ValueError(f"the state of its optimiser has something else in {wrong[0]}")
    parameters = [parameter for group in parts.optimiser.param_groups for parameter in group["params"]]
    for number, entries in optimiser["state"].items():
        shapes = [entry.shape for name, entry in entries.items() if name != "step"]
        if any(shape != parameters[number].shape for shape in shapes):
            raise ValueError("the state of its optimiser is of other weights")


def _same_kind(one: Any, other: Any) -> bool:
    """Whether two settings are of one type; numbers are, and whatever may be None."""
    number = (int, float)
    return type(one) is type(other) or None in (one, other) or (isinstance(one, number) and isinstance(other, number))
