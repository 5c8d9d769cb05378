"""Options of commands that may keep what they read over a network: --cache-dir and --cache-size."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tiekd_cache.cli.common import Command

if TYPE_CHECKING:
    from tiekd_cache.store.object_path import StorePlace

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """`50GB` -> 50000000000; raises click.BadParameter otherwise."""
    match = _SIZE.fullmatch(text.strip())
    size = 0 if match is None else int(float(match[1]) * _UNITS[match[2].upper()])
    if size < 1:
        raise click.BadParameter(f"'{text}' is no size like 50GB or 800MB")
    return size


def cache_options(command: Command) -> Command:
    """--cache-dir and --cache-size."""
    for option in (
        click.option(
            "--cache-size", type=parse_bytes, default="50GB", show_default=True, help="What the --cache-dir may hold."
        ),
        click.option(
            "--cache-dir",
            type=click.Path(path_type=Path),
            envvar="TIEKD_CACHE_DIR",
            help="Keep what is read of a store at a URL in this folder.  [default: $TIEKD_CACHE_DIR, else nowhere]",
        ),
    ):
        command = option(command)
    return command


def through_cache(given: dict[str, Any], places: Sequence[str | Path]) -> list[StorePlace]:
    """Where to read stores: through the cache that the values of `cache_options` name, which are taken out of `given`.

    Raises:
        ConfigError: the folder cannot be written.
    """
    from tiekd_cache.store import cache

    folder, size = given.pop("cache_dir"), given.pop("cache_size")
    return [place if folder is None else cache.through_cache(place, folder, size) for place in places]
