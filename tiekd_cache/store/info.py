"""What `tiekd-cache info` says of a store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiekd_cache.store.catalogue import Catalogue
from tiekd_cache.store.object_path import sizes_of
from tiekd_cache.store.schema import FORMAT, StoreSchema


@dataclass(frozen=True)
class StoreInfo:
    """A store in numbers, when it was opened.

    Attributes:
        path: its folder; what `store_path` gives where it is none.
        schema: its attributes.
        num_frames: frames of the finished store.
        num_done: frames of finished shards.
        num_shards, num_shards_done, shard_frames: the same in shards; frames in a full shard.
        num_bytes: size of the finished shards' files.
    """

    path: Path
    schema: StoreSchema
    num_frames: int
    num_done: int
    num_shards: int
    num_shards_done: int
    shard_frames: int
    num_bytes: int

    @classmethod
    def of(cls, catalogue: Catalogue) -> StoreInfo:
        """The numbers of an opened store; looks at the size of each finished shard's file."""
        layout = catalogue.layout
        files = [layout.shard_file(shard) for shard in catalogue.done]
        return cls(
            path=layout.path,
            schema=catalogue.schema,
            num_frames=layout.num_frames,
            num_done=catalogue.num_done(),
            num_shards=layout.num_shards,
            num_shards_done=len(files),
            shard_frames=layout.shard_frames,
            num_bytes=sum(sizes_of(files)),
        )

    @property
    def finished(self) -> bool:
        """Whether every frame has its response."""
        return self.num_done == self.num_frames

    @property
    def bytes_per_frame(self) -> float:
        """Bytes of shard files for each finished frame; 0 where there is none."""
        return self.num_bytes / self.num_done if self.num_done else 0.0

    @property
    def warning(self) -> str | None:
        """What a user must not overlook: a teacher that has learned nothing, frames that are not there yet."""
        warnings = []
        if not self.schema.teacher["trained"]:
            warnings.append(f"MADE BY AN UNTRAINED TEACHER ({self.schema.teacher['weights']}): no use but for tests")
        if not self.finished:
            missing = self.num_frames - self.num_done
            warnings.append(
                f"NOT FINISHED: {missing} of {self.num_frames} frames are missing; precompute again resumes"
            )
        return "; ".join(warnings) or None

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values; `depth` in metres, sizes in pixels."""
        schema = self.schema
        return {
            "path": str(self.path),
            "format": FORMAT,
            "fingerprint": schema.fingerprint,
            "finished": self.finished,
            "warning": self.warning,
            "frames": self.num_frames,
            "frames_done": self.num_done,
            "shards": self.num_shards,
            "shards_done": self.num_shards_done,
            "shard_frames": self.shard_frames,
            "bytes": self.num_bytes,
            "bytes_per_frame": round(self.bytes_per_frame, 1),
            "teacher": schema.teacher,
            "input": schema.input,
            "depth": schema.depth,
            "dataset": {name: value for name, value in schema.dataset.items() if name != "skipped"},
            "skipped": schema.dataset["skipped"],
            "created_by": schema.created_by,
        }
