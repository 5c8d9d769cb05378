"""`tiekd-cache evaluate`: the metrics of a student."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tiekd_cache.cli.common import data_options, device_option, json_option, note, open_kitti, print_table

COLUMNS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log_10", "silog", "a1", "a2", "a3")


@click.command()
@click.option("--run", "run_path", type=click.Path(path_type=Path), help="Run folder.  [default: the newest in runs/]")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="A student's file, instead of --run.")
@data_options
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    help="Compare with these responses too.  [default: the run's own, where it has frames of the split]",
)
@click.option(
    "--flip/--no-flip", "flip_average", default=True, show_default=True, help="Average with the mirror image."
)
@click.option("--limit-frames", type=click.IntRange(1), help="Only the first so many frames.")
@device_option
@json_option
def evaluate(
    run_path: Path | None,
    checkpoint: Path | None,
    kitti: Path | None,
    split: str | None,
    skip_missing: bool,
    store: Path | None,
    flip_average: bool,
    limit_frames: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Metrics of a student on the Eigen protocol: KB crop, Garg crop, flip averaging, mean over images.

    \b
    Examples:
      tiekd-cache evaluate
      tiekd-cache evaluate --run runs/mine --split splits/eigen_test.txt --json
    """
    from tiekd_cache.device import resolve_device
    from tiekd_cache.evaluate import EvaluateConfig
    from tiekd_cache.evaluate import evaluate as run_evaluate
    from tiekd_cache.run_folder import RunFolder, newest_run, write_text
    from tiekd_cache.store import open_store
    from tiekd_cache.students import load_student

    folder = None
    if checkpoint is None:
        folder = RunFolder.open(run_path if run_path is not None else newest_run())
        checkpoint = folder.best_checkpoint if folder.best_checkpoint.exists() else folder.last_checkpoint
        recorded = folder.run()
        kitti = kitti if kitti is not None else Path(recorded["data"])
        own_store = Path(recorded["store"])
        store = store if store is not None or not own_store.exists() else own_store
    student = load_student(checkpoint, device=str(resolve_device(device)))
    note(f"Student: {checkpoint}")
    source = open_kitti(kitti, split, "test", skip_missing)
    responses = open_store(store, allow_partial=True) if store is not None else None
    config = EvaluateConfig(flip_average=flip_average, limit_frames=limit_frames)
    result = run_evaluate(student, source, config, store=responses)
    record = {
        "checkpoint": str(checkpoint),
        "split": source.split,
        "crop": "garg",
        "flip_average": flip_average,
        "ground_truth": result.ground_truth,
        "ground_truth_frames": result.gt_frames,
        "teacher": result.teacher,
        "teacher_frames": result.teacher_frames,
        "seconds": round(result.seconds, 2),
    }
    if folder is not None:
        write_text(folder.path / "evaluation.json", json.dumps(record, indent=2) + "\n")
    if as_json:
        click.echo(json.dumps(record, indent=2))
        return
    rows = []
    for name, metrics, frames in (
        ("ground truth (Garg crop)", result.ground_truth, result.gt_frames),
        ("teacher (rows from 110)", result.teacher, result.teacher_frames),
    ):
        if metrics is None:
            note(f"Against {name}: no frame of {source.split} has it.")
        else:
            rows.append([name, str(frames), *(f"{metrics[column]:.4f}" for column in COLUMNS)])
    print_table(["against", "frames", *COLUMNS], rows)
