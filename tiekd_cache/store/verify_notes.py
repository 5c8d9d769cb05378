"""What `verify` says of a store that is no damage: what is not there yet, what does not belong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tiekd_cache.errors import ConfigError
from tiekd_cache.store.catalogue import Catalogue
from tiekd_cache.store.images import FOLDER
from tiekd_cache.store.object_path import files_below, name_in
from tiekd_cache.store.objects import RefusedError
from tiekd_cache.store.signature import FILE
from tiekd_cache.store.verify_images import images_of, is_image_file, number_in
from tiekd_cache.whole_file import is_partial


def unfinished(catalogue: Catalogue) -> Iterator[str]:
    """That frames are not there yet, or shards no more that were signed."""
    layout, done = catalogue.layout, catalogue.num_done()
    if catalogue.signed is not None:
        absent = (shard for shard in range(layout.num_shards) if shard not in catalogue.done)
        records = (name_in(layout.path, layout.record_file(shard)) for shard in absent)
        if lost := sum(name in catalogue.signed.manifest.files for name in records):
            yield f"{lost} of the shards that were signed are not here: they were left out or removed"
    if done < layout.num_frames:
        yield (
            f"not finished: {layout.num_frames - done} of {layout.num_frames} frames are not there yet; the same"
            " `tiekd-cache precompute` makes them"
        )


def stray_files(catalogue: Catalogue) -> Iterator[str]:
    """The files that belong to no part of the store."""
    layout = catalogue.layout
    names = ("zarr.json", FILE, *(f"{name}/zarr.json" for name in layout.array_metadata()))
    metadata = {layout.path / name for name in names}
    chunks = -(-layout.num_frames // layout.frame_id_chunk)
    places = (layout.shard_file, layout.digest_file, layout.record_file, layout.statistics_file)
    images = images_of(catalogue)
    claims = (layout.path / "claims", layout.path / FOLDER / "claims")  # what they hold says nothing of the answers

    def belongs(file: Path) -> bool:
        number = number_in(file, layout.path)
        return (
            file in metadata
            or file.parent in claims
            or (number < layout.num_shards and any(file == place(number) for place in places))
            or (number < chunks and file == layout.frame_id_file(number))
            or (images is not None and is_image_file(images, file))
        )

    try:
        files = files_below(layout.path)
    except (ConfigError, RefusedError):
        yield "no list of what is there is to be had: files that do not belong were not looked for"
        return
    for file in files:
        if is_partial(file.name):
            yield f"{file}: an interrupted write left it; harmless, it goes when that shard is written"
        elif not belongs(file):
            yield f"{file}: belongs to no part of the store"
