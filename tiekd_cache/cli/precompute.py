"""`tiekd-cache precompute`: stage one."""

from __future__ import annotations

from pathlib import Path

import click

from tiekd_cache.cli.common import data_options, device_option, json_option, note, open_kitti, print_result


@click.command()
@click.option("--teacher", required=True, help="bts, bts-resnet50, bts-densenet161, or lidar (needs no weights).")
@click.option(
    "--weights",
    metavar="FILE|random:SEED",
    help="Checkpoint as published.  [default: the teacher's file in $TIEKD_CHECKPOINTS or checkpoints/]",
)
@click.option("--store", type=click.Path(path_type=Path), help="Where to write.  [default: stores/TEACHER.zarr]")
@data_options
@device_option
@click.option("--batch-size", type=click.IntRange(1), default=4, show_default=True, help="Frames a forward pass.")
@click.option(
    "--flip/--no-flip",
    "flip_average",
    default=None,
    help="Average with the mirrored image's answer.  [default: as published: yes for networks]",
)
@click.option(
    "--max-depth",
    type=click.FloatRange(0.1, 1000.0),
    default=80.0,
    show_default=True,
    help="Metres; more stops the run.",
)
@click.option("--clip", is_flag=True, help="Cut responses to --max-depth instead of stopping.")
@click.option(
    "--shard-frames", type=click.IntRange(1, 4096), default=64, show_default=True, help="Frames a file of the store."
)
@json_option
def precompute(
    teacher: str,
    weights: str | None,
    store: Path | None,
    kitti: Path | None,
    split: str | None,
    skip_missing: bool,
    device: str,
    batch_size: int,
    flip_average: bool | None,
    max_depth: float,
    clip: bool,
    shard_frames: int,
    as_json: bool,
) -> None:
    """Stage one: run a teacher once over the frames and cache what it says.

    Goes on by itself where an earlier start stopped: give the same command again.

    \b
    Examples:
      tiekd-cache precompute --teacher bts
      tiekd-cache precompute --teacher lidar --kitti /data/kitti --store stores/lidar.zarr
      tiekd-cache precompute --teacher bts --weights random:0 --split all --device cpu
    """
    from tiekd_cache.precompute import PrecomputeConfig
    from tiekd_cache.precompute import precompute as run_precompute
    from tiekd_cache.teachers import load_teacher

    source = open_kitti(kitti, split, "train", skip_missing)
    loaded = load_teacher(teacher, weights=weights, device=device)
    if not loaded.trained:
        note(f"UNTRAINED: {teacher} has random weights ({loaded.weights_source}); the store will say so.")
    path = store if store is not None else Path("stores") / f"{teacher}.zarr"
    config = PrecomputeConfig(batch_size, flip_average, max_depth, clip, shard_frames)
    report = run_precompute(loaded, source, path, config, note=note)
    for frame_id, reason in report.skipped:
        note(f"No response to {frame_id}: {reason}")
    rate = report.made / report.seconds if report.seconds else 0.0
    print_result(
        {
            "store": str(report.store),
            "teacher": loaded.architecture,
            "responses": report.frames,
            "made_now": report.made,
            "without_response": len(report.skipped),
            "frames_per_second": round(rate, 3),
        },
        as_json,
    )
    if report.warning is not None:
        note(f"Warning: {report.warning}")
    note(f"Next: tiekd-cache distill --student resnet18 --store {report.store}")
