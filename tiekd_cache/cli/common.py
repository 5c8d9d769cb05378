"""What the commands share: one-line errors, results as table or JSON, and options that mean the same everywhere."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from tiekd_cache.errors import SharedError, TiekdError, one_line
from tiekd_cache.interrupt import INTERRUPTED
from tiekd_cache.launch import Launch

Command = TypeVar("Command", bound=Callable[..., Any])

GOES_ON = frozenset({"demo", "precompute", "run", "import", "export-store", "push", "pull", "merge"})
"""Commands that keep what they have done when they are interrupted; `distill` says itself what it has saved."""


class ErrorsInOneLine(click.Group):
    """A group whose commands end with one line and the error's exit code where the user can mend it."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TiekdError as error:
            rank = Launch.from_environment().rank
            if rank == 0:
                click.echo(f"Error: {error}", err=True)
            elif not isinstance(error, SharedError):
                click.echo(f"Error (process {rank}): {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            kept = "What was finished is kept; the same command goes on from there."
            note(f"Interrupted. {kept}" if ctx.invoked_subcommand in GOES_ON else "Interrupted.")
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            sys.exit(1)


class FiniteRange(click.FloatRange):
    """A number in a range; unlike click's own, neither NaN, which no comparison rejects, nor infinite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; a usage error otherwise."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number


def note(text: str) -> None:
    """A sentence for the user, on stderr, so that stdout holds results only; of several ranks the first one speaks."""
    if Launch.from_environment().rank == 0:
        click.echo(one_line(text), err=True)


def say(text: str) -> None:
    """A line of a result on stdout, whatever a store's texts in it are."""
    click.echo(one_line(text))


def note_each(what: str, lines: Sequence[str], shown: int = 10) -> None:
    """The first of many sentences that begin alike, and how many more there are."""
    for line in lines[:shown]:
        note(f"{what} {line}")
    if len(lines) > shown:
        note(f"{what} {len(lines) - shown} more")


def print_result(result: Mapping[str, Any], as_json: bool) -> None:
    """A result on stdout: JSON, or `name  value` lines."""
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    width = max(len(name) for name in result)
    for name, value in result.items():
        say(f"{name:<{width}}  {_text(value)}")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> None:
    """A table on stdout: the first `text_columns` columns to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        cells = [
            cell.ljust(width) if i < text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        say("  ".join(cells).rstrip())


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value) or "-"
    return "-" if value is None else str(value)


def data_options(command: Command) -> Command:
    """--kitti, --split and --skip-missing."""
    for option in (
        click.option(
            "--skip-missing",
            is_flag=True,
            help="Go on without frames whose files are missing, and say which they were.",
        ),
        click.option(
            "--split",
            metavar="FILE|all",
            help="Split file (lines `rgb depth focal`), or `all`.  [default: the usual split file beside the data]",
        ),
        click.option(
            "--kitti",
            type=click.Path(path_type=Path),
            help="Folder of the KITTI data.  [default: $TIEKD_KITTI or data/kitti]",
        ),
    ):
        command = option(command)
    return command


def device_option(command: Command) -> Command:
    """--device."""
    return click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, or auto.")(command)


def shard_frames_option(command: Command) -> Command:
    """--shard-frames."""
    return click.option(
        "--shard-frames",
        type=click.IntRange(1, 4096),
        default=64,
        show_default=True,
        help="Frames a file of the store.",
    )(command)


def json_option(command: Command) -> Command:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def open_kitti(kitti: Path | None, split: str | None, purpose: str, skip_missing: bool) -> Any:
    """The frames that the data options name; says on stderr which split was used and what was left out."""
    from tiekd_cache.data.kitti import KittiFrames
    from tiekd_cache.data.places import default_kitti_root

    root = kitti if kitti is not None else default_kitti_root()
    frames = KittiFrames.open(root, split, purpose=purpose, skip_missing=skip_missing)  # type: ignore[arg-type]
    return note_frames(frames, root)


def note_frames(frames: Any, root: Path) -> Any:
    """The same frames; says on stderr where they are and what was left out."""
    note(f"Data: {root}, {frames.split_note}")
    note_each("Left out:", frames.skipped)
    return frames


def only_store(root: Path = Path("stores")) -> Path:
    """The one store under stores/; raises ConfigError where there is none, or more than one."""
    from tiekd_cache.errors import ConfigError

    stores = sorted(path.parent for path in root.glob("*/zarr.json"))
    if len(stores) == 1:
        note(f"Store: {stores[0]} (the only one under {root}/)")
        return stores[0]
    if not stores:
        raise ConfigError(f"No store under {root}/. Make one with `tiekd-cache precompute`, or name one with --store.")
    names = ", ".join(str(store) for store in stores)
    raise ConfigError(f"{len(stores)} stores under {root}/: {names}. Choose one with --store.")


def named_store(text: str) -> str | Path:
    """The type of options that name a store to read: a folder or `.zip` file as a Path, a URL as text."""
    from tiekd_cache.store.objects import store_place

    return store_place(text)


def new_store(text: str) -> Path:
    """The type of options that name a store to write; raises click.BadParameter for a URL."""
    from tiekd_cache.store.objects import store_place

    place = store_place(text)
    if isinstance(place, str):
        raise click.BadParameter("stores are made in folders: name one, and push it to the URL when it is finished.")
    return place


def store_to_write(text: str) -> str | Path:
    """The type of options that name a store to write: a folder as a Path, a bucket's URL as text.

    Raises click.BadParameter for what can only be read.
    """
    from tiekd_cache.store.objects import store_place

    place = store_place(text)
    if isinstance(place, str) and place.startswith("http"):
        raise click.BadParameter("a web server only shows stores: name a folder or a bucket (s3://, gs://, az://).")
    if text.lower().endswith(".zip") and not Path(text).is_dir():
        raise click.BadParameter("a zip file can only be read: name a folder or a bucket (s3://, gs://, az://).")
    return place


def parse_size(text: str) -> tuple[int, int]:
    """`352x704` -> (352, 704); raises click.BadParameter otherwise."""
    try:
        height, width = (int(number) for number in text.lower().split("x"))
    except ValueError:
        raise click.BadParameter(f"'{text}' is not of the form HEIGHTxWIDTH, e.g. 352x704") from None
    if height < 1 or width < 1:
        raise click.BadParameter(f"'{text}': both must be at least 1")
    return height, width
