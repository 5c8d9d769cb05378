"""`tiekd-cache demo`: the whole chain on made-up street scenes."""

from __future__ import annotations

from importlib.resources import as_file, files

import click

from tiekd_cache.cli.common import note
from tiekd_cache.cli.run import print_report


@click.command()
@click.option("--out", default="tiekd-demo", show_default=True, help="Folder of everything the demo makes.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any setting, e.g. --set train.steps=40.")
def demo(out: str, overrides: tuple[str, ...]) -> None:
    """The whole chain in minutes, on the CPU, with nothing to download.

    Makes street scenes in KITTI's own layout, caches the answers of the `lidar` teacher, distils a small
    ResNet-18 student from them, and evaluates it on streets that it has not seen.

    \b
    Example:
      tiekd-cache demo
    """
    from tiekd_cache.pipeline import run_recipe
    from tiekd_cache.recipe import read_recipe

    with as_file(files("tiekd_cache") / "demo.toml") as path:
        recipe = read_recipe(path, (*overrides, f"out={out}"))
    report = run_recipe(recipe, note=note)
    print_report(report)
    note("")
    note(f"Look at {report.run / 'pictures.png'}: image, teacher, student, error.")
    note("Next, on real KITTI (tiekd-cache doctor says what is missing):")
    note("  tiekd-cache precompute --teacher bts")
    note("  tiekd-cache distill --student resnet18")
