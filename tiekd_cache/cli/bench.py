"""`tiekd-cache bench`: what the store costs, measured on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tiekd_cache.cli.common import json_option, note, parse_size, print_table
from tiekd_cache.progress import progress_bar


@click.group()
def bench() -> None:
    """Measure on this machine, on your own data.

    \b
    Example:
      tiekd-cache bench store
    """


@bench.command()
@click.option(
    "--maps",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="An .npz file of depth maps, metres, an array [n,h,w] a teacher.  [default: made-up streets]",
)
@click.option(
    "--image-size",
    default="352x1216",
    show_default=True,
    metavar="HxW",
    help="Of the pictures; smaller maps in the file are a teacher's own resolution, resized on reading.",
)
@click.option("--repeats", type=click.IntRange(min=1), default=9, show_default=True, help="The median is shown.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Write the bars to this PNG file, too.")
@json_option
def store(path: Path | None, image_size: str, repeats: int, plot: Path | None, as_json: bool) -> None:
    """Bytes and times of the store against PNG, HDF5 and plain Blosc, per frame, in one run.

    Times are CPU time, files are in the page cache. For one core: `taskset -c 1` before the command.

    \b
    Examples:
      tiekd-cache bench store
      tiekd-cache bench store --maps depth_maps.npz --plot bench.png
    """
    from tiekd_cache.bench import bench_store, make_maps, plot_store_bench, read_maps

    size = parse_size(image_size)
    teachers = make_maps(size) if path is None else read_maps(path, size)
    rows = bench_store(teachers, repeats=repeats, progress=progress_bar)
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows], indent=2))
    else:
        header = ["maps", "kept as", "bytes", "ratio", "encode ms", "ratio", "decode ms", "ratio", "read ms", "ratio"]
        table = [
            [
                row.maps,
                row.coder,
                *(f"{row.num_bytes:.0f}", f"{row.bytes_ratio:.3f}"),
                *(f"{row.encode_ms:.2f}", f"{row.encode_ratio:.3f}"),
                *(f"{row.decode_ms:.2f}", f"{row.decode_ratio:.3f}"),
                *(f"{row.read_ms:.2f}", f"{row.read_ratio:.3f}"),
            ]
            for row in rows
        ]
        print_table(header, table)
    if plot is not None:
        note(f"Plot: {plot_store_bench(rows, plot)}")
