"""Finding the store that is meant in a catalogue: by its teacher and data set, or by its fingerprint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tiekd_cache.errors import ConfigError, StoreError
from tiekd_cache.foreign import shown
from tiekd_cache.openssh import Signers
from tiekd_cache.store_list import UNREADABLE, ListedStore, is_server_failing, list_stores, signer_of

_MOST_NAMED = 8


def choose_store(
    place: str | Path,
    *,
    teacher: str | None,
    dataset: str | None = None,
    allow_partial: bool = False,
    images: bool = False,
    trust: Signers | None = None,
) -> str:
    """The place of the only store in a catalogue that fits; of copies with one fingerprint, the best one.

    That is one signed by whom is trusted, then one with more images, then one with more frames, then the first.

    Args:
        place: of the catalogue, see `list_stores`.
        teacher: its teacher's name; None = any.
        dataset: name of the data set it was made from (`kitti`, `nyu`, `pictures`); None = any.
        allow_partial: where no finished store fits, one that is not finished will do.
        images: of copies, one that holds images is better.
        trust: of copies, one that was signed by any of these is better.
    Raises:
        ConfigError: none fits, or several with different answers do: the line names them.
        StoreError: as `list_stores`.
    """
    there = list_stores(place)
    fitting = [store for store in there if _fits(store, teacher, dataset)]
    usable = [store for store in fitting if store.finished] or [store for store in fitting if allow_partial]
    if len({store.schema.fingerprint for store in usable if store.schema is not None}) == 1:
        return _best(usable, images, trust).place
    wanted = " ".join([*([f"of teacher {teacher!r}"] if teacher else []), *([f"for {dataset}"] if dataset else [])])
    if usable:
        raise ConfigError(
            f"{len(usable)} stores {wanted} in {place}: {_named(usable)}. Name one of them with --store"
            f"{'' if teacher else ', or its teacher with --teacher'}."
        )
    if fitting:
        raise ConfigError(
            f"No finished store {wanted} in {place}; there are {_named(fitting)}. Finish one with `tiekd-cache"
            " precompute`, or train on the frames it has with --allow-partial."
        )
    have = f"it has {_named(there)}" if there else "it has no store at all"
    raise ConfigError(f"No store {wanted} in {place}: {have}. See `tiekd-cache list {place}`.")


def find_same(place: str | Path, fingerprint: str, own: str | Path) -> ListedStore | None:
    """A finished store with this fingerprint in a catalogue, other than one's own; None where it has none.

    Raises:
        StoreError: as `list_stores`; or none is found, and stores of it cannot be read, which might be the one.
        ConfigError: as `list_stores`.
    """
    mine = os.path.realpath(own)
    there = list_stores(place)
    for store in there:
        same = store.schema is not None and store.schema.fingerprint == fingerprint
        if same and store.finished and os.path.realpath(store.place) != mine:
            return store
    unknown = [store for store in there if store.schema is None]
    if unknown:
        more = f", and {len(unknown) - 1} other stores" if len(unknown) > 1 else ""
        raise StoreError(f"{shown(unknown[0].place, 300)}: {unknown[0].problem}{more}")
    return None


def _best(copies: Sequence[ListedStore], images: bool, trust: Signers | None) -> ListedStore:
    def held(store: ListedStore) -> tuple[int, int]:
        return store.images_done if images else 0, store.frames_done

    ordered = sorted(copies, key=held, reverse=True)  # those that hold as much stay in the order of their names
    if trust is None or len(ordered) == 1:
        return ordered[0]
    return next((store for store in ordered if _is_signed(store, trust)), ordered[0])


def _is_signed(store: ListedStore, trust: Signers) -> bool:
    try:
        signer_of(store.place, trust)
    except (StoreError, *UNREADABLE) as error:
        if is_server_failing(store.place, error):
            raise
        return False
    return True


def _fits(store: ListedStore, teacher: str | None, dataset: str | None) -> bool:
    if store.schema is None or store.problem is not None:
        return False
    return teacher in (None, store.schema.teacher["name"]) and dataset in (None, store.schema.dataset["name"])


def _named(stores: Sequence[ListedStore]) -> str:
    more = f" and {len(stores) - _MOST_NAMED} more" if len(stores) > _MOST_NAMED else ""
    return ", ".join(store.describe() for store in stores[:_MOST_NAMED]) + more
