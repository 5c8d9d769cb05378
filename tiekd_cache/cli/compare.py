"""`tiekd-cache compare`: which of several students is better, and whether that is more than chance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tiekd_cache.cli.common import json_option, note, print_table

if TYPE_CHECKING:
    from tiekd_cache.bootstrap import Interval
    from tiekd_cache.comparison import Comparison


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--metrics", default="abs_rel,rmse,silog,a1", show_default=True, help="Which, separated by commas.")
@click.option("--against", type=click.Choice(["gt", "teacher"]), default="gt", show_default=True, help="Of what.")
@click.option("--range", "depth_range", metavar="NEAR-FAR", help="Only ground truth of a range that was evaluated.")
@click.option(
    "--by",
    type=click.Choice(["image", "drive"]),
    default="image",
    show_default=True,
    help="What is drawn: images, or whole drives (scenes).",
)
@click.option("--resamples", type=click.IntRange(100, 1_000_000), default=10_000, show_default=True, help="How many.")
@click.option("--level", type=click.FloatRange(0.5, 0.999), default=0.95, show_default=True, help="Of the intervals.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the resampling.")
@click.option("--markdown", is_flag=True, help="Print Markdown tables.")
@json_option
def compare(
    runs: tuple[Path, ...],
    metrics: str,
    against: str,
    depth_range: str | None,
    by: str,
    resamples: int,
    level: float,
    seed: int,
    markdown: bool,
    as_json: bool,
) -> None:
    """Students side by side, with bootstrap intervals; differences are to the first one, image by image.

    RUNS are run folders that were evaluated, or evaluation.json or CSV files of `tiekd-cache evaluate`. All must be
    of the same frames and protocol.

    \b
    Examples:
      tiekd-cache compare runs/baseline runs/tie-kd
      tiekd-cache compare runs/a runs/b runs/c --metrics abs_rel,a1 --by drive --markdown
      tiekd-cache compare a.csv b.csv --against teacher --json
    """
    from tiekd_cache.comparison import compare as run_compare
    from tiekd_cache.results import read_results

    if depth_range is not None and against == "teacher":
        raise click.UsageError("--range goes with --against gt only.")
    results = [read_results(path, against, depth_range) for path in runs]
    chosen = tuple(name.strip() for name in metrics.split(","))
    result = run_compare(results, chosen, resamples=resamples, level=level, seed=seed, by_drive=by == "drive")
    if as_json:
        click.echo(json.dumps({"against": against, "range": depth_range, "by": by, **result.to_json()}, indent=2))
        return
    drawn = "" if by == "image" else f" of {result.groups} drives"
    note(f"{100 * level:g} % intervals from {resamples} resamples of {result.frames} images{drawn}, seed {seed}")
    for header, rows in _tables(result):
        if markdown:
            click.echo("\n".join(_markdown(header, rows)))
        else:
            print_table(header, rows)
        click.echo()
    if len(result.rows) > 1:
        told = sum(bool(row.verdict(name)) for row in result.rows for name in result.metrics)
        total = (len(result.rows) - 1) * len(result.metrics)
        click.echo(f"{told} of {total} differences exclude 0 at {100 * level:g} %: they say better or worse.")


def _tables(result: Comparison) -> list[tuple[list[str], list[list[str]]]]:
    """(header, rows) of the means, and of the differences where there are any."""
    means = [[row.name, *(_text(row.means[name]) for name in result.metrics)] for row in result.rows]
    tables = [(["run", *result.metrics], means)]
    others = [
        [row.name, *(f"{_text(row.differences[name], '+')} {row.verdict(name):6}" for name in result.metrics)]
        for row in result.rows[1:]
    ]
    if others:
        tables.append(([f"less {result.rows[0].name}", *result.metrics], others))
    return tables


def _text(interval: Interval, sign: str = "") -> str:
    mean, low, high = (format(value, f"{sign}.4f") for value in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(cell.strip() for cell in row)} |" for row in (header, rule, *rows)]
