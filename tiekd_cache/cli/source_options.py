"""Options that say which frames a command looks at: KITTI, NYU Depth v2, or any pictures."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tiekd_cache.cli.common import Command, FiniteRange, data_options, note_frames, open_kitti, parse_size
from tiekd_cache.errors import ConfigError

if TYPE_CHECKING:
    from tiekd_cache.openssh import Signers
    from tiekd_cache.store.object_path import StorePlace

_NAMES = ("kitti", "split", "skip_missing", "nyu", "images", "size", "focal_px")
_PATHS = ("kitti", "nyu")


def source_options(command: Command) -> Command:
    """`data_options`, and --nyu, --images, --size and --focal-px."""
    for option in (
        click.option("--focal-px", type=FiniteRange(1.0), help="Focal length of --images.  [default: the width]"),
        click.option("--size", metavar="HxW", help="Crop --images to their middle of this size, where sizes differ."),
        click.option("--images", metavar="GLOB", help="Any pictures: a folder, or a pattern in quotes ('**' too)."),
        click.option(
            "--nyu", type=click.Path(path_type=Path), help="NYU Depth v2: the labelled .mat file or a folder."
        ),
    ):
        command = option(command)
    return data_options(command)


def open_source(given: dict[str, Any], purpose: str) -> Any:
    """The frames that the values of `source_options` name; takes them out of `given` and says what was found.

    Raises:
        click.UsageError: two data sets are named, or an option does not go with the one that is.
        DataError: the data are not there, or not whole.
    """
    kitti, split, skip_missing, nyu, images, size, focal_px = (given.pop(name) for name in _NAMES)
    if sum(one is not None for one in (kitti, nyu, images)) > 1:
        raise click.UsageError("--kitti, --nyu and --images exclude each other: name one.")
    if images is None and (size is not None or focal_px is not None):
        raise click.UsageError("--size and --focal-px go with --images.")
    if images is not None:
        from tiekd_cache.data.picture_folder import PictureFrames

        if split is not None or skip_missing:
            raise click.UsageError("--split and --skip-missing do not go with --images: the pattern says which.")
        pictures = PictureFrames.open(images, None if size is None else parse_size(size), focal_px)
        return note_frames(pictures, pictures.root)
    if nyu is not None:
        from tiekd_cache.data.nyu import open_nyu

        return note_frames(open_nyu(nyu, split, purpose=purpose, skip_missing=skip_missing), nyu)
    return open_kitti(kitti, split, purpose, skip_missing)


def open_and_record(given: dict[str, Any], purpose: str) -> tuple[Any, dict[str, Any]]:
    """`open_source`, and the options that name the same frames again, as JSON values for run.json."""
    record = {name: given[name] for name in _NAMES if given[name] not in (None, False)}
    source = open_source(given, purpose)
    if source.name == "kitti":
        record["kitti"] = source.root  # the default place may be another one next time
    return source, {name: str(value) if name in _PATHS else value for name, value in record.items()}


def named_options(given: Mapping[str, Any]) -> str:
    """The values of `source_options` that the user gave, as they would be typed again; starts with a space, or ''."""
    words: list[str] = []
    for name in _NAMES:
        if given[name] not in (None, False):
            flag = "--" + name.replace("_", "-")
            words += [flag] if given[name] is True else [flag, str(given[name])]
    return f" {shlex.join(words)}" if words else ""


def open_training_frames(
    given: dict[str, Any],
    stores: Sequence[StorePlace],
    images_from_store: bool,
    allow_partial: bool,
    trust: Signers | None = None,
) -> tuple[Any, dict[str, Any]]:
    """`open_and_record` for training; or the frames whose images are in one of the stores.

    The latter where that is asked for, or where no data set is named, none lies in its usual place, and a store has
    images.

    Args:
        trust: who must have signed the store that images come from.
    Raises:
        click.UsageError: a data set is named as well.
    """
    from tiekd_cache.data.places import default_kitti_root
    from tiekd_cache.store.images import has_images
    from tiekd_cache.store_frames import IMAGES_FROM_STORE, StoreFrames

    named = _is_named(given)
    if images_from_store and named:
        raise click.UsageError(
            "--images-from-store does not go with options that name a data set: the store has its own frames."
        )
    found = next((store for store in stores if has_images(store)), None)
    if images_from_store or (found is not None and not named and not default_kitti_root().exists()):
        for name in _NAMES:
            given.pop(name)
        chosen = stores[0] if found is None else found
        frames = StoreFrames.open(chosen, allow_partial=allow_partial, trust=trust)
        return note_frames(frames, frames.root), {IMAGES_FROM_STORE: True}
    return open_and_record(given, "train")


def images_were_in_store(given: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    """Whether a run took its images out of its store, and the user names no other place for them."""
    from tiekd_cache.store_frames import IMAGES_FROM_STORE

    source = run.get("source")
    return not _is_named(given) and isinstance(source, Mapping) and bool(source.get(IMAGES_FROM_STORE, False))


def _is_named(given: Mapping[str, Any]) -> bool:
    return any(given[name] not in (None, False) for name in _NAMES)


def fill_from_run(given: dict[str, Any], run: Mapping[str, Any], *, same_split: bool) -> None:
    """Put the data that a run was trained on into `given`, where the user named no others.

    Args:
        given: values of `source_options`; changed.
        run: contents of run.json.
        same_split: the split of the training, too; otherwise the user's, or the usual one.
    Raises:
        ConfigError: the run's data are none that the options can name.
    """
    from tiekd_cache.store_frames import IMAGES_FROM_STORE

    if any(given[name] is not None for name in ("kitti", "nyu", "images")):
        return
    recorded = run.get("source", {"kitti": run.get("data"), "split": run.get("split_argument")})
    named = recorded if isinstance(recorded, Mapping) else {}
    if named.get(IMAGES_FROM_STORE, False):
        return  # the store knows no data set; the usual place may have one
    if not any(named.get(name) for name in ("kitti", "nyu", "images")):
        raise ConfigError(
            f"The run was trained on {run.get('dataset')} at {run.get('data')}, which no option names. Name the data "
            "with --kitti, --nyu or --images."
        )
    for name in _NAMES:
        value = named.get(name)
        if value is not None and given[name] in (None, False) and (same_split or name not in ("split", "skip_missing")):
            given[name] = Path(value) if name in _PATHS else value
