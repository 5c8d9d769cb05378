"""`tiekd-cache run`: both stages of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tiekd_cache.cli.common import note, print_table, say

if TYPE_CHECKING:
    from tiekd_cache.pipeline import PipelineReport

COLUMNS = ("abs_rel", "rmse", "rmse_log", "silog", "a1", "a2", "a3")


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(), help="Folder of everything it makes.  [default: as the recipe says]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any setting, e.g. --set train.steps=40.")
def run(recipe: Path, out: str | None, overrides: tuple[str, ...]) -> None:
    """Both stages of one experiment, and its evaluation. What is done already is skipped.

    \b
    Example:
      tiekd-cache run pipelines/demo.toml
    """
    from tiekd_cache.pipeline import run_recipe
    from tiekd_cache.recipe import read_recipe

    settings = (*overrides, f"out={out}") if out is not None else overrides
    print_report(run_recipe(read_recipe(recipe, settings), note=note))


def print_report(report: PipelineReport) -> None:
    """The table of a recipe's evaluation on stdout, and where its files are."""
    rows = []
    for who, result in report.rows:
        if result.ground_truth is not None:
            rows.append([who, str(result.gt_frames), *(f"{result.ground_truth[column]:.4f}" for column in COLUMNS)])
    print_table(["against ground truth", "frames", *COLUMNS], rows)
    say(f"student   {report.run / 'best.pt'}")
    say(f"pictures  {report.run / 'pictures.png'}")
    say(f"losses    {report.run / 'loss.png'}")
    say(f"store     {report.store}")
