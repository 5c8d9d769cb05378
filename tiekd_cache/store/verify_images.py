"""Looking at every byte of the images of a store, as `verify.py` does at the responses."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from tiekd_cache.errors import TrustError
from tiekd_cache.foreign import parse_json
from tiekd_cache.store.catalogue import Catalogue, DamagedStoreError
from tiekd_cache.store.chunks import Damage
from tiekd_cache.store.images import ImageCatalogue, decode_image, image_digest, open_images
from tiekd_cache.store.layout import same_format
from tiekd_cache.store.repair import remove
from tiekd_cache.store.shard_file import ShardBytes
from tiekd_cache.store.whole import read_whole


def check_images(store: Catalogue, repair: bool) -> tuple[list[str], list[str], list[str]]:
    """(problems, those repaired, notes) of the images of a store; nothing where it has none.

    Args:
        store: its responses, opened.
        repair: drop the shards that are wrong, done-record first; the next `precompute --with-images` makes them.
    """
    problems: list[str] = []
    repaired: list[str] = []
    try:
        images = open_images(store)
    except (DamagedStoreError, TrustError) as error:
        return [str(error)], [], []
    if images is None:
        return [], [], []
    problems += _check_metadata(images)
    for shard in sorted(images.done):
        found = list(_check_shard(images, shard))
        problems += found
        if found and repair:
            remove(_files_of(images, shard), store.path)
            repaired += found
    missing = images.layout.num_shards - len(images.done)
    notes = [f"images of {missing} of {images.layout.num_shards} shards are not there yet"] if missing else []
    return problems, repaired, notes


def images_of(store: Catalogue) -> ImageCatalogue | None:
    """The images of a store; None where it has none that can be read."""
    try:
        return open_images(store)
    except (DamagedStoreError, TrustError):
        return None


def is_image_file(images: ImageCatalogue, file: Path) -> bool:
    """Whether a file belongs to the images of a store."""
    layout, number = images.layout, number_in(file, images.layout.path)
    if file in {layout.path / "zarr.json", *(layout.path / name / "zarr.json" for name in layout.array_metadata())}:
        return True
    return number < layout.num_shards and file in _files_of(images, number)


def number_in(file: Path, folder: Path) -> int:
    """The first number in a file's name below a folder, which is the shard's in the name of every part of one."""
    found = re.compile("[0-9]{1,10}").search(str(file), len(str(folder)))
    return int(found[0]) if found else 0


def _files_of(images: ImageCatalogue, shard: int) -> tuple[Path, ...]:
    """The files of a shard, done-record first: dropped in this order, no moment leaves a record without its shard."""
    layout = images.layout
    return layout.record_file(shard), layout.shard_file(shard), layout.intrinsics_file(shard)


def _check_metadata(images: ImageCatalogue) -> Iterator[str]:
    for name, expected in images.layout.array_metadata().items():
        file = images.layout.path / name / "zarr.json"
        try:
            if not same_format(parse_json(images.store.read(file)), expected):
                raise Damage("metadata are not those of format 1")
        except (Damage, ValueError) as error:
            yield f"{file}: {error}"


def _check_shard(images: ImageCatalogue, shard: int) -> Iterator[str]:
    layout, store = images.layout, images.store
    file = layout.record_file(shard)
    try:
        record = images.record(shard)
        file = layout.intrinsics_file(shard)
        images.read_intrinsics(shard)
        file = layout.shard_file(shard)
        data = read_whole(file, store.path, layout.largest_shard)
        if len(data) != record.file_bytes:
            raise Damage(f"{len(data)} bytes, the done-record says {record.file_bytes}")
        if hashlib.sha256(data).hexdigest() != record.file_sha256:
            yield f"{file}: sha256 differs from that in the done-record"
        opened = ShardBytes(data, layout, shard)
    except Damage as damage:
        yield f"{file}: {damage}"
        return
    for place, position in enumerate(layout.positions(shard)):
        try:
            if image_digest(decode_image(opened.chunk(place), layout.native_size)) != record.digests[place]:
                raise Damage("the image does not have the digest in the done-record")
        except Damage as damage:
            yield f"{file}: frame {store.frame_ids[position]}: {damage}"
