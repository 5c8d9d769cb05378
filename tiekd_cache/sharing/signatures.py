"""A signature goes along with a store's shards where it holds for all that is at the target afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from tiekd_cache.sharing.shared_store import SharedStore, read_back
from tiekd_cache.store.chunks import Damage
from tiekd_cache.store.signature import FILE, StoreSignature, read_signature
from tiekd_cache.store.signing import file_digests

_AGAIN = "sign the store again where it is whole, then push it"


def carry_signature(sources: Sequence[SharedStore], target: SharedStore) -> list[str]:
    """Put the first of the sources' signatures at the target that holds for everything there; notes where none does.

    No signature at the target that holds is replaced by one with another key.

    Args:
        target: as it is after the copy.
    Raises:
        StoreError: something cannot be read or written.
    """
    own, notes = _read(target)
    theirs = []
    for store in sources:
        found, unreadable = _read(store)
        notes += unreadable
        theirs += [found] if found is not None and (own is None or found.to_bytes() != own.to_bytes()) else []
    if own is None and not theirs:
        return notes
    there = file_digests(target.catalogue)
    holding = [signature for signature in theirs if signature.manifest.lacks(there) is None]
    outdated = None if own is None else own.manifest.lacks(there)
    if holding and (own is None or outdated is not None or own.key == holding[0].key):
        _put(target, holding[0])
    elif own is not None and outdated is not None:
        notes.append(
            f"the signature of {target.url} ({own.key.fingerprint}) does not hold for all that is there now"
            f" ({outdated}): whoever asks for it is refused; {_AGAIN}"
        )
    elif own is not None and holding:
        notes.append(
            f"{target.url} keeps its signature by {own.key.fingerprint}, which holds; the one by"
            f" {holding[0].key.fingerprint} stayed behind. Remove {FILE} there first to replace it"
        )
    elif own is None:
        notes.append(
            f"the signature by {theirs[0].key.fingerprint} stayed behind: it does not hold for all that is at"
            f" {target.url} ({theirs[0].manifest.lacks(there)}); {_AGAIN}"
        )
    return notes


def _read(store: SharedStore) -> tuple[StoreSignature | None, list[str]]:
    """(signature of a store, notes where it cannot be read)."""
    try:
        return read_signature(store.catalogue.path), []
    except Damage as damage:
        return None, [f"the signature of {store.url} counts for nothing: {damage}"]


def _put(target: SharedStore, signature: StoreSignature) -> None:
    data = signature.to_bytes()
    target.objects.put(FILE, data)
    read_back(target.objects, FILE, data)
