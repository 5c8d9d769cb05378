"""`tiekd-cache push`, `pull` and `merge`: a store goes to where others find it, comes from there, is joined."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tiekd_cache.cli.common import Command, json_option, note, print_result
from tiekd_cache.cli.signing import load_key, read_signers, sign_and_tell, sign_option, trust_option

if TYPE_CHECKING:
    from tiekd_cache.sharing import ShareReport


def _jobs_option(command: Command) -> Command:
    return click.option(
        "--jobs",
        type=click.IntRange(1, 64),
        default=4,
        show_default=True,
        help="Shards under way at once; each takes twice its size in memory.",
    )(command)


@click.command()
@click.argument("store", metavar="STORE")
@click.argument("target", metavar="FOLDER|URL")
@sign_option("First sign STORE, a folder, with this ed25519 private key of OpenSSH; see `sign`.")
@_jobs_option
@json_option
def push(store: str, target: str, key_file: Path | None, jobs: int, as_json: bool) -> None:
    """Put a store where others find it: a shared folder, or a bucket (s3://, gs://, az://).

    Every shard is checked before it is sent and read back after; what is there is skipped, so the same command goes on
    where it was stopped. Several people may push one store at once.

    \b
    Examples:
      tiekd-cache push stores/bts.zarr /mnt/team/stores/bts.zarr
      tiekd-cache push stores/bts.zarr s3://team/stores/bts.zarr
      tiekd-cache push stores/bts.zarr s3://team/stores/bts.zarr --sign ~/.ssh/id_ed25519
    """
    from tiekd_cache.sharing import copy_store
    from tiekd_cache.store.objects import open_objects

    if key_file is not None:
        sign_and_tell(store, load_key(key_file))
    _show(lambda: copy_store(open_objects(store), open_objects(target), jobs=jobs, note=note), as_json)


@click.command()
@click.argument("source", metavar="FOLDER|URL")
@click.argument("store", metavar="STORE")
@click.option(
    "--frames",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Take only the shards that hold these: a split file, or a frame id a line.  [default: all]",
)
@trust_option
@_jobs_option
@json_option
def pull(source: str, store: str, frames: Path | None, trust_file: Path | None, jobs: int, as_json: bool) -> None:
    """Fetch a store, or the part of it that you need, from a folder, a bucket or a web server.

    Another pull, or `precompute`, adds what is missing; `--allow-partial` reads what is there.

    \b
    Examples:
      tiekd-cache pull s3://team/stores/bts.zarr stores/bts.zarr
      tiekd-cache pull https://example.org/stores/bts.zarr stores/bts.zarr --frames splits/mine.txt
      tiekd-cache pull https://example.org/stores/bts.zarr stores/bts.zarr --trust allowed_signers
    """
    from tiekd_cache.sharing import copy_store, read_frame_choice
    from tiekd_cache.store.objects import open_objects

    trust = read_signers(trust_file)
    chosen = None if frames is None else read_frame_choice(frames)
    _show(
        lambda: copy_store(
            open_objects(source), open_objects(store), frame_ids=chosen, jobs=jobs, trust=trust, note=note
        ),
        as_json,
    )


@click.command()
@click.argument("stores", metavar="STORE...", nargs=-1, required=True)
@click.option("--into", required=True, metavar="STORE", help="The store to make, or to add to.")
@_jobs_option
@json_option
def merge(stores: tuple[str, ...], into: str, jobs: int, as_json: bool) -> None:
    """Join parts of one store that different people or machines made.

    Stores of other settings are refused, naming the setting; so are shards in which two of them disagree.

    \b
    Example:
      tiekd-cache merge ann.zarr ben.zarr --into stores/bts.zarr
    """
    from tiekd_cache.sharing import merge_stores
    from tiekd_cache.store.objects import open_objects

    sources = [open_objects(store) for store in stores]
    _show(lambda: merge_stores(sources, open_objects(into), jobs=jobs, note=note), as_json)


def _show(work: Callable[[], ShareReport], as_json: bool) -> None:
    report = work()
    for line in report.notes:
        note(f"Note: {line}")
    result: dict[str, Any] = {
        "store": report.target,
        "frames": report.frames,
        "store_frames": report.store_frames,
        "shards_copied": report.sent,
        "shards_there_before": report.there_before,
        "bytes_copied": report.num_bytes,
        "seconds": report.seconds,
    }
    print_result(result, as_json)
    if report.missing:
        note(f"Note: {report.missing} shards of what was asked for are not finished at the source yet")
    if report.frames < report.store_frames:
        note(
            f"Note: {report.target} is partial: read it with --allow-partial, or complete it by another pull, by merge"
            " or by `precompute`"
        )
