"""The frames of a store made `--with-images`: stage two needs nothing else then."""

from __future__ import annotations

from collections.abc import Sequence

from tiekd_cache.data.frame import DepthMap, Frame
from tiekd_cache.errors import ConfigError
from tiekd_cache.openssh import Signers
from tiekd_cache.store import ResponseStore, open_store
from tiekd_cache.store.object_path import StorePlace

IMAGES_FROM_STORE = "images_from_store"
"""Key of run.json's `source` for images that came out of a store."""


class StoreFrames:
    """The images in a store as a `FrameSource`; there is no LiDAR and no ground truth among them.

    Attributes:
        root: the store's folder; what `store_path` gives where it is none.
        split_note: a sentence for the user.
        skipped: nothing; for the form's sake.
    """

    def __init__(self, store: ResponseStore, frame_ids: Sequence[str]) -> None:
        schema = store.schema
        self.root, self.frame_ids = store.info.path, tuple(frame_ids)
        self.name, self.split = str(schema.dataset["name"]), str(schema.dataset["split"])
        self.crop, self.image_size, self.max_depth = str(schema.input["crop"]), schema.image_size, schema.max_depth
        self.split_note = f"{len(self.frame_ids)} images of {self.split} in the store; no ground truth"
        self.skipped: list[str] = []
        self._store = store

    @classmethod
    def open(cls, path: StorePlace, *, allow_partial: bool = False, trust: Signers | None = None) -> StoreFrames:
        """The frames of the store at a path or URL; `trust`: who must have signed it.

        Raises:
            StoreError: as `open_store`.
            ConfigError: it has no images, or not all of them yet (nor is `allow_partial` given).
        """
        store = open_store(path, allow_partial=allow_partial, trust=trust)
        there = [frame_id for frame_id in store if store.has_image(frame_id)]
        missing = len(store) - len(there)
        if not there or (missing and not allow_partial):
            raise ConfigError(
                f"Store {store.info.path} has no image of {missing} of its {len(store)} frames. Run the same"
                " `tiekd-cache precompute` with --with-images, which adds them; or name the data set with --kitti."
            )
        return cls(store, there)

    @property
    def over_network(self) -> bool:
        """As of the store."""
        return self._store.over_network

    def subset(self, frame_ids: Sequence[str]) -> StoreFrames:
        """The same store with other frames, in the order given."""
        return StoreFrames(self._store, frame_ids)

    def load(self, frame_id: str, *, with_gt: bool = False) -> Frame:
        """See FrameSource; raises StoreError where the store does not have the image as it was written."""
        return Frame(frame_id, self._store.image(frame_id), self._store.intrinsics(frame_id))

    def lidar_depth(self, frame_id: str) -> DepthMap | None:
        """None."""
        return None

    def has_lidar(self, frame_id: str) -> bool:
        """False."""
        return False

    def has_gt(self, frame_id: str) -> bool:
        """False."""
        return False
