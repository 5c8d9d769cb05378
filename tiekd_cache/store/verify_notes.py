"""What `verify` says of a store that is no damage: what is not there yet, what does not belong."""

from __future__ import annotations

from collections.abc import Iterator

from tiekd_cache.errors import ConfigError
from tiekd_cache.store.catalogue import Catalogue, name_in
from tiekd_cache.store.durable import is_partial
from tiekd_cache.store.object_path import files_below
from tiekd_cache.store.signature import FILE
from tiekd_cache.store.verify_images import image_files


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
    arrays = layout.array_metadata()
    shards = range(layout.num_shards)
    chunks = range(-(-layout.num_frames // layout.frame_id_chunk))
    known = {layout.path / "zarr.json", layout.path / FILE, *(layout.path / name / "zarr.json" for name in arrays)}
    known |= {layout.frame_id_file(chunk) for chunk in chunks}
    for place in (
        layout.shard_file,
        layout.digest_file,
        layout.record_file,
        layout.claim_file,
        layout.statistics_file,
    ):
        known |= {place(shard) for shard in shards}
    known |= image_files(catalogue)
    try:
        files = files_below(layout.path)
    except ConfigError:
        yield "a plain web server does not say what it has: files that do not belong were not looked for"
        return
    for file in files:
        if is_partial(file.name):
            yield f"{file}: an interrupted write left it; harmless, it goes when that shard is written"
        elif file not in known:
            yield f"{file}: belongs to no part of the store"
