"""`tiekd-cache distill`: stage two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tiekd_cache.cli.cache_options import cache_options, through_cache
from tiekd_cache.cli.catalogue import choose_stores
from tiekd_cache.cli.common import (
    Command,
    device_option,
    json_option,
    named_store,
    note,
    parse_size,
    print_result,
)
from tiekd_cache.cli.signing import read_signers, trust_option
from tiekd_cache.cli.source_options import (
    fill_from_run,
    images_were_in_store,
    open_training_frames,
    source_options,
)
from tiekd_cache.launch import Launch

_LOSSES = (
    "tie-kd, tie-kd-dpm, tie-kd-depth, res-kd-ssim, res-kd-mse, res-kd-si, res-kd-ssim-si, res-kd-ssim-mse or "
    "baseline.  [default: tie-kd]"
)
_TERMS = (
    "Instead of --loss, a sum of dpm, ssim, mse, si (to the teacher) and gt_ssim, gt_mse, gt_si (to ground truth); "
    "may be given several times."
)

if TYPE_CHECKING:
    from tiekd_cache.distill import DistillReport


def _setting(flag: str, key: str, help_text: str, **kwargs: Any) -> Callable[[Command], Command]:
    """An option that, when given, sets one dotted key of the settings; its default stands in the settings."""
    parameter = key.replace(".", "__")
    return click.option(flag, parameter, default=None, help=help_text, **kwargs)


def _term(text: str) -> tuple[str, float]:
    """`gt_si=0.5` -> its setting and value."""
    name, _, weight = text.partition("=")
    try:
        return f"loss.terms.{name.strip()}", float(weight)
    except ValueError:
        raise click.BadParameter(f"'{text}' is not of the form NAME=WEIGHT, e.g. gt_si=0.5") from None


@click.command()
@_setting("--student", "student.name", "Which student: see `tiekd-cache students`.  [default: resnet18]")
@_setting("--decoder", "student.decoder", "densedepth (as published) or slim.  [default: densedepth]")
@click.option(
    "--store",
    "stores",
    multiple=True,
    type=named_store,
    metavar="PATH|URL",
    help="The responses: folder, .zip or URL; several times for several teachers.  [default: the one under stores/]",
)
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    help="Of the stores in the folder or bucket --store, the one of this teacher; several times for several.",
)
@_setting("--mix", "teachers.mix", "Several stores: average over them, or sample one a frame.  [default: average]")
@click.option("--store-weight", "weights", multiple=True, type=float, help="Weight of each --store.  [default: equal]")
@trust_option
@cache_options
@source_options
@click.option(
    "--images-from-store",
    is_flag=True,
    help="Take the images out of a store made --with-images, not from --kitti.  [default: where there is no KITTI]",
)
@click.option("--run", "run_path", type=click.Path(path_type=Path), help="Run folder.  [default: a new one in runs/]")
@click.option(
    "--resume", is_flag=True, help="Go on with --run (or the newest run) where it stopped, with its settings."
)
@click.option(
    "--config", type=click.Path(path_type=Path), help="TOML file with settings that depart from the defaults."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any setting, e.g. --set loss.sigma=0.5.")
@_setting("--loss", "loss.name", _LOSSES)
@click.option("--term", "terms", multiple=True, metavar="NAME=WEIGHT", help=_TERMS)
@_setting("--alpha", "loss.alpha", "Weight of the DPM term.  [default: 0.1]", type=float)
@_setting("--sigma", "loss.sigma", "Width of the teacher's DPM, metres.  [default: 0.8]", type=float)
@_setting("--sigma-share", "loss.sigma_share", "At least this share of the depth.  [default: 0]", type=float)
@_setting("--dpm-form", "loss.form", "released or gaussian.  [default: released]")
@_setting("--decoder-width", "student.decoder_width", "Scales the decoder's channels.  [default: 1.0]", type=float)
@_setting("--bins", "student.spacing", "Spacing of the depth bins: uniform, log or inverse.  [default: uniform]")
@_setting("--pretrained/--no-pretrained", "student.pretrained", "Start from ImageNet weights.  [default: yes]")
@_setting("--epochs", "train.epochs", "Passes over the frames.  [default: 24]", type=int)
@_setting("--steps", "train.steps", "Iterations, instead of --epochs.", type=int)
@_setting("--batch-size", "train.batch_size", "Samples a step.  [default: 16]", type=int)
@_setting("--crop", "train.crop", "Training crop, HEIGHTxWIDTH.  [default: 352x704]")
@_setting("--lr", "optimiser.lr", "Highest learning rate.  [default: 0.001]", type=float)
@_setting("--seed", "train.seed", "Of weights, order and augmentation.  [default: 0]", type=int)
@_setting("--workers", "train.workers", "Loader processes.  [default: by the cores]", type=int)
@_setting("--limit-frames", "train.limit_frames", "Use only the first so many frames.", type=int)
@_setting("--precision", "train.precision", "float32 or bf16.  [default: float32]")
@_setting("--accumulate", "train.accumulate", "Forward passes a step is divided into.  [default: 1]", type=int)
@_setting("--ema-decay", "train.ema_decay", "Average the weights, e.g. 0.999.  [default: 0 = no]", type=float)
@_setting("--compile/--no-compile", "train.compile", "Compile the student.  [default: no]")
@_setting("--validate-every", "train.validate_every", "Steps between validations.  [default: an epoch]", type=int)
@_setting("--validate-frames", "train.validate_frames", "Frames validated on, 0 = none.  [default: 64]", type=int)
@_setting("--save-every", "train.save_every", "Steps between checkpoints.  [default: 500]", type=int)
@_setting("--tensorboard/--no-tensorboard", "train.tensorboard", "Write TensorBoard events too.  [default: no]")
@click.option(
    "--other-store", is_flag=True, help="With --resume: go on with another store, or other frames; it is recorded."
)
@click.option("--allow-partial", is_flag=True, help="Train from a store that is not finished, on the frames it has.")
@device_option
@json_option
def distill(
    stores: tuple[str | Path, ...],
    teachers: tuple[str, ...],
    weights: tuple[float, ...],
    trust_file: Path | None,
    images_from_store: bool,
    run_path: Path | None,
    resume: bool,
    config: Path | None,
    overrides: tuple[str, ...],
    terms: tuple[str, ...],
    other_store: bool,
    allow_partial: bool,
    device: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Stage two: train a compact student from the cached responses. The teacher is not needed any more.

    Started by torchrun, the processes train one student together, each on a GPU of its own. Ctrl-C finishes the step,
    saves, and ends with exit code 130; --resume goes on from there.

    \b
    Examples:
      tiekd-cache distill --student resnet18
      tiekd-cache distill --student resnet18 --store stores/bts.zarr --dpm-form gaussian --sigma 0.5
      tiekd-cache distill --loss res-kd-ssim-si
      tiekd-cache distill --term dpm=0.1 --term ssim=0.9 --term gt_si=0.5
      tiekd-cache distill --store stores/bts.zarr --store stores/adabins.zarr --mix sample
      tiekd-cache distill --store stores/bts.zarr --images-from-store
      tiekd-cache distill --store s3://team/stores/bts.zarr --kitti data/kitti --cache-dir ~/.cache/tiekd
      tiekd-cache distill --store s3://team/stores --teacher bts --kitti data/kitti
      tiekd-cache distill --store /mnt/team/stores/bts.zarr --trust allowed_signers
      tiekd-cache distill --no-pretrained --steps 40 --batch-size 2 --crop 96x320 --decoder-width 0.25
      tiekd-cache distill --nyu data/nyu --store stores/nyu.zarr --config nyu.toml
      tiekd-cache distill --images 'photos/**/*.jpg' --store stores/photos.zarr --crop 352x704
      tiekd-cache distill --resume --run runs/mine
    """
    from tiekd_cache.config import check_unchanged, from_mapping, read_toml
    from tiekd_cache.distill_config import DistillConfig
    from tiekd_cache.run_folder import RunFolder, newest_run
    from tiekd_cache.stages import run_distill
    from tiekd_cache.teacher_stores import recorded_stores

    trust = read_signers(trust_file)
    if other_store and not resume:
        raise click.UsageError("--other-store goes with --resume: a new run takes any store.")
    mapping = read_toml(config) if config is not None else {}
    _put_options(mapping, overrides, given, terms, weights)
    if resume:
        run_path = run_path if run_path is not None else newest_run()
        run = RunFolder.open(run_path)
        resolved, recorded = run.config(), run.run()
        check_unchanged(resolved, mapping, f"The run {run_path}")
        stores = stores or tuple(recorded_stores(recorded))
        images_from_store = images_from_store or images_were_in_store(given, recorded)
        if not images_from_store:
            fill_from_run(given, recorded, same_split=True)
        if not run.is_finished():
            note(f"Going on with {run_path}, with its own settings")
    else:
        resolved = from_mapping(DistillConfig, mapping)
    chosen = choose_stores(stores, teachers, given, any_data=images_from_store, partial=allow_partial, trust=trust)
    places = through_cache(given, chosen)
    source, how = open_training_frames(given, places, images_from_store, allow_partial, trust)
    validation = _test_split(source, how) if resolved.train.validate_frames else None
    report = run_distill(
        resolved,
        source,
        places,
        run_path,
        device=device,
        resume=resume,
        allow_partial=allow_partial,
        other_store=other_store,
        validation=validation,
        given=how,
        trust=trust,
        note=note,
    )
    _print_report(report, as_json)


def _put_options(
    mapping: dict[str, Any],
    overrides: tuple[str, ...],
    given: dict[str, Any],
    terms: tuple[str, ...],
    weights: tuple[float, ...],
) -> None:
    """Put `--set` into a file's mapping, and the settings that have options of their own, which win over both."""
    from tiekd_cache.config import apply_overrides, set_value

    apply_overrides(mapping, overrides)
    if terms and given["loss__name"] is not None:
        raise click.UsageError("--loss and --term: the terms alone make the sum, leave out one of the two.")
    pairs = [_term(term) for term in terms]
    for key, weight in pairs:
        if [name for name, _ in pairs].count(key) > 1:
            raise click.BadParameter(f"--term {key.rpartition('.')[2]} is given more than once: give it one weight.")
        set_value(mapping, key, weight)
    for parameter, value in given.items():
        if value is not None and "__" in parameter:
            key = parameter.replace("__", ".")
            set_value(mapping, key, list(parse_size(value)) if key == "train.crop" else value)
    if weights:
        set_value(mapping, "teachers.weights", list(weights))


def _test_split(source: Any, how: dict[str, Any]) -> Any:
    """The usual test split beside the training data; None where there is none, or it holds training frames."""
    from tiekd_cache.data.kitti import KittiFrames
    from tiekd_cache.data.nyu import open_nyu
    from tiekd_cache.errors import DataError

    if "images" in how or "images_from_store" in how:
        return None
    open_data: Callable[..., Any] = open_nyu if "nyu" in how else KittiFrames.open
    try:
        test = open_data(Path(how["nyu"]) if "nyu" in how else source.root, None, purpose="test", skip_missing=True)
    except DataError:
        return None
    return None if set(test.frame_ids) & set(source.frame_ids) else test


def _print_report(report: DistillReport, as_json: bool) -> None:
    if Launch.from_environment().rank > 0:
        return
    best = dict(report.best) if report.best is not None else None
    print_result(
        {
            "run": str(report.run),
            "steps": report.steps,
            "loss_first": round(report.first_loss, 4),
            "loss_last": round(report.last_loss, 4),
            "best": best,
            "seconds": round(report.seconds, 1),
            "student": str(report.run / "best.pt"),
            "pictures": str(report.run / "pictures.png"),
            "loss_curve": str(report.run / "loss.png"),
        },
        as_json,
    )
    note(f"Next: tiekd-cache evaluate --run {report.run}")
