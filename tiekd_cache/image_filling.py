"""Images into a store, beside the responses: decoded and encoded by threads, written by whole shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from tiekd_cache.data.frame import FrameSource
from tiekd_cache.store import ImageWriter
from tiekd_cache.store.image_writer import EncodedImage


def fill_images(
    writer: ImageWriter,
    source: FrameSource,
    shards: Sequence[int],
    *,
    workers: int = 4,
    note: Callable[[str], None] = lambda text: None,
) -> int:
    """Stores the images of the shards that nobody has made or is making; returns how many images this call stored.

    Args:
        source: has every frame of the store.
        shards: their numbers, in the order in which they are tried.
        workers: threads.
        note: takes a sentence for the user, where there is something to do.
    Raises:
        DataError: an image cannot be read.
        ShapeError: it is not of the size that the store's responses have.
        StoreError: the store cannot be written; finished shards stay.
    """

    def encode(frame_id: str) -> EncodedImage:
        frame = source.load(frame_id)
        return writer.encode(frame_id, frame.image, frame.intrinsics)

    made = 0
    missing = set(writer.todo())
    todo = [shard for shard in shards if shard in missing]
    if todo:
        note(f"Storing {sum(len(writer.frames_of(shard)) for shard in todo)} images first")
    with ThreadPoolExecutor(workers, thread_name_prefix="encode image") as pool:
        for shard in todo:
            with writer.claim(shard) as mine:
                if mine:
                    images = list(pool.map(encode, writer.frames_of(shard)))
                    writer.write_shard(shard, images)
                    made += len(images)
    left = set(todo) & set(writer.todo())
    if left:
        note(f"Images of {len(left)} shards are left to other processes; the same command makes what they do not")
    return made
