"""Run as a program, or in a child: every command that only reads a store, one after the other, on one that nobody may
write."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from tiekd_cache.cli import main

TRAIN = (
    *("--images-from-store", "--steps", "1", "--batch-size", "2", "--crop", "48x64", "--decoder-width", "0.0625"),
    *("--no-pretrained", "--workers", "0", "--device", "cpu", "--sigma", "2.5", "--set", "student.num_bins=33"),
    *("--set", "train.row_cut=16"),
)

_WRITING = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.utime"}
_WRITING |= {"os.truncate", "os.chown", "os.setxattr", "shutil.move", "shutil.rmtree"}


def read_everything(folder: Path, elsewhere: Path) -> None:
    """Look at, check, list, fetch, export and train from `a.zarr` and `a.zip` in a folder, and write elsewhere."""
    store, archive = folder / "a.zarr", folder / "a.zip"
    for command in (
        ["info", store],
        ["info", archive],
        ["verify", store],
        ["verify", archive],
        ["list", folder, "--html", "page.html"],
        ["pull", store, "pulled.zarr"],
        ["merge", store, archive, "--into", "merged.zarr"],
        ["export-store", store, "--to", "npz", "--out", "npz"],
        ["export-store", store, "--to", "hdf5", "--out", "a.h5"],
        ["distill", "--store", store, *TRAIN, "--run", "run"],
    ):
        with contextlib.chdir(elsewhere):
            result = CliRunner().invoke(main, [str(word) for word in command])
        assert result.exit_code == 0, (command, result.output, result.exception)


def forbid_writing(folder: Path) -> None:
    """From now on whatever this process would change in a folder fails as on a read-only file system; for good."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            flags = arguments[2] or 0
            paths = [arguments[0]] if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND) else []
        else:
            paths = list(arguments[:2]) if event in _WRITING else []
        for path in paths:
            if isinstance(path, str | bytes | os.PathLike) and Path(os.fsdecode(path)).is_relative_to(folder):
                raise OSError(errno.EROFS, f"{event} {os.fsdecode(path)} on a read-only file system")

    sys.addaudithook(hook)


if __name__ == "__main__":
    read_everything(Path(sys.argv[1]), Path(sys.argv[2]))
