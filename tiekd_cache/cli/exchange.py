"""`tiekd-cache import` and `tiekd-cache export-store`: depth files become a store, a store becomes files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from tiekd_cache.cli.common import (
    FiniteRange,
    data_options,
    json_option,
    named_store,
    new_store,
    note,
    note_each,
    only_store,
    open_kitti,
    print_result,
    shard_frames_option,
)


@click.command("import")
@click.argument("files", type=click.Path(path_type=Path), metavar="FOLDER|FILE.h5")
@click.option("--teacher", help="Name of the teacher that made the files; an HDF5 file says it itself.")
@click.option(
    "--store",
    type=new_store,
    metavar="PATH",
    help="Where to write.  [default: stores/TEACHER.zarr, or stores/FILE.zarr]",
)
@data_options
@click.option(
    "--scale",
    metavar="N|N/M",
    help="Counts per metre: 256 (KITTI), 1000 (mm), 65535/80 (TIE-KD).  [default for floats: 1]",
)
@click.option(
    "--pattern",
    metavar="TEXT",
    help="How files are named, with {drive}, {camera}, {index}, {date}.  [default: the usual ways are tried]",
)
@click.option("--key", help="Name of the array in npz files.  [default: the only one]")
@click.option(
    "--max-depth",
    type=FiniteRange(0.1, 1000.0),
    default=80.0,
    show_default=True,
    help="Metres; more stops the import.",
)
@click.option("--clip", is_flag=True, help="Cut depths to --max-depth instead of stopping.")
@click.option("--nonfinite-is-missing", is_flag=True, help="NaN and infinity mean `no depth`, as 0 does.")
@click.option("--trust-scale", is_flag=True, help="Import a unit that the ground truth contradicts.")
@click.option("--flip-average", is_flag=True, help="Record that the files are averages with the mirrored answer.")
@shard_frames_option
@json_option
def import_files(
    files: Path,
    teacher: str | None,
    store: Path | None,
    kitti: Path | None,
    split: str | None,
    skip_missing: bool,
    scale: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Make a store of depth files that you have: 16-bit PNG, npy, npz, TIFF or PFM, or an exported HDF5 file.

    Goes on by itself where an earlier start stopped: give the same command again.

    \b
    Examples:
      tiekd-cache import gt_kd_bts --teacher bts-release --scale 65535/80
      tiekd-cache import maps --teacher mine --pattern '{drive}_{index}.npy' --store stores/mine.zarr
      tiekd-cache import bts.h5 --store stores/bts.zarr
    """
    from tiekd_cache.data.places import default_store_path
    from tiekd_cache.transfer import ImportConfig, Scale, import_folder, import_hdf5

    if files.suffix.lower() in (".h5", ".hdf5"):
        said = {"teacher": teacher, "scale": scale, **{name: given[name] for name in ("pattern", "key", "clip")}}
        needless = ", ".join(f"--{name}" for name, value in said.items() if value)
        if needless:
            raise click.UsageError(f"{files} says all of itself: leave {needless} out.")
        path = store if store is not None else Path("stores") / f"{files.stem}.zarr"
        report = import_hdf5(files, path, note=note)
    else:
        if teacher is None:
            raise click.UsageError("Say whose responses these are with --teacher NAME.")
        path = store if store is not None else default_store_path(teacher)
        counts = None if scale is None else Scale.parse(scale)
        config = ImportConfig(teacher=teacher, scale=counts, skip_missing=skip_missing, **given)
        report = import_folder(files, open_kitti(kitti, split, "train", skip_missing), path, config, note=note)
    note_each("No response to", [f"{frame_id}: {reason}" for frame_id, reason in report.skipped])
    print_result(
        {
            "store": str(report.store),
            "responses": report.frames,
            "made_now": report.made,
            "without_response": len(report.skipped),
            "scale": report.scale or None,
            "median_ratio_to_ground_truth": report.median_ratio,
        },
        as_json,
    )
    if report.warning is not None:
        note(f"Warning: {report.warning}")
    note(f"Next: tiekd-cache distill --student resnet18 --store {report.store}")


@click.command("export-store")
@click.argument("store", type=named_store, required=False)
@click.option(
    "--to", "kind", type=click.Choice(["png16", "hdf5", "npz"]), required=True, help="Folder of files, or one file."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder, or HDF5 file, to write.")
@click.option("--scale", metavar="N|N/M", help="Counts per metre of png16.  [default: 256]")
@json_option
def export_store(
    store: str | Path | None, kind: Literal["png16", "hdf5", "npz"], out: Path, scale: str | None, as_json: bool
) -> None:
    """Write a store's responses as depth files, or as one HDF5 file that restores it bit by bit.

    Files that are there are skipped: give the same command again where it was stopped.

    \b
    Examples:
      tiekd-cache export-store stores/bts.zarr --to png16 --out exported/bts
      tiekd-cache export-store stores/bts.zarr --to hdf5 --out bts.h5
    """
    from tiekd_cache.transfer import Scale, export_folder, export_hdf5

    if scale is not None and kind != "png16":
        raise click.UsageError(f"--scale is for png16; {kind} holds metres and needs none.")
    path = store if store is not None else only_store()
    if kind == "hdf5":
        report = export_hdf5(path, out)
    else:
        report = export_folder(path, out, kind, None if scale is None else Scale.parse(scale))
    print_result({"out": str(report.out), "frames": report.frames, "written_now": report.made}, as_json)
