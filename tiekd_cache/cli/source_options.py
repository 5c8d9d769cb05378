"""Options that say which frames stage one looks at: KITTI, NYU Depth v2, or any pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tiekd_cache.cli.common import Command, FiniteRange, data_options, note_frames, open_kitti, parse_size


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
    names = ("kitti", "split", "skip_missing", "nyu", "images", "size", "focal_px")
    kitti, split, skip_missing, nyu, images, size, focal_px = (given.pop(name) for name in names)
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
