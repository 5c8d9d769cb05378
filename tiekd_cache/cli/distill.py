"""`tiekd-cache distill`: stage two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tiekd_cache.cli.common import (
    Command,
    data_options,
    device_option,
    json_option,
    note,
    only_store,
    open_training_frames,
    parse_size,
    print_result,
)


def _setting(flag: str, key: str, help_text: str, **kwargs: Any) -> Callable[[Command], Command]:
    """An option that, when given, sets one dotted key of the settings; its default stands in the settings."""
    parameter = key.replace(".", "__")
    return click.option(flag, parameter, default=None, help=help_text, **kwargs)


@click.command()
@_setting("--student", "student.name", "Which student.  [default: resnet18]")
@click.option(
    "--store",
    "stores",
    multiple=True,
    type=click.Path(path_type=Path),
    help="The responses; several times for several teachers.  [default: the one under stores/]",
)
@_setting("--mix", "teachers.mix", "Several stores: average over them, or sample one a frame.  [default: average]")
@click.option("--store-weight", "weights", multiple=True, type=float, help="Weight of each --store.  [default: equal]")
@data_options
@click.option(
    "--images-from-store",
    is_flag=True,
    help="Take the images out of a store made --with-images, not from --kitti.  [default: where there is no KITTI]",
)
@click.option("--run", "run_path", type=click.Path(path_type=Path), help="Run folder.  [default: a new one in runs/]")
@click.option("--resume", is_flag=True, help="Go on with --run (or the newest run) where it stopped.")
@click.option(
    "--config", type=click.Path(path_type=Path), help="TOML file with settings that depart from the defaults."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any setting, e.g. --set loss.sigma=0.5.")
@_setting("--loss", "loss.name", "tie-kd, tie-kd-dpm, tie-kd-depth or baseline.  [default: tie-kd]")
@_setting("--alpha", "loss.alpha", "Weight of the DPM term.  [default: 0.1]", type=float)
@_setting("--sigma", "loss.sigma", "Width of the teacher's DPM, metres.  [default: 0.8]", type=float)
@_setting("--dpm-form", "loss.form", "released or gaussian.  [default: released]")
@_setting("--decoder-width", "student.decoder_width", "Scales the decoder's channels.  [default: 1.0]", type=float)
@_setting("--pretrained/--no-pretrained", "student.pretrained", "Start from ImageNet weights.  [default: yes]")
@_setting("--epochs", "train.epochs", "Passes over the frames.  [default: 24]", type=int)
@_setting("--steps", "train.steps", "Iterations, instead of --epochs.", type=int)
@_setting("--batch-size", "train.batch_size", "Samples a step.  [default: 16]", type=int)
@_setting("--crop", "train.crop", "Training crop, HEIGHTxWIDTH.  [default: 352x704]")
@_setting("--lr", "optimiser.lr", "Highest learning rate.  [default: 0.001]", type=float)
@_setting("--seed", "train.seed", "Of weights, order and augmentation.  [default: 0]", type=int)
@_setting("--workers", "train.workers", "Loader processes.  [default: by the cores]", type=int)
@_setting("--limit-frames", "train.limit_frames", "Use only the first so many frames.", type=int)
@click.option("--allow-partial", is_flag=True, help="Train from a store that is not finished, on the frames it has.")
@device_option
@json_option
def distill(
    stores: tuple[Path, ...],
    weights: tuple[float, ...],
    kitti: Path | None,
    split: str | None,
    skip_missing: bool,
    images_from_store: bool,
    run_path: Path | None,
    resume: bool,
    config: Path | None,
    overrides: tuple[str, ...],
    allow_partial: bool,
    device: str,
    as_json: bool,
    **settings: Any,
) -> None:
    """Stage two: train a compact student from the cached responses. The teacher is not needed any more.

    \b
    Examples:
      tiekd-cache distill --student resnet18
      tiekd-cache distill --student resnet18 --store stores/bts.zarr --dpm-form gaussian --sigma 0.5
      tiekd-cache distill --store stores/bts.zarr --store stores/adabins.zarr --mix sample
      tiekd-cache distill --store stores/bts.zarr --images-from-store
      tiekd-cache distill --no-pretrained --steps 40 --batch-size 2 --crop 96x320 --decoder-width 0.25
      tiekd-cache distill --resume --run runs/mine
    """
    from tiekd_cache.config import apply_overrides, from_mapping, read_toml, set_value
    from tiekd_cache.distill_config import DistillConfig
    from tiekd_cache.run_folder import RunFolder, newest_run
    from tiekd_cache.stages import run_distill
    from tiekd_cache.teacher_stores import recorded_stores

    if resume:
        run_path = run_path if run_path is not None else newest_run()
        run = RunFolder.open(run_path)
        resolved, recorded = run.config(), run.run()
        stores = stores or tuple(recorded_stores(recorded))
        images_from_store = images_from_store or (kitti is None and recorded.get("images_from_store", False))
        if not images_from_store:
            kitti = kitti if kitti is not None else Path(recorded["data"])
            split = split if split is not None else recorded["split_argument"]
        note(f"Going on with {run_path}, with its own settings")
    else:
        mapping = read_toml(config) if config is not None else {}
        apply_overrides(mapping, overrides)
        for parameter, value in settings.items():
            if value is not None:
                key = parameter.replace("__", ".")
                set_value(mapping, key, list(parse_size(value)) if key == "train.crop" else value)
        if weights:
            set_value(mapping, "teachers.weights", list(weights))
        resolved = from_mapping(DistillConfig, mapping)
    stores = stores or (only_store(),)
    source = open_training_frames(stores, images_from_store, kitti, split, skip_missing, allow_partial)
    report = run_distill(
        resolved,
        source,
        stores,
        run_path,
        device=device,
        resume=resume,
        allow_partial=allow_partial,
        split_argument=split,
        note=note,
    )
    print_result(
        {
            "run": str(report.run),
            "steps": report.steps,
            "loss_first": round(report.first_loss, 4),
            "loss_last": round(report.last_loss, 4),
            "seconds": round(report.seconds, 1),
            "student": str(report.run / "best.pt"),
            "pictures": str(report.run / "pictures.png"),
            "loss_curve": str(report.run / "loss.png"),
        },
        as_json,
    )
    note(f"Next: tiekd-cache evaluate --run {report.run}")
