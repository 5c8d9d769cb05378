"""`tiekd-cache doctor`: what is there, what is missing, where to get it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tiekd_cache.cli.common import json_option, say


@click.command()
@click.option("--kitti", type=click.Path(path_type=Path), help="Folder of the KITTI data.  [default: data/kitti]")
@click.option("--checkpoints", type=click.Path(path_type=Path), help="Folder of weights.  [default: checkpoints]")
@json_option
def doctor(kitti: Path | None, checkpoints: Path | None, as_json: bool) -> None:
    """What data, splits, weights and devices are found; what is missing and where to get it.

    \b
    Example:
      tiekd-cache doctor --kitti /data/kitti
    """
    from tiekd_cache.doctor import diagnose

    report = diagnose(kitti, checkpoints)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
        return
    for line in report.lines():
        say(line)
