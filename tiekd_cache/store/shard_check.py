"""Whether the bytes of a shard, of responses or of images, are those of its done-record: what sharing and cache ask."""

from __future__ import annotations

import hashlib

import numpy as np

from tiekd_cache.store.chunks import Damage
from tiekd_cache.store.codec import frame_digest
from tiekd_cache.store.images import ImageLayout, decode_image, image_digest
from tiekd_cache.store.layout import Layout
from tiekd_cache.store.record import DoneRecord
from tiekd_cache.store.shard_file import ShardBytes


def check_shard(data: bytes, layout: Layout, record: DoneRecord) -> None:
    """Raise Damage unless the bytes of a shard are those in its done-record, and hold its frames.

    Args:
        data: all of them.
        layout: of the store; an ImageLayout where the shard holds images.
        record: its done-record, checked to be that of a shard of this store.
    """
    if hashlib.sha256(data).hexdigest() != record.file_sha256:
        raise Damage("sha256 differs from that in the done-record")
    check_frames(data, layout, record)


def check_frames(data: bytes, layout: Layout, record: DoneRecord) -> None:
    """Raise Damage unless the bytes of a shard hold exactly the frames of its record; arguments as `check_shard`."""
    shard = ShardBytes(data, layout, record.shard)
    codes = np.empty(layout.native_size, np.uint16)
    for place, digest in enumerate(record.digests):
        if isinstance(layout, ImageLayout):
            found = image_digest(decode_image(shard.chunk(place), layout.native_size))
        else:
            shard.codes(place, codes)
            found = frame_digest(codes)
        if found != digest:
            raise Damage(f"frame {place} of the shard does not have the digest in its done-record")
