"""Stage two as a whole, the same for every caller: open the store, choose the frames, train, draw pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from tiekd_cache.data.frame import FrameSource
from tiekd_cache.data.kitti import KittiFrames
from tiekd_cache.device import resolve_device
from tiekd_cache.distill import DistillReport, distill
from tiekd_cache.distill_config import DistillConfig
from tiekd_cache.evaluate import predict_depth
from tiekd_cache.pictures import GridRow, loss_curve, picture_grid
from tiekd_cache.progress import ProgressFactory, progress_bar
from tiekd_cache.run_folder import RunFolder, new_run_path
from tiekd_cache.store import ResponseStore
from tiekd_cache.store_frames import StoreFrames
from tiekd_cache.students import Student, load_student
from tiekd_cache.teacher_stores import choose_frames, open_stores


def run_distill(
    config: DistillConfig,
    source: KittiFrames | StoreFrames,
    store_paths: Sequence[Path],
    run_path: Path | None,
    *,
    device: str = "auto",
    resume: bool = False,
    allow_partial: bool = False,
    split_argument: str | None = None,
    progress: ProgressFactory = progress_bar,
    note: Callable[[str], None] = lambda text: None,
) -> DistillReport:
    """Trains on the frames of `source` that every store answers; leaves the run folder with its pictures.

    Args:
        source: the frames of a split, or those whose images are in a store.
        store_paths: where the responses are, a folder a teacher; the pictures show those of the first.
        run_path: the run's folder; None for a new one under runs/.
        split_argument: how the caller named the split, recorded for `--resume`.
    Raises:
        TiekdError: as `distill` and `open_stores`.
    """
    stores = open_stores(store_paths, source, allow_partial=allow_partial)
    answered = choose_frames(source.frame_ids, stores, None)
    frames = source.subset(answered[: config.train.limit_frames])
    names = " and ".join(str(store.info.path) for store in stores)
    note(f"Training on {len(frames.frame_ids)} frames that {names} {'answers' if len(stores) == 1 else 'answer'}")
    left_out = len(source.frame_ids) - len(answered)
    if left_out and len(stores) > 1:
        note(f"Left out: {left_out} of {len(source.frame_ids)} frames, which not every store answers")
    for store in stores:
        teacher = str(store.schema.teacher["name"])
        if not store.schema.teacher["trained"]:
            note(f"UNTRAINED: the store {store.info.path} was made by a {teacher} with random weights.")
    teacher = "+".join(str(store.schema.teacher["name"]) for store in stores)
    path = run_path if run_path is not None else new_run_path(config.student.name, teacher)
    chosen = resolve_device(device)
    origin = {
        "data": str(source.root),
        "images_from_store": isinstance(source, StoreFrames),
        "split_argument": split_argument,
    }
    report = distill(config, frames, stores, path, device=chosen, resume=resume, origin=origin, progress=progress)
    draw_pictures(path, frames, stores[0], chosen)
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
