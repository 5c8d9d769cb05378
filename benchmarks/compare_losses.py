"""Losses side by side on made-up streets: `python benchmarks/compare_losses.py [--steps 600 --seeds 3 --out DIR]`.

Each loss trains one small student a seed, from the `lidar` teacher's responses to the same frames, and is evaluated
on streets of its own. OUT/losses.md has the table: the mean over seeds and, with more than one, the standard deviation.
What is done is not done again. Losses and all other settings stand in benchmarks/compare_losses.toml.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click

from tiekd_cache.config import from_mapping, read_toml, set_value
from tiekd_cache.errors import ConfigError, TiekdError
from tiekd_cache.pipeline import run_recipe
from tiekd_cache.recipe import Recipe
from tiekd_cache.results import EVALUATION_FILE
from tiekd_cache.run_folder import RunFolder, write_text

SETTINGS = Path(__file__).with_suffix(".toml")
METRICS = ("abs_rel", "rmse", "silog", "a1")


def recipes_of(
    settings: Path, out: Path, *, student: str, steps: int, frames: int, seeds: int, only: tuple[str, ...] = ()
) -> dict[str, list[Recipe]]:
    """Name of a loss -> its recipes, one a seed; all of them share the data and the store below `out`.

    Raises:
        ConfigError: the file is absent or malformed, or a setting or one of `only` is unknown.
    """
    tables = read_toml(settings)
    losses: dict[str, Any] = tables.get("losses", {})
    unknown = [name for name in only if name not in losses]
    if unknown or not losses:
        raise ConfigError(f"{settings} has no loss '{', '.join(unknown)}'. It has: {', '.join(losses) or 'none'}.")
    recipes: dict[str, list[Recipe]] = {}
    for name in only or losses:
        recipes[name] = []
        for seed in range(seeds):
            mapping = copy.deepcopy(tables.get("recipe", {}))
            mapping["loss"] = {**mapping.get("loss", {}), **losses[name]}
            for key, value in (
                ("out", str(out / f"{re.sub(r'[^a-z0-9.]+', '-', name.lower())}-{seed}")),
                ("data.kitti", str(out / "kitti")),
                ("data.synthetic.train_frames", frames),
                ("teacher.store", str(out / "lidar.zarr")),
                ("student.name", student),
                ("train.steps", steps),
                ("train.seed", seed),
            ):
                set_value(mapping, key, value)
            recipes[name].append(from_mapping(Recipe, mapping))
    return recipes


def result_of(recipe: Recipe) -> dict[str, Any]:
    """The evaluation of a recipe's run, which is run first where that was not done, or with other settings.

    Raises:
        TiekdError: as `run_recipe`.
    """
    folder = RunFolder(Path(recipe.out) / "run")
    file = folder.path / EVALUATION_FILE
    if not (file.is_file() and folder.best_checkpoint.is_file() and folder.config() == recipe.distill):
        run_recipe(recipe, note=lambda text: click.echo(text, err=True))
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return result


def table_of(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The lines of a Markdown table, one a loss: metrics, and abs_rel by range of depth."""
    first = next(iter(results.values()))[0]
    ranges = list(first["ranges"])
    header = ["loss", *METRICS, *(f"abs_rel {name} m" for name in ranges)]
    rows = [header, ["---", *["---:"] * (len(header) - 1)]]
    for name, runs in results.items():
        columns = [[run["ground_truth"][metric] for run in runs] for metric in METRICS]
        by_range = [[(run["ranges"][one]["metrics"] or {}).get("abs_rel") for run in runs] for one in ranges]
        rows.append([name, *(_cell(values) for values in (*columns, *by_range))])
    return [f"| {' | '.join(row)} |" for row in rows]


def _cell(values: list[float | None]) -> str:
    there = [value for value in values if value is not None]
    if not there:
        return "-"
    spread = f" ± {stdev(there):.4f}" if len(there) > 1 else ""
    return f"{mean(there):.4f}{spread}"


@click.command()
@click.option("--student", default="mobilenetv2", show_default=True, help="Which student.")
@click.option("--steps", default=600, show_default=True, type=click.IntRange(1), help="Training steps of each run.")
@click.option("--frames", default=48, show_default=True, type=click.IntRange(1), help="Frames to train on.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Runs of each loss.")
@click.option("--loss", "only", multiple=True, metavar="NAME", help="Only this loss of the settings (repeatable).")
@click.option("--settings", default=SETTINGS, type=click.Path(path_type=Path), help="TOML file instead of the usual.")
@click.option("--out", default="runs/losses", show_default=True, type=click.Path(path_type=Path), help="Its folder.")
def main(student: str, steps: int, frames: int, seeds: int, only: tuple[str, ...], settings: Path, out: Path) -> None:
    """Train every loss of the settings once a seed, and print the table of their errors on streets of their own."""
    try:
        recipes = recipes_of(settings, out, student=student, steps=steps, frames=frames, seeds=seeds, only=only)
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in recipes}
        for seed in range(seeds):  # all losses of a seed first: a table of fewer seeds is ready sooner
            for name, runs in recipes.items():
                click.echo(f"{name}, seed {seed}", err=True)
                results[name].append(result_of(runs[seed]))
            tested = next(iter(results.values()))[0]["ground_truth_frames"]
            about = f"{student}, {frames} frames, {steps} steps, {seed + 1} seed(s), tested on {tested} frames"
            text = "\n".join([about, "", *table_of(results)])
            write_text(out / "losses.md", text + "\n")
    except TiekdError as error:
        raise click.ClickException(str(error)) from None
    click.echo(text)


if __name__ == "__main__":
    main()
