"""NYU Depth v2: opened in whichever of its two forms is there."""

from __future__ import annotations

from pathlib import Path

from tiekd_cache.data.nyu_folder import NyuFolderFrames
from tiekd_cache.data.nyu_mat import NyuMatFrames
from tiekd_cache.errors import DataError

LABELLED = "nyu_depth_v2_labeled.mat"


def open_nyu(
    path: Path, split: str | None = None, *, purpose: str = "train", skip_missing: bool = False
) -> NyuMatFrames | NyuFolderFrames:
    """The frames of NYU Depth v2 in a file or folder.

    Args:
        path: the labelled `.mat` file, a folder that holds it, or a folder of pictures (`NyuFolderFrames`).
        split: for the `.mat` file a text file of frame numbers, counted from 1; for folders a split file with lines
            `rgb depth focal`; `all`, or None for the usual split file of the purpose, else every frame.
        purpose: `train` or `test`.
        skip_missing: leave frames out whose files are missing.
    Raises:
        DataError: nothing of NYU is there; a file is missing, damaged or malformed.
    """
    if path.is_file():
        return NyuMatFrames.open(path, split)
    if not path.is_dir():
        raise DataError(
            f"No NYU Depth v2 at {path}. Pass --nyu {LABELLED}, or the folder of its pictures; both are linked at "
            "cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html."
        )
    if (path / LABELLED).is_file():
        return NyuMatFrames.open(path / LABELLED, split)
    return NyuFolderFrames.open(path, split, purpose=purpose, skip_missing=skip_missing)
