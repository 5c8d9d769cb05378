"""`tiekd-cache info` and `tiekd-cache verify`: looking at a store, and looking whether it is whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from tiekd_cache.cli.common import json_option, note, only_store, print_result
from tiekd_cache.progress import progress_bar


@click.command()
@click.argument("store", type=click.Path(path_type=Path), required=False)
@json_option
def info(store: Path | None, as_json: bool) -> None:
    """What a store holds, who made it, and from what.

    \b
    Example:
      tiekd-cache info stores/bts.zarr
    """
    from tiekd_cache.store import open_store

    opened = open_store(store if store is not None else only_store(), allow_partial=True)
    facts = opened.info.to_json()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    print_result({name: value for name, value in facts.items() if name != "skipped"}, as_json=False)
    for frame in opened.info.schema.dataset.get("skipped", []):
        click.echo(f"no response to {frame['frame_id']}: {frame['reason']}")


@click.command()
@click.argument("store", type=click.Path(path_type=Path), required=False)
@click.option("--repair", is_flag=True, help="Drop what is wrong, so that the next precompute makes only that again.")
@json_option
def verify(store: Path | None, repair: bool, as_json: bool) -> None:
    """Read everything in a store and compare it with its digests. Exits with 1 where something is wrong.

    \b
    Examples:
      tiekd-cache verify stores/bts.zarr
      tiekd-cache verify stores/bts.zarr --repair
    """
    from tiekd_cache.store import verify_store

    path = store if store is not None else only_store()
    report = verify_store(path, repair=repair, progress=progress_bar)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
    else:
        print_result(
            {
                "store": str(path),
                "frames": report.num_frames,
                "frames_whole": report.frames_checked,
                "problems": len(report.problems),
            },
            as_json=False,
        )
    for line in report.notes:
        note(f"Note: {line}")
    for problem in report.problems:
        note(f"Problem: {problem}")
    if report.repaired:
        note("What is wrong was dropped. Run the same `tiekd-cache precompute` again to make it anew.")
    elif report.problems and not repair:
        note("Pass --repair to drop what is wrong, then run the same `tiekd-cache precompute` again.")
    sys.exit(0 if report.whole else 1)
