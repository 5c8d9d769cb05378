"""What a store refuses: to be used unfinished or not as signed, and to answer for frames that it does not have."""

from __future__ import annotations

from tiekd_cache.errors import FrameNotFoundError, StoreError
from tiekd_cache.store.catalogue import Catalogue, damaged
from tiekd_cache.store.chunks import Damage
from tiekd_cache.store.object_path import side_by_side


def refuse_unfinished(catalogue: Catalogue) -> None:
    """Raise StoreError unless every frame of the store has its response."""
    layout, done = catalogue.layout, catalogue.num_done()
    if done < layout.num_frames:
        raise StoreError(
            f"Store {catalogue.path} is not finished: it holds {done} of {layout.num_frames} frames,"
            f" {layout.num_frames - done} are missing ({layout.num_shards - len(catalogue.done)} of"
            f" {layout.num_shards} shards have no record in {catalogue.path / 'done'}). Run the same `tiekd-cache"
            " precompute` again, it resumes; or use what there is with --allow-partial (allow_partial=True)."
        )


def refuse_other_records(catalogue: Catalogue) -> None:
    """Raise DamagedStoreError unless every done-record, and with it each shard's sha256, is as signed."""

    def check(shard: int) -> None:
        try:
            catalogue.record(shard)
        except Damage as damage:
            raise damaged(catalogue.path, catalogue.layout.record_file(shard), damage) from damage

    side_by_side(check, sorted(catalogue.done))


def not_found(catalogue: Catalogue, frame_id: str, position: int | None) -> FrameNotFoundError:
    """The error for a frame without a response: it is not made yet, was skipped, or is unknown (`position` None)."""
    if position is not None:
        shard = catalogue.shard_of(position)[0]
        return FrameNotFoundError(
            f"Store {catalogue.path} has no response to frame {frame_id} yet: its shard {shard} was not finished when"
            " the store was opened. Run the same `tiekd-cache precompute` again, it resumes."
        )
    skipped = {item["frame_id"]: item["reason"] for item in catalogue.schema.dataset["skipped"]}
    why = f": {skipped[frame_id]}" if frame_id in skipped else ", nor is it in its frame list"
    return FrameNotFoundError(
        f"Store {catalogue.path} has no response to frame {frame_id!r}{why}. It holds {catalogue.num_done()} frames of"
        f" {catalogue.schema.dataset['name']} ({catalogue.schema.dataset['split']}), like {catalogue.frame_ids[0]};"
        " precompute with a split that has the frame, or use a split that does not."
    )
