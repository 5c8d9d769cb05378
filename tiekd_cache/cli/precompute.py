"""`tiekd-cache precompute`: stage one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tiekd_cache.cli.catalogue import refuse_made_already
from tiekd_cache.cli.common import json_option, named_store, note, note_each, print_result, store_to_write
from tiekd_cache.cli.signing import load_key, sign_and_tell, sign_option
from tiekd_cache.cli.source_options import named_options, open_source, source_options
from tiekd_cache.cli.teacher_options import TEACHER_HELP, answer_options, speed_options, teacher_options
from tiekd_cache.progress import no_progress_bar, progress_bar

if TYPE_CHECKING:
    from tiekd_cache.openssh import SigningKey
    from tiekd_cache.precompute import PrecomputeConfig, PrecomputeReport
    from tiekd_cache.teachers import Teacher


@click.command()
@click.option("--teacher", required=True, help=TEACHER_HELP)
@teacher_options
@click.option(
    "--store",
    type=store_to_write,
    metavar="FOLDER|URL",
    help="Where to write: a folder, or a bucket (s3://, gs://, az://).  [default: stores/TEACHER.zarr]",
)
@source_options
@answer_options
@speed_options
@click.option(
    "--with-images", is_flag=True, help="Store the images, too, without loss: distill then needs nothing but the store."
)
@click.option(
    "--shard-range",
    metavar="A:B|I/N",
    help="Make only the shards A to B-1, or the I-th of N parts, and do not wait for the others.",
)
@click.option(
    "--catalogue",
    type=named_store,
    metavar="FOLDER|URL",
    help="Where to look first for a finished store with the same answers.  [default: $TIEKD_CATALOGUE, or none]",
)
@sign_option("Sign the store with this ed25519 private key of OpenSSH when it is finished; see `sign`.")
@click.option("--anyway", is_flag=True, help="Compute even where the catalogue has a store with the same answers.")
@json_option
def precompute(
    teacher: str,
    weights: str | None,
    trained_on: str,
    align: str | None,
    store: str | Path | None,
    device: str,
    shard_range: str | None,
    catalogue: str | Path | None,
    anyway: bool,
    key_file: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Stage one: run a teacher once over the frames and cache what it says.

    Goes on by itself where an earlier start stopped: give the same command again. Any number of processes may work
    on one store, on several machines where it is in a bucket. Started by torchrun, each takes a GPU of its own, and
    only the first one speaks.

    \b
    Examples:
      tiekd-cache precompute --teacher bts
      tiekd-cache precompute --teacher lidar --kitti /data/kitti --store stores/lidar.zarr
      tiekd-cache precompute --teacher bts --weights random:0 --split all --device cpu
      tiekd-cache precompute --teacher hf:depth-anything/Depth-Anything-V2-Small-hf --align gt
      tiekd-cache precompute --teacher adabins --nyu data/nyu --trained-on nyu
      tiekd-cache precompute --teacher adabins --images 'photos/**/*.jpg' --store stores/photos.zarr
      tiekd-cache precompute --teacher bts --with-images
      tiekd-cache precompute --teacher bts --store s3://team/stores/bts.zarr
      tiekd-cache precompute --teacher bts --catalogue s3://team/stores
      tiekd-cache precompute --teacher bts --sign ~/.ssh/id_ed25519
      tiekd-cache precompute --teacher bts --precision bf16 --shard-range 0/16
    """
    from tiekd_cache.data.places import default_store_path
    from tiekd_cache.launch import Launch, ShardRange
    from tiekd_cache.precompute import PrecomputeConfig
    from tiekd_cache.precompute import precompute as run_precompute
    from tiekd_cache.store.objects import open_objects
    from tiekd_cache.teachers import load_teacher

    launch = Launch.from_environment()
    if key_file is not None and isinstance(store, str):
        raise click.UsageError("--sign signs a store in a folder: make it there, then push it with --sign.")
    key = load_key(key_file) if key_file is not None and launch.rank == 0 else None  # not after hours of work
    shards = None if shard_range is None else ShardRange.parse(shard_range)
    path = store if store is not None else default_store_path(teacher)
    if isinstance(path, str):
        open_objects(path).list("done")  # a wrong name or no access is said before the teacher is loaded
    named = named_options(given)
    source = open_source(given, "train")
    loaded = load_teacher(teacher, weights=weights, device=launch.device(device), trained_on=trained_on, align=align)
    if not loaded.trained:
        note(f"UNTRAINED: {teacher} has random weights ({loaded.weights_source}); the store will say so.")
    progress = progress_bar if launch.rank == 0 else no_progress_bar
    config = PrecomputeConfig(**given)
    report = run_precompute(
        loaded,
        source,
        path,
        config,
        shards=shards,
        launch=launch,
        progress=progress,
        note=note,
        **({} if anyway else {"check": refuse_made_already(catalogue, path)}),
    )
    if launch.rank > 0:
        return
    _tell(report, loaded, as_json)
    _sign(path, key, None if key is None else _missing(path, report, config))
    if report.complete:
        note(f"Next: tiekd-cache distill --student resnet18 --store {report.store}{named}")


def _tell(report: PrecomputeReport, teacher: Teacher, as_json: bool) -> None:
    """What was made, on stdout; what the user must know of it, on stderr."""
    note_each("No response to", [f"{frame_id}: {reason}" for frame_id, reason in report.skipped])
    rate = report.made / report.seconds if report.seconds else 0.0
    print_result(
        {
            "store": str(report.store),
            "teacher": teacher.name,
            "architecture": teacher.architecture,
            "responses": report.frames,
            "responses_when_finished": report.store_frames,
            "made_now": report.made,
            "without_response": len(report.skipped),
            "frames_per_second": round(rate, 3),
        },
        as_json,
    )
    if report.warning is not None:
        note(f"Warning: {report.warning}")
    if not report.complete:
        note(f"{report.store} holds {report.frames} of {report.store_frames} responses: the rest is for other starts.")


def _missing(store: str | Path, report: PrecomputeReport, config: PrecomputeConfig) -> str | None:
    """What was asked for and the store does not hold yet, in a word; None where it is finished."""
    from tiekd_cache.store.images import images_summary

    if not report.complete:
        return "responses"
    images = images_summary(store) if config.with_images else None  # other processes may still be writing them
    return "images" if config.with_images and (images is None or images["frames"] < report.store_frames) else None


def _sign(store: str | Path, key: SigningKey | None, missing: str | None) -> None:
    """Sign the store where that is asked for and it is finished; else say so where its signature does not hold."""
    from tiekd_cache.store.signing import stale_note

    if key is not None and missing is None:
        sign_and_tell(store, key)
        return
    if key is not None:
        note(
            f"{store} is not signed, as it is not finished ({missing} are missing): give --sign to the start that"
            " finishes it."
        )
    outdated = stale_note(store)
    if outdated is not None:
        note(f"Note: {outdated}")
