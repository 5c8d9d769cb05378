"""`tiekd-cache evaluate`: the metrics of a student."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tiekd_cache.cli.cache_options import cache_options, through_cache
from tiekd_cache.cli.common import device_option, json_option, named_store, note, print_table
from tiekd_cache.cli.source_options import fill_from_run, open_source, source_options

if TYPE_CHECKING:
    from tiekd_cache.evaluate import Evaluation, Metrics

COLUMNS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log_10", "silog", "a1", "a2", "a3")


def parse_ranges(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[tuple[float, float], ...] | None:
    """`0-20,20-40` -> ((0.0, 20.0), (20.0, 40.0)), metres; raises click.BadParameter otherwise."""
    if text is None:
        return None
    try:
        bounds = [tuple(float(word) for word in part.split("-")) for part in text.split(",")]
        return tuple((near, far) for near, far in bounds)
    except ValueError:
        raise click.BadParameter(f"'{text}' is not of the form NEAR-FAR,NEAR-FAR in metres, e.g. 0-20,20-80") from None


@click.command()
@click.option("--run", "run_path", type=click.Path(path_type=Path), help="Run folder.  [default: the newest in runs/]")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="A student's file, instead of --run.")
@source_options
@click.option(
    "--store",
    type=named_store,
    metavar="PATH|URL",
    help="Compare with these responses too.  [default: the run's own, where it has frames of the split]",
)
@cache_options
@click.option(
    "--crop",
    type=click.Choice(["garg", "eigen", "none"]),
    help="Part of a frame in which ground truth counts.  [default: garg for KITTI, eigen for NYU]",
)
@click.option(
    "--ranges",
    callback=parse_ranges,
    metavar="NEAR-FAR,…",
    help="Ranges of depth to report by themselves, metres.  [default: 0-20,20-40,40-80; 0-2.5,2.5-5,5-10 for NYU]",
)
@click.option(
    "--flip/--no-flip", "flip_average", default=True, show_default=True, help="Average with the mirror image."
)
@click.option("--limit-frames", type=click.IntRange(1), help="Only the first so many frames.")
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Also write the metrics of each image here.")
@device_option
@json_option
def evaluate(
    run_path: Path | None,
    checkpoint: Path | None,
    store: str | Path | None,
    csv_path: Path | None,
    device: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Metrics of a student on its data set's protocol: crop, flip averaging, mean over images, and by range of depth.

    With --run, everything is kept in the run's evaluation.json, image by image, for `tiekd-cache compare`.

    \b
    Examples:
      tiekd-cache evaluate
      tiekd-cache evaluate --run runs/mine --split splits/eigen_test.txt --json
      tiekd-cache evaluate --run runs/rooms --nyu data/nyu --split nyudepthv2_test_files_with_gt.txt
      tiekd-cache evaluate --run runs/mine --crop eigen --ranges 0-10,10-80 --csv images.csv
    """
    from tiekd_cache.device import resolve_device
    from tiekd_cache.errors import DataError, StoreError
    from tiekd_cache.evaluate import EvaluateConfig
    from tiekd_cache.evaluate import evaluate as run_evaluate
    from tiekd_cache.results import EVALUATION_FILE, summary, write_csv, write_json
    from tiekd_cache.run_folder import RunFolder, newest_run
    from tiekd_cache.store import open_store
    from tiekd_cache.store.objects import is_remote
    from tiekd_cache.students import load_student
    from tiekd_cache.teacher_stores import fingerprints, recorded_stores

    folder, own_answers, named = None, [], store is not None
    if checkpoint is None:
        folder = RunFolder.open(run_path if run_path is not None else newest_run())
        checkpoint = folder.best_checkpoint if folder.best_checkpoint.exists() else folder.last_checkpoint
        recorded = folder.run()
        fill_from_run(given, recorded, same_split=False)
        own_answers = fingerprints(recorded)
        if not named:
            own_store = recorded_stores(recorded)[0]
            store = own_store if is_remote(own_store) or Path(own_store).exists() else None
    student = load_student(checkpoint, device=str(resolve_device(device)))
    note(f"Student: {checkpoint}")
    source = open_source(given, "test")
    responses = None
    try:
        for place in through_cache(given, [] if store is None else [store]):
            responses = open_store(place, allow_partial=True)
    except StoreError as error:
        if named or not is_remote(str(store)):
            raise
        note(f"Without the responses of the run's own store: {error}")
    own = responses if responses is not None and responses.schema.fingerprint in own_answers else None
    seen = 0 if own is None else sum(frame_id in own for frame_id in source.frame_ids)
    if seen:
        note(f"{seen} of these {len(source.frame_ids)} frames are in the run's store: it may have learned from them.")
    if csv_path is not None and not csv_path.parent.is_dir():  # before the work, not after it
        raise DataError(f"{csv_path} cannot be written: there is no folder {csv_path.parent}. Make it first.")
    result = run_evaluate(student, source, EvaluateConfig(**given), store=responses)
    record = {"checkpoint": str(checkpoint), "split": source.split, **summary(result)}
    if folder is not None:
        write_json(folder.path / EVALUATION_FILE, record, result.images)
    if csv_path is not None:
        write_csv(csv_path, result.images)
    if as_json:
        click.echo(json.dumps(record, indent=2))
    else:
        _print(result, source.split)


def _print(result: Evaluation, split: str) -> None:
    """The table on stdout; what there is nothing of, on stderr."""
    protocol = result.protocol
    rows: list[Sequence[str]] = []
    crop = "whole frame" if protocol.crop == "none" else f"{protocol.crop.capitalize()} crop"
    parts: list[tuple[str, Metrics | None, int]] = [(f"ground truth ({crop})", result.ground_truth, result.gt_frames)]
    if result.ground_truth is not None:
        parts += [(f"  {one.bounds[0]:g}-{one.bounds[1]:g} m", one.metrics, one.frames) for one in result.ranges]
    teacher = f"teacher (rows from {protocol.first_row})" if protocol.first_row else "teacher"
    for name, metrics, frames in (*parts, (teacher, result.teacher, result.teacher_frames)):
        if metrics is None:
            note(f"Against {name.strip()}: no frame of {split} has it.")
        else:
            rows.append([name, str(frames), *(f"{metrics[column]:.4f}" for column in COLUMNS)])
    print_table(["against", "frames", *COLUMNS], rows)
