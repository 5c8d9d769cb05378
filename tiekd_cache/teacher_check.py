"""Does the teacher still say what the store holds? It is run again on a few frames, and compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tiekd_cache.data.frame import DepthMap, FrameSource
from tiekd_cache.errors import ConfigError, StoreError
from tiekd_cache.precompute import PrecomputeConfig, answer_frames
from tiekd_cache.progress import ProgressFactory, progress_bar
from tiekd_cache.speed import check_precision
from tiekd_cache.store import ResponseStore, StoreSchema
from tiekd_cache.teachers import PREFIX, TEACHERS, Teacher, installed_teachers
from tiekd_cache.teachers.base import RANGES_M
from tiekd_cache.transfer.import_folder import IMPORTED

DEVICE_TOLERANCE_M = 1e-3
"""What another device, or another batch, may change in a depth beside the rounding: metres."""


class ChosenFrames(FrameSource, Protocol):
    """A frame source that can give other frames of its data."""

    def subset(self, frame_ids: list[str]) -> ChosenFrames:
        """The same data with these frames."""


@dataclass(frozen=True)
class FrameDifference:
    """Where a response differs most from what the teacher says now.

    Attributes:
        frame_id: which frame.
        difference: metres, at most.
        row, column: of that pixel at native size.
        stored, said: metres there, in the store and now; 0 = missing.
    """

    frame_id: str
    difference: float
    row: int
    column: int
    stored: float
    said: float


@dataclass(frozen=True)
class TeacherCheck:
    """What was compared.

    Attributes:
        tolerance: metres.
        frames: one entry each, the worst first.
    """

    tolerance: float
    frames: tuple[FrameDifference, ...]

    @property
    def worst(self) -> FrameDifference:
        """The frame that differs most."""
        return self.frames[0]

    @property
    def problems(self) -> list[str]:
        """One line for each frame that differs by more than the tolerance."""
        return [
            f"frame {frame.frame_id}: the teacher now says {frame.said:.4f} m at row {frame.row}, column"
            f" {frame.column}, the store holds {frame.stored:.4f} m; at most {self.tolerance:.4f} m are due to rounding"
            for frame in self.frames
            if frame.difference > self.tolerance
        ]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values; metres."""
        return {
            "frames": len(self.frames),
            "tolerance": round(self.tolerance, 6),
            "problems": self.problems,
            "worst": {name: _short(value) for name, value in asdict(self.worst).items()},
        }


def _short(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value


def teacher_to_run(
    schema: StoreSchema, weights: str | Path | None, chosen: str | None = None
) -> tuple[str, str | Path | None]:
    """(name, weights) for `load_teacher` of the teacher that made a store.

    Args:
        weights: as the user gave them; None takes the seed that the store names, or what is found by default. Of an
            `hf:` teacher: the model's folder.
        chosen: the teacher's name as the user gave it; needed where the store was made by a teacher of the user's
            own, `package.module:factory`: which code runs is never taken from a store.
    Raises:
        ConfigError: the responses were imported, or no teacher of this version has this name.
    """
    teacher = schema.teacher
    if teacher["architecture"] == IMPORTED:
        raise ConfigError(
            f"The responses of {teacher['name']} were imported ({teacher['weights']}): no teacher can be run again."
            " Compare with the files by importing them into another store."
        )
    exact = teacher["architecture"].replace("_", "-")
    name = chosen or (exact if exact in TEACHERS else teacher["name"])
    if name.startswith(PREFIX):
        return (name, None) if weights is None else (f"{PREFIX}{weights}", None)
    if chosen is None and name not in (*TEACHERS, *installed_teachers()):
        raise ConfigError(
            f"The store was made by teacher {teacher['name']} ({teacher['architecture']}), which this version does not"
            f" have: it has {', '.join(TEACHERS)}. Name one of your own with --teacher package.module:factory."
        )
    if weights is None and teacher["weights"].startswith("random:") and chosen is None:
        weights = teacher["weights"]
    return name, weights


def teacher_settings(schema: StoreSchema) -> dict[str, str]:
    """What else `load_teacher` was given for a store, read off its preprocessing: align and trained_on."""
    preprocessing = schema.input["preprocessing"]
    align = preprocessing.get("align")
    settings = {} if align is None else {"align": str(align["method"])}
    max_depth = (preprocessing if align is None else align).get("max_depth")
    for name, (_, farthest) in RANGES_M.items():
        if farthest == max_depth:
            settings["trained_on"] = name
    return settings


def check_against_teacher(
    store: ResponseStore,
    teacher: Teacher,
    source: ChosenFrames,
    count: int,
    *,
    seed: int = 0,
    progress: ProgressFactory = progress_bar,
) -> TeacherCheck:
    """Runs a teacher again on random frames of a store, with the store's settings, and compares at native size.

    Args:
        count: how many frames, at most those of the store.
        seed: of the choice.
    Raises:
        StoreError: it is not the teacher, or not the data, that the store was made with; says which fields differ.
        DataError: a chosen frame cannot be read.
    """
    schema = store.schema
    check_same(store, teacher, source)
    places = np.random.default_rng(seed).choice(len(store), size=min(count, len(store)), replace=False)
    frame_ids = [store.frame_ids[place] for place in sorted(places)]
    clamp = schema.depth["clamp"]
    config = PrecomputeConfig(
        flip_average=bool(schema.input["flip_average"]),
        max_depth=schema.max_depth,
        clip=clamp is not None and teacher.clamps_to is None,
        precision=schema.input["preprocessing"].get("precision", "float32"),
    )
    check_precision(config.precision, teacher.device)
    chosen = source.subset(frame_ids)
    batch_size = config.rules(teacher, chosen).batch_size
    differences = []
    with progress(len(frame_ids), f"compare {teacher.name}", "frame") as bar:
        for start in range(0, len(frame_ids), batch_size):
            batch = frame_ids[start : start + batch_size]
            said = answer_frames(teacher, chosen, batch, config, bar.update)
            if said.shape[1:] != schema.native_size:
                raise StoreError(
                    f"Teacher {teacher.name} answers with {list(said.shape[1:])} pixels, store {store.info.path} holds"
                    f" {list(schema.native_size)}: the data or the teacher's code are other ones"
                )
            differences += [_compare(frame, store.native(frame), map_) for frame, map_ in zip(batch, said, strict=True)]
    differences.sort(key=lambda frame: -frame.difference)
    return TeacherCheck(schema.step / 2 + DEVICE_TOLERANCE_M, tuple(differences))


def _compare(frame_id: str, stored: DepthMap, said: DepthMap) -> FrameDifference:
    difference = np.abs(stored - said)
    row, column = (int(i) for i in np.unravel_index(int(np.nanargmax(difference)), difference.shape))
    values = (float(array[row, column]) for array in (difference, stored, said))
    worst, there, now = values
    return FrameDifference(frame_id, worst, row, column, there, now)


def check_same(store: ResponseStore, teacher: Teacher, source: FrameSource) -> None:
    """Raise StoreError unless a teacher and data are those that a store was made with; says which fields differ."""
    schema = store.schema
    now = {
        "teacher.digest": (schema.teacher["digest"], teacher.digest),
        "teacher.architecture": (schema.teacher["architecture"], teacher.architecture),
        "dataset.name": (schema.dataset["name"], source.name),
        "input.crop": (schema.input["crop"], source.crop),
        "input.image_size": (schema.image_size, tuple(source.image_size)),
    }
    other = [f"{name} ({then}, now {value})" for name, (then, value) in now.items() if then != value]
    if other:
        raise StoreError(
            f"Store {store.info.path} was made by teacher {schema.teacher['name']} with weights"
            f" {schema.teacher['weights']}; what was given differs in {'; '.join(other)}. Name the right one with"
            " --weights or --teacher, and the data as for precompute."
        )
