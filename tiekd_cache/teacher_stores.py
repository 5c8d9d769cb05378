"""The stores that a student learns from: opened, checked against the data and each other, named in a run's record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tiekd_cache.data.frame import FrameSource
from tiekd_cache.errors import ConfigError, StoreError
from tiekd_cache.openssh import Signers
from tiekd_cache.store import ResponseStore, open_store
from tiekd_cache.store.object_path import StorePlace
from tiekd_cache.store.objects import store_place


def open_stores(
    paths: Sequence[StorePlace], source: FrameSource, *, allow_partial: bool = False, trust: Signers | None = None
) -> list[ResponseStore]:
    """The stores at these paths, in this order; all answer images like those of `source`.

    Args:
        trust: who must have signed each of them.
    Raises:
        ConfigError: a store was made from another data set or from images of another size, or two hold the same.
        StoreError: as `open_store`.
    """
    stores = [open_store(path, allow_partial=allow_partial, trust=trust) for path in paths]
    for store in stores:
        made_from, size = store.schema.dataset["name"], store.schema.image_size
        if made_from != source.name:
            raise ConfigError(
                f"Store {store.info.path} was made from {made_from}, the frames to train on are {source.name}: both "
                "must be of one data set. Name another --store, or the store's data (--kitti, --nyu or --images)."
            )
        if size != source.image_size:
            raise ConfigError(
                f"Store {store.info.path} answers images of {size[0]}x{size[1]} px, the frames to train on have "
                f"{source.image_size[0]}x{source.image_size[1]} px: make the store again from these images."
            )
    fingerprint, count = Counter(store.schema.fingerprint for store in stores).most_common(1)[0]
    if count > 1:
        same = ", ".join(str(store.info.path) for store in stores if store.schema.fingerprint == fingerprint)
        raise ConfigError(
            f"The stores {same} hold the same answers: name each teacher once, or give it a --store-weight."
        )
    return stores


def choose_frames(source_ids: Iterable[str], stores: Sequence[ResponseStore], limit: int | None) -> list[str]:
    """The frames to train on: those of the split that every store answers, in the split's order.

    Raises:
        ConfigError: a store answers none of them, or no frame is answered by all.
        StoreError: frames of the split are missing from the only store, and it does not say why.
    """
    wanted = list(source_ids)
    answered = [set(_answered(wanted, store, alone=len(stores) == 1)) for store in stores]
    frames = [frame_id for frame_id in wanted if all(frame_id in one for one in answered)]
    if not frames:
        names = ", ".join(str(store.info.path) for store in stores)
        raise ConfigError(
            f"No frame of the split is answered by all of {names}. Precompute one split with each teacher."
        )
    return frames[:limit]


def _answered(source_ids: Sequence[str], store: ResponseStore, *, alone: bool) -> list[str]:
    """Those of the split's frames that one store answers."""
    skipped = {str(frame["frame_id"]) for frame in store.schema.dataset["skipped"]}
    wanted = [frame_id for frame_id in source_ids if frame_id not in skipped]
    missing = [frame_id for frame_id in wanted if frame_id not in store]
    if missing and len(missing) == len(wanted):
        raise ConfigError(
            f"The store {store.info.path} answers none of the split's {len(wanted)} frames (the first: {wanted[0]}). "
            "Precompute this split, or name the store's own with --split."
        )
    if missing and alone and store.info.num_done == store.info.num_frames:
        raise StoreError(
            f"The store {store.info.path} lacks {len(missing)} of the split's {len(wanted)} frames (the first: "
            f"{missing[0]}). Precompute this split into a store of its own, or name the store's split with --split."
        )
    return [frame_id for frame_id in wanted if frame_id in store]


def stores_record(stores: Sequence[ResponseStore]) -> dict[str, Any]:
    """What `run.json` says of the stores: the first as `store`, `fingerprint`, `teacher`, all of them in `stores`.

    Where a signature was asked for, `signed` says whose it is.
    """
    entries = [
        {
            "store": str(store.info.path),
            "fingerprint": store.schema.fingerprint,
            "teacher": dict(store.schema.teacher),
            **({} if store.signed is None else {"signed": store.signed.to_json()}),
        }
        for store in stores
    ]
    return {**entries[0], "stores": entries}


def recorded_stores(run: Mapping[str, Any]) -> list[str | Path]:
    """The paths and URLs of the stores that a run was trained from, as its `run.json` has them.

    Raises:
        ConfigError: it does not say where they are.
    """
    places = [entry.get("store") for entry in run.get("stores", [run])]
    if not places or not all(places):
        raise ConfigError("The run's record run.json does not say where its store is: name it with --store.")
    return [store_place(place) for place in places]


def fingerprints(run: Mapping[str, Any]) -> list[str]:
    """The fingerprints of those stores, in their order."""
    return [str(entry["fingerprint"]) for entry in run.get("stores", [run])]
