"""`tiekd-cache export-student`: a run's weights in a file of their own."""

from __future__ import annotations

from pathlib import Path

import click

from tiekd_cache.cli.common import json_option, print_result


@click.command("export-student")
@click.option("--run", "run_path", type=click.Path(path_type=Path), help="Run folder.  [default: the newest in runs/]")
@click.option("--to", "target", required=True, type=click.Path(path_type=Path), help="FILE.pt or FILE.safetensors.")
@json_option
def export_student(run_path: Path | None, target: Path, as_json: bool) -> None:
    """Weights and settings of a run's student, without the optimiser; `load_student` and --checkpoint take the file.

    \b
    Examples:
      tiekd-cache export-student --to student.safetensors
      tiekd-cache export-student --run runs/mine --to student.pt
    """
    from tiekd_cache.run_folder import RunFolder, newest_run
    from tiekd_cache.students import export_student as write_student

    folder = RunFolder.open(run_path if run_path is not None else newest_run())
    source = folder.best_checkpoint if folder.best_checkpoint.exists() else folder.last_checkpoint
    size = write_student(source, target)
    print_result({"student": str(target), "from": str(source), "megabytes": round(size / 1e6, 2)}, as_json)
