"""`tiekd-cache bench remote`: what reading a store by URL costs, measured from this machine."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tiekd_cache.cli.common import json_option, note, print_table


@click.command("remote")
@click.argument("url")
@click.option("--local", type=click.Path(path_type=Path), help="Folder with the same store, to compare with.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="Measure reading through a cache there, too.")
@click.option(
    "--in-flight",
    type=click.IntRange(1, 256),
    multiple=True,
    default=(1, 4, 16),
    show_default=True,
    help="Requests that wait for an answer at a time; may be repeated.",
)
@click.option("--frames", type=click.IntRange(1), default=128, show_default=True, help="Of a turn.")
@click.option("--repeats", type=click.IntRange(min=1), default=9, show_default=True, help="The median is shown.")
@json_option
def bench_remote(
    url: str,
    local: Path | None,
    cache_dir: Path | None,
    in_flight: tuple[int, ...],
    frames: int,
    repeats: int,
    as_json: bool,
) -> None:
    """Frames a second from a store at a URL, several requests in flight, taking turns with a local folder and a cache.

    \b
    Examples:
      tiekd-cache bench remote s3://our-bucket/stores/bts.zarr --cache-dir cache
      tiekd-cache bench remote https://data.example.org/bts.zarr --local stores/bts.zarr --frames 512
    """
    from tiekd_cache import bench

    rows = bench.bench_remote(
        url, local=local, cache_dir=cache_dir, in_flight=in_flight, frames=frames, repeats=repeats
    )
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows], indent=2))
        return
    note(f"{rows[0].frames} frames a turn, in batches")
    table = [
        [
            row.way,
            str(row.in_flight),
            f"{row.frames_per_second:.1f}",
            "" if row.ratio is None else f"{row.ratio:.3f}",
        ]
        for row in rows
    ]
    print_table(["way", "in flight", "frames/s", "ratio to local"], table)
