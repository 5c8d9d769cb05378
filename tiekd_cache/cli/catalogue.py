"""What `distill` and `precompute` do with a catalogue: the store that is meant, the one that a colleague has made."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tiekd_cache.cli.common import named_store, note, only_store
from tiekd_cache.errors import ConfigError, SharedError, StoreError
from tiekd_cache.foreign import shown

if TYPE_CHECKING:
    from tiekd_cache.openssh import Signers
    from tiekd_cache.store import StoreSchema


def choose_stores(
    places: Sequence[str | Path],
    teachers: Sequence[str],
    given: Mapping[str, Any],
    *,
    any_data: bool,
    partial: bool,
    trust: Signers | None = None,
) -> tuple[str | Path, ...]:
    """The stores to learn from: those named; where a catalogue is named instead, the one in it that fits.

    Args:
        places: values of --store; none = the folder stores/.
        teachers: values of --teacher: one store for each.
        given: values of `source_options`, which name the data set, and of `cache_options`.
        any_data: the images come out of the store, whatever data set they are of.
        partial: a store that is not finished will do.
        trust: who must have signed the store: of several copies one that they signed is taken.
    Raises:
        click.UsageError: teachers, and more than one place.
        TiekdError: as `choose_store` and `only_store`.
    """
    from tiekd_cache.store_choice import choose_store
    from tiekd_cache.store_list import is_catalogue

    if teachers and len(places) > 1:
        raise click.UsageError("--teacher looks in one catalogue: name one --store, or the stores without --teacher.")
    if not places and not teachers:
        return (only_store(),)
    dataset = None if any_data else _data_set(given)

    def choose(place: str | Path, teacher: str | None) -> str | Path:
        found = choose_store(
            place, teacher=teacher, dataset=dataset, allow_partial=partial, images=dataset is None, trust=trust
        )
        note(f"Store: {shown(found, 300)}")
        return named_store(found)

    if teachers:
        return tuple(choose(places[0] if places else Path("stores"), teacher) for teacher in teachers)
    cache = given.get("cache_dir")
    return tuple(choose(place, None) if is_catalogue(place, cache) else place for place in places)


def refuse_made_already(catalogue: str | Path | None, own: str | Path) -> Callable[[StoreSchema], None]:
    """What `precompute` asks before it begins a store: raises SharedError where the catalogue has a finished one.

    A store that is begun already goes on; a catalogue that cannot be read is a warning.

    Args:
        catalogue: its place; None = $TIEKD_CATALOGUE, or none.
        own: where the responses will be.
    """
    from tiekd_cache.data.places import default_catalogue

    place = catalogue if catalogue is not None else default_catalogue()

    def check(schema: StoreSchema) -> None:
        from tiekd_cache.store_choice import find_same

        if place is None or _is_begun(own):
            return
        try:
            found = find_same(place, schema.fingerprint, own)
        except (StoreError, ConfigError) as error:
            note(f"Warning: the catalogue cannot be read, so it is not known whether a colleague has this: {error}")
            return
        if found is not None:
            words = shlex.join(["tiekd-cache", "pull", found.place, str(own)])
            raise SharedError(
                f"A colleague's store with this fingerprint exists: {found.describe()}, made by {shown(found.maker)}"
                f" on {found.date}. Take it with `{words}`, or give --anyway to compute the same answers again."
            )

    return check


def _is_begun(store: str | Path) -> bool:
    from tiekd_cache.store.objects import open_objects

    try:
        return open_objects(store).size("zarr.json") > 0
    except (StoreError, ConfigError):
        return False


def _data_set(given: Mapping[str, Any]) -> str | None:
    """Name of the data set that the options name, or that lies in its usual place."""
    from tiekd_cache.data.places import default_kitti_root

    for option, name in (("nyu", "nyu"), ("images", "pictures"), ("kitti", "kitti")):
        if given[option] is not None:
            return name
    return "kitti" if default_kitti_root().exists() else None
