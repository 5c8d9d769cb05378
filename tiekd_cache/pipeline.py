"""Both stages of a recipe, one after the other; what is done already is not done again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiekd_cache.config import differences
from tiekd_cache.data.frame import DataSet
from tiekd_cache.data.kitti import KittiFrames
from tiekd_cache.data.nyu import open_nyu
from tiekd_cache.data.places import default_kitti_root
from tiekd_cache.data.protocol import protocol_of
from tiekd_cache.data.synthetic_kitti import write_synthetic_kitti
from tiekd_cache.device import resolve_device
from tiekd_cache.errors import ConfigError
from tiekd_cache.evaluate import Evaluation, evaluate, evaluate_predictor
from tiekd_cache.precompute import precompute
from tiekd_cache.progress import ProgressFactory, progress_bar
from tiekd_cache.recipe import Recipe
from tiekd_cache.results import EVALUATION_FILE, summary, write_json
from tiekd_cache.run_folder import RunFolder
from tiekd_cache.stages import draw_pictures, run_distill
from tiekd_cache.store import ResponseStore, open_store
from tiekd_cache.students import load_student
from tiekd_cache.teachers import load_teacher
from tiekd_cache.training_parts import build_student_from

Note = Callable[[str], None]


@dataclass(frozen=True)
class PipelineReport:
    """What a recipe came to.

    Attributes:
        store: the teacher's responses.
        run: the student's folder.
        rows: (who, its evaluation): the trained student last.
    """

    store: str | Path
    run: Path
    rows: tuple[tuple[str, Evaluation], ...]


def run_recipe(
    recipe: Recipe, *, progress: ProgressFactory = progress_bar, note: Note = lambda text: None
) -> PipelineReport:
    """Stage one, stage two and the evaluation of a recipe.

    Raises:
        TiekdError: as the stages; ConfigError where the run folder holds a run with other settings.
    """
    train, test = _open_data(recipe, progress, note)
    chosen = recipe.teacher
    teacher = load_teacher(
        chosen.name,
        weights=chosen.weights,
        device=recipe.device,
        trained_on=chosen.trained_on,
        align=chosen.align,
    )
    made = precompute(teacher, train, recipe.store_path, recipe.precompute, progress=progress, note=note)
    note(f"Store: {recipe.store_path}, {made.frames} responses ({made.made} made now)")
    if made.warning is not None:
        note(f"Warning: {made.warning}")
    for frame_id, reason in made.skipped:
        note(f"No response to {frame_id}: {reason}")
    del teacher
    store = open_store(recipe.store_path)
    run_path = Path(recipe.out) / "run"
    _distill_or_skip(recipe, train, test, run_path, progress, note)
    rows = [*_baselines(recipe, test, store, progress)] if recipe.baselines else []
    student = load_student(run_path / "best.pt", device=str(resolve_device(recipe.device)))
    rows.append(("student, distilled", evaluate(student, test, recipe.evaluate, store=store, progress=progress)))
    distilled = rows[-1][1]
    baselines = {who: summary(result) for who, result in rows[:-1]}
    record = {
        "checkpoint": str(run_path / "best.pt"),
        "split": test.split,
        **summary(distilled),
        "baselines": baselines,
    }
    write_json(run_path / EVALUATION_FILE, record, distilled.images)
    return PipelineReport(recipe.store_path, run_path, tuple(rows))


def mean_depth(store: ResponseStore) -> float:
    """The mean of all responses (on KITTI from row 110 down), metres: the best guess of one number."""
    schema = store.info.schema
    first_row = protocol_of(str(schema.dataset["name"]), schema.max_depth).first_row
    total, count = 0.0, 0
    for frame_id in store:
        depth = store[frame_id][first_row:]
        total += float(depth.sum(dtype=np.float64))
        count += int((depth > 0).sum())
    if not count:
        raise ConfigError(f"The store {store.info.path} is empty: there is no mean of its responses.")
    return total / count


def _open_data(recipe: Recipe, progress: ProgressFactory, note: Note) -> tuple[DataSet, DataSet]:
    chosen = recipe.data
    skip = chosen.skip_missing
    train: DataSet
    test: DataSet
    if chosen.nyu is not None:
        rooms = Path(chosen.nyu)
        train = open_nyu(rooms, chosen.split, purpose="train", skip_missing=skip)
        test = open_nyu(rooms, chosen.test_split, purpose="test", skip_missing=skip)
        note(f"Data: {rooms}; training: {train.split_note}; test: {test.split_note}")
        return train, test
    root = recipe.kitti_root if recipe.kitti_root is not None else default_kitti_root()
    synthetic = chosen.synthetic
    if synthetic is not None:
        write_synthetic_kitti(
            root,
            train_frames=synthetic.train_frames,
            test_frames=synthetic.test_frames,
            seed=synthetic.seed,
            progress=progress,
        )
    train = KittiFrames.open(root, chosen.split, purpose="train", skip_missing=skip)
    test = KittiFrames.open(root, chosen.test_split, purpose="test", skip_missing=skip)
    note(f"Data: {root}; training: {train.split_note}; test: {test.split_note}")
    return train, test


def _distill_or_skip(
    recipe: Recipe, train: DataSet, test: DataSet, run_path: Path, progress: ProgressFactory, note: Note
) -> None:
    folder = RunFolder(run_path)
    started = folder.last_checkpoint.exists()
    changes = differences(folder.config(), recipe.distill) if started else []
    if changes:
        raise ConfigError(
            f"{run_path} holds a run with other settings: {'; '.join(changes)}. Remove it, or set another `out`."
        )
    if started and folder.is_finished():
        note(f"Run: {run_path} is finished already")
        if not folder.pictures.exists():
            store = open_store(recipe.store_path)
            draw_pictures(run_path, train.subset(list(store)), store, resolve_device(recipe.device))
        return
    report = run_distill(
        recipe.distill,
        train,
        recipe.store_paths,
        run_path,
        device=recipe.device,
        resume=started,
        validation=test,
        given=_given(recipe, train),
        progress=progress,
        note=note,
    )
    note(f"Run: {run_path}, loss {report.first_loss:.3f} -> {report.last_loss:.3f} in {report.seconds:.0f} s")


def _given(recipe: Recipe, train: DataSet) -> dict[str, str | bool]:
    """What names the training frames again, as the command line's options would."""
    split, skip = recipe.data.split, recipe.data.skip_missing
    given: dict[str, str | bool] = {train.name: recipe.data.nyu if recipe.data.nyu is not None else str(train.root)}
    return given | ({"split": split} if split is not None else {}) | ({"skip_missing": True} if skip else {})


def _baselines(
    recipe: Recipe, test: DataSet, store: ResponseStore, progress: ProgressFactory
) -> list[tuple[str, Evaluation]]:
    untrained = build_student_from(recipe.distill, pretrained=recipe.student.pretrained)
    untrained.to(resolve_device(recipe.device))
    constant = np.full(test.image_size, mean_depth(store), dtype=np.float32)
    return [
        ("student, untrained", evaluate(untrained, test, recipe.evaluate, store=store, progress=progress)),
        ("mean depth", evaluate_predictor(lambda image: constant, test, recipe.evaluate, store=store)),
    ]
