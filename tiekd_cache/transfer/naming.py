"""Which file of a folder belongs to which frame: patterns with {drive}, {camera}, {index} and {date}."""

from __future__ import annotations

import os
import string
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from tiekd_cache.errors import ConfigError, DataError

EXTENSIONS = ("png", "npy", "npz", "tiff", "tif", "pfm")

USUAL_PATTERNS = (
    "{drive}/{camera}/{index}",
    "{date}_{drive}_{camera}_data_{index}",
    "{drive}_{camera}_{index}",
    "{drive}/proj_depth/groundtruth/{camera}/{index}",
    "{date}/{drive}/{camera}/data/{index}",
    "{drive}/{index}",
    "{drive}_{index}",
    "{index}",
)
"""Tried in this order: ours; the flat names of the TIE-KD release (the image's path with `_` for `/`); flat frame
ids; KITTI's depth and images; and names that are unique only with one camera, or one drive."""

_FIELDS = ("drive", "camera", "index", "date")
_SAMPLE = 50


def file_name(pattern: str, frame_id: str) -> str:
    """The file of a frame, relative to the folder.

    Raises:
        DataError: the frame id is not `<drive>/<camera>/<index>`.
    """
    parts = frame_id.split("/")
    if len(parts) != 3:
        raise DataError(f"Frame {frame_id!r} is not <drive>/<camera>/<index>: files cannot be found by such names.")
    drive, camera, index = parts
    return pattern.format(drive=drive, camera=camera, index=index, date=drive[:10])


def check_pattern(pattern: str) -> None:
    """Raise ConfigError unless a pattern has {index} and no field that frames do not have."""
    try:
        found = [(name, spec, mark) for _, name, spec, mark in string.Formatter().parse(pattern) if name is not None]
    except ValueError as error:
        raise ConfigError(
            f"Pattern '{pattern}' cannot be read ({error}): write e.g. '{{drive}}_{{index}}.png'."
        ) from None
    names = [name for name, _, _ in found]
    if "index" not in names or set(names) - set(_FIELDS) or any(spec or mark for _, spec, mark in found):
        raise ConfigError(
            f"Pattern '{pattern}' must have {{index}} and may have {{drive}}, {{camera}} and {{date}}, nothing else in"
            " braces: write e.g. '{drive}_{camera}_{index}.png'."
        )


def find_pattern(folder: Path, frame_ids: Sequence[str], pattern: str | None) -> str:
    """The pattern, with its extension, that the files in a folder follow.

    Args:
        frame_ids: of the split; up to 50 of them are looked for.
        pattern: the user's, with or without extension; None tries the usual ones.
    Raises:
        ConfigError: the pattern makes no sense, or gives two frames one file.
        DataError: there is no folder, or no file of these frames in it; says what was looked for and what is there.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: name the folder that holds the depth files.")
    if pattern is not None:
        check_pattern(pattern)
        if not _is_unique(pattern, frame_ids):
            raise ConfigError(
                f"Pattern '{pattern}' gives several of the {len(frame_ids)} frames one file: add {{drive}} or"
                " {camera}."
            )
    candidates = [
        candidate
        for one in (USUAL_PATTERNS if pattern is None else (pattern,))
        if pattern is not None or _is_unique(one, frame_ids)
        for candidate in _with_extension(one)
    ]
    places = np.linspace(0, len(frame_ids) - 1, min(_SAMPLE, len(frame_ids))).astype(int)
    for looked_at in ([frame_ids[place] for place in places], frame_ids):
        hits = {one: sum((folder / file_name(one, frame)).is_file() for frame in looked_at) for one in candidates}
        best = max(hits, key=lambda one: hits[one])
        if hits[best]:
            return best
    raise _nothing_found(folder, candidates, frame_ids[0])


def _is_unique(pattern: str, frame_ids: Sequence[str]) -> bool:
    return len({file_name(pattern, frame_id) for frame_id in frame_ids}) == len(frame_ids)


def _with_extension(pattern: str) -> list[str]:
    if pattern.rpartition(".")[2].lower() in EXTENSIONS:
        return [pattern]
    return [f"{pattern}.{extension}" for extension in EXTENSIONS]


def _nothing_found(folder: Path, candidates: Sequence[str], frame_id: str) -> DataError:
    stems = dict.fromkeys(file_name(one, frame_id) for one in candidates)
    looked = ", ".join(name for name in stems if name.endswith(".png")) or ", ".join(stems)
    with os.scandir(folder) as entries:
        there = ", ".join(sorted(entry.name for entry in islice(entries, 5))) or "nothing"
    return DataError(
        f"{folder} has no file of these frames: looked for {looked} (and the like: {', '.join(EXTENSIONS)}); it holds"
        f" {there}. Say how the files are named with --pattern '{{drive}}_{{camera}}_{{index}}.png', or use --split for"
        " the frames that they belong to."
    )
