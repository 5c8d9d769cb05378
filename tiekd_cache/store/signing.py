"""Signing a store, and whether a signature still holds for what a store has become."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tiekd_cache.errors import StoreError, TrustError
from tiekd_cache.foreign import SMALL_BYTES
from tiekd_cache.openssh import PublicKey, SigningKey
from tiekd_cache.store.catalogue import Catalogue, local_path, open_catalogue
from tiekd_cache.store.chunks import Damage
from tiekd_cache.store.durable import write_file
from tiekd_cache.store.images import open_images
from tiekd_cache.store.layout import Layout
from tiekd_cache.store.object_path import StorePlace, name_in, objects_of, side_by_side, store_path
from tiekd_cache.store.signature import FILE, Manifest, Signed, StoreSignature, read_signature
from tiekd_cache.store.verify import Progress, verify_store
from tiekd_cache.store.whole import read_whole


@dataclass(frozen=True)
class SignReport:
    """What was signed.

    Attributes:
        store: the store's folder.
        key: that others check with.
        frames: responses that are signed.
        store_frames: responses of the finished store.
        images: of its images, how many are signed; 0 where it has none.
    """

    store: Path
    key: PublicKey
    frames: int
    store_frames: int
    images: int


def sign_store(store: str | Path, key: SigningKey, progress: Progress | None = None) -> SignReport:
    """Look at every byte of a store, as `verify` does, and sign what is there; an earlier signature is replaced.

    Args:
        store: its folder.
        key: of whoever answers for it.
        progress: makes a progress bar.
    Raises:
        StoreError: there is no store, it has too many shards to be signed, something of it is damaged, it grows
            meanwhile, or it cannot be written.
    """
    path = local_path(store)
    catalogue = open_catalogue(path)
    images = open_images(catalogue)
    manifest = Manifest.now(file_digests(catalogue))
    made = StoreSignature.make(manifest, key).to_bytes()
    if len(made) > SMALL_BYTES:
        raise StoreError(
            f"Store {path} cannot be signed: its signature would have {len(made)} bytes, more than the {SMALL_BYTES}"
            " that are read of one. It names each shard's files: make the store with more frames a shard."
        )
    # what is verified is what was read for the manifest: a file that changes in between is a problem
    ours = Signed("this signature", key.public.fingerprint, manifest)
    try:
        problems = verify_store(path, progress, trust=ours).problems
    except TrustError as error:
        problems = (str(error),)
    if problems and (added := _added(path, manifest)) is not None:
        raise StoreError(
            f"Store {path} was not signed: it grew while it was signed ({added}). Give the same command again when"
            " nobody writes to it."
        )
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise StoreError(
            f"Store {path} is not whole and was not signed: {problems[0]}{more}. Run `tiekd-cache verify {path}"
            " --repair`, then the same `precompute` again, then sign."
        )
    write_file(path / FILE, made)
    return SignReport(
        store=path,
        key=key.public,
        frames=catalogue.num_done(),
        store_frames=catalogue.layout.num_frames,
        images=0 if images is None else images.num_done(),
    )


def file_digests(catalogue: Catalogue) -> dict[str, str]:
    """sha256 (hex) of every file of a store but its shards, by name: what a signature names.

    Raises:
        StoreError: one cannot be had, or the images do not belong to the responses.
    """

    def digest(file: Path) -> str | None:
        try:
            return hashlib.sha256(read_whole(file, catalogue.path)).hexdigest()
        except Damage:
            return None  # statistics need not be there; what must be, `verify` misses

    files = list(_files(catalogue))
    found = zip(files, side_by_side(digest, files), strict=True)
    return {name_in(catalogue.path, file): one for file, one in found if one is not None}


def stale_note(store: StorePlace) -> str | None:
    """A sentence where a store has a signature that does not hold for all of it any more.

    Raises:
        StoreError: there is no store, its metadata are damaged, or it cannot be had.
    """
    path = store_path(store)
    again = f"tiekd-cache sign {path}"
    if objects_of(path) is not None:
        again = "pull it to a folder, sign it there and push it"
    try:
        signature = read_signature(path)
    except Damage as damage:
        return f"The signature of {path} cannot be read: {damage}. Sign the store again: {again}"
    name = None if signature is None else signature.manifest.lacks(file_digests(open_catalogue(path)))
    if signature is None or name is None:
        return None
    return (
        f"{path} was signed with {signature.key.fingerprint} and has changed since ({name}): whoever asks for its"
        f" signature is refused until it is signed again: {again}"
    )


def _files(catalogue: Catalogue) -> Iterator[Path]:
    layout, images = catalogue.layout, open_images(catalogue)
    yield from _metadata(layout)
    for chunk in range(-(-layout.num_frames // layout.frame_id_chunk)):
        yield layout.frame_id_file(chunk)
    for shard in sorted(catalogue.done):
        yield from (layout.record_file(shard), layout.digest_file(shard), layout.statistics_file(shard))
    if images is not None:
        yield from _metadata(images.layout)
        for shard in sorted(images.done):
            yield from (images.layout.record_file(shard), images.layout.intrinsics_file(shard))


def _added(store: Path, manifest: Manifest) -> str | None:
    """The first file of a store that was not there when the manifest was made."""
    files = ((name_in(store, file), file) for file in _files(open_catalogue(store)))
    return next((name for name, file in files if name not in manifest.files and file.is_file()), None)


def _metadata(layout: Layout) -> Iterator[Path]:
    yield layout.path / "zarr.json"
    for name in layout.array_metadata():
        yield layout.path / name / "zarr.json"
