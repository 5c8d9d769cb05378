"""Stage two as a whole, the same for every caller: open the store, choose the frames, train, draw pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tiekd_cache.data.frame import DataSet, FrameSource
from tiekd_cache.device import resolve_device
from tiekd_cache.distill import DistillReport, InterruptedRunError, distill
from tiekd_cache.distill_config import DistillConfig, StudentConfig
from tiekd_cache.errors import ConfigError
from tiekd_cache.evaluate import predict_depth
from tiekd_cache.launch import Launch
from tiekd_cache.openssh import Signers
from tiekd_cache.pictures import GridRow, loss_curve, picture_grid
from tiekd_cache.progress import ProgressFactory, progress_bar
from tiekd_cache.ranks import together
from tiekd_cache.run_folder import RunFolder, new_run_path
from tiekd_cache.statistics import read_statistics
from tiekd_cache.store import ResponseStore
from tiekd_cache.store.object_path import StorePlace
from tiekd_cache.store_frames import IMAGES_FROM_STORE, StoreFrames
from tiekd_cache.students import Student, load_student
from tiekd_cache.teacher_stores import choose_frames, open_stores
from tiekd_cache.validation import validation_frames


def run_distill(
    config: DistillConfig,
    source: DataSet,
    store_paths: Sequence[StorePlace],
    run_path: Path | None,
    *,
    device: str = "auto",
    resume: bool = False,
    allow_partial: bool = False,
    other_store: bool = False,
    validation: DataSet | None = None,
    given: Mapping[str, Any] | None = None,
    trust: Signers | None = None,
    progress: ProgressFactory = progress_bar,
    note: Callable[[str], None] = lambda text: None,
) -> DistillReport:
    """Trains on the frames of `source` that every store answers; leaves the run folder with its pictures.

    Args:
        source: the frames of a split, or those whose images are in a store.
        store_paths: where the responses are, a folder, `.zip` file, URL or objects a teacher; the pictures show those
            of the first.
        run_path: the run's folder; None for a new one under runs/.
        device: `auto` and `cuda` are a GPU of its own for each process that `torchrun` started.
        other_store: go on with another store, or other frames, than the run was trained from.
        validation: the test split; None = no validation.
        given: how the caller named the data (`kitti`, `nyu` or `images`, `split`, …), recorded so that they are found
            again; None = by the source's own root.
        trust: who must have signed the stores.
    Raises:
        ConfigError: a store is of other data, or its range is not within the student's.
        InterruptedRunError: Ctrl-C after the first checkpoint; a second Ctrl-C leaves the step unfinished.
        TiekdError: as `distill` and `open_stores`.
    """
    stores = open_stores(store_paths, source, allow_partial=allow_partial, trust=trust)
    for store in stores:
        _check_range(config.student, store, note)
    frames = _choose(source, stores, config.train.limit_frames, note)
    teacher = "+".join(str(store.schema.teacher["name"]) for store in stores)
    path = run_path if run_path is not None else new_run_path(config.student.name, teacher)
    launch = Launch.from_environment()
    chosen = resolve_device(launch.device(device))
    validated = validation_frames(validation, config.train.validate_frames, note) if launch.rank == 0 else None
    if given is None:
        given = {IMAGES_FROM_STORE: True} if isinstance(source, StoreFrames) else {source.name: str(source.root)}
    origin = {"data": str(source.root), "source": dict(given)}
    try:
        with together(launch, chosen) as ranks:
            report = distill(
                config,
                frames,
                stores,
                ranks.gather(path)[0],
                device=chosen,
                resume=resume,
                other_store=other_store,
                validation=validated,
                ranks=ranks,
                origin=origin,
                progress=progress,
                note=note,
            )
        if launch.rank == 0 and (report.trained or not RunFolder(report.run).pictures.exists()):
            draw_pictures(report.run, frames, stores[0], chosen)
    except KeyboardInterrupt:
        if not RunFolder(path).last_checkpoint.exists():
            raise
        raise InterruptedRunError(
            f"Interrupted. The last checkpoint is kept: go on with `tiekd-cache distill --resume --run {path}`."
        ) from None
    return report


def draw_pictures(run_path: Path, source: FrameSource, store: ResponseStore, device: torch.device) -> None:
    """Draws the loss curve and the grid image | teacher | student | error of a finished run."""
    folder = RunFolder.open(run_path)
    config = folder.config()
    loss_curve(folder.metrics(), folder.loss_picture)
    student = load_student(folder.best_checkpoint, device=str(device))
    count = min(config.train.picture_frames, len(source.frame_ids))
    if count:
        chosen = [source.frame_ids[i] for i in np.linspace(0, len(source.frame_ids) - 1, count).astype(int)]
        rows = [_grid_row(student, source, store, frame_id, device) for frame_id in chosen]
        picture_grid(rows, folder.pictures, max_depth=config.student.max_depth)


def _choose(
    source: DataSet, stores: Sequence[ResponseStore], limit: int | None, note: Callable[[str], None]
) -> DataSet:
    """The frames that every store answers, at most `limit`; says how many, and what the user should know of them."""
    answered = choose_frames(source.frame_ids, stores, None)
    frames = source.subset(answered[:limit])
    names = " and ".join(str(store.info.path) for store in stores)
    note(f"Training on {len(frames.frame_ids)} frames that {names} {'answers' if len(stores) == 1 else 'answer'}")
    left_out = len(source.frame_ids) - len(answered)
    if left_out and len(stores) > 1:
        note(f"Left out: {left_out} of {len(source.frame_ids)} frames, which not every store answers")
    for store in stores:
        if not store.schema.teacher["trained"]:
            teacher = store.schema.teacher["name"]
            note(f"UNTRAINED: the store {store.info.path} was made by a {teacher} with random weights.")
    return frames


def _check_range(student: StudentConfig, store: ResponseStore, note: Callable[[str], None]) -> None:
    """Whether the student's bins hold every depth that the store may; a range much too wide is said.

    A first bin beyond the store's range will do where its statistics know of nothing nearer.
    """
    schema = store.info.schema
    nearest = _nearest(store) if schema.min_depth < student.min_depth else schema.min_depth
    if nearest < student.min_depth or schema.max_depth > student.max_depth:
        raise ConfigError(
            f"The student's range of {student.min_depth:g} .. {student.max_depth:g} m does not hold that of the store "
            f"{store.info.path}, {nearest:g} .. {schema.max_depth:g} m. Widen it with --set "
            f"student.max_depth={max(schema.max_depth, student.max_depth):g} --set "
            f"student.min_depth={min(nearest, student.min_depth):g}."
        )
    if student.max_depth > 2 * schema.max_depth:
        note(
            f"The student's bins reach to {student.max_depth:g} m, the store to {schema.max_depth:g} m: most bins will "
            f"never be used. See student.max_depth, student.num_bins and loss.sigma (pipelines/nyu_bts_resnet18.toml)."
        )


def _nearest(store: ResponseStore) -> float:
    """The nearest depth that the store's statistics have seen, metres; of its whole range where they are not whole."""
    statistics = read_statistics(store.info.path, store.signed)
    seen = [shard.nearest for shard in statistics.shards if shard.nearest > 0]
    return min(seen) if seen and not statistics.notes else store.schema.min_depth


def _grid_row(
    student: Student, source: FrameSource, store: ResponseStore, frame_id: str, device: torch.device
) -> GridRow:
    image = source.load(frame_id).image
    return GridRow(
        frame_id=frame_id,
        image=image,
        teacher_depth=store[frame_id],
        student_depth=predict_depth(student, image, False, device),
    )
