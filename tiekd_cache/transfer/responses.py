"""The depth files of a folder as responses: found, read, in metres, in the frame's crop, within the range."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiekd_cache.data.frame import DepthMap, FrameSource
from tiekd_cache.data.kitti import KittiFrames
from tiekd_cache.data.transforms import kb_crop
from tiekd_cache.errors import ConfigError, DataError, RangeError
from tiekd_cache.store.codec import find_invalid
from tiekd_cache.transfer.depth_files import read_counts
from tiekd_cache.transfer.file_digests import file_digest
from tiekd_cache.transfer.naming import file_name
from tiekd_cache.transfer.scale import Scale

MIN_DEPTH_M = 1e-3
"""Nearest depth of the KITTI and NYU protocols, metres."""


@dataclass(frozen=True)
class ResponseFiles:
    """A folder in which each frame of a source may have a depth file.

    Attributes:
        folder, pattern: where the files are.
        source: whose frames they answer.
        key: array in npz files, or None.
        scale: counts per metre; None while it is not known.
        max_depth: metres.
        clip: cut depths to the range instead of refusing them.
        nonfinite_is_missing: NaN and infinity mean "no depth".
    """

    folder: Path
    pattern: str
    source: FrameSource
    key: str | None
    scale: Scale | None
    max_depth: float
    clip: bool
    nonfinite_is_missing: bool = False

    @property
    def known_scale(self) -> Scale:
        """The scale; raises ConfigError while it is not known."""
        if self.scale is None:
            raise ConfigError("The scale of the depth files is not known: say --scale.")
        return self.scale

    def path(self, frame_id: str) -> Path:
        """The file of a frame."""
        return self.folder / file_name(self.pattern, frame_id)

    def holds_integers(self, frame_id: str) -> bool:
        """Whether a frame's file holds integers, which need a scale."""
        return read_counts(self.path(frame_id), self.key).dtype.kind in "ui"

    def is_cropped(self, frame_id: str) -> bool:
        """Whether a frame's file has another size than the frame, so that it is cropped on reading."""
        return read_counts(self.path(frame_id), self.key).shape != tuple(self.source.image_size)

    def read_unchecked(self, frame_id: str) -> DepthMap:
        """[H,W] float32 of a frame in metres at the frame's size; values may lie anywhere, NaN where they were.

        Raises:
            DataError: the file cannot be read, or has neither the frame's size nor that of the whole image.
        """
        counts = read_counts(self.path(frame_id), self.key)
        size = tuple(self.source.image_size)
        if counts.shape != size:
            whole = self.source.full_size(frame_id) if isinstance(self.source, KittiFrames) else None
            if counts.shape != whole:
                other = "" if whole is None else f" or {whole[0]}x{whole[1]} (the whole image, then cropped)"
                raise DataError(
                    f"{self.path(frame_id)} is {counts.shape[0]}x{counts.shape[1]} pixels; a response to frame"
                    f" {frame_id} has {size[0]}x{size[1]} ({self.source.crop}){other}. Resize it as the teacher would."
                )
            counts = kb_crop(counts)
        depth = self.known_scale.metres(counts)
        if self.nonfinite_is_missing:
            depth[~np.isfinite(depth)] = 0.0
        return depth

    def read(self, frame_id: str, digest: str) -> DepthMap:
        """As `read_unchecked`, within the range; 0 = missing.

        Args:
            digest: sha256 that the file had when the import began.
        Raises:
            DataError: as there; or the file has changed.
            RangeError: a depth is NaN, infinite, negative or out of range.
        """
        path = self.path(frame_id)
        if file_digest(path) != digest:
            raise DataError(f"{path} was changed during the import: start the import again, into another --store.")
        depth = self.read_unchecked(frame_id)
        if self.clip:
            # NaN, infinite and negative values stay, to be refused below.
            depth = np.where(
                (depth > 0) & np.isfinite(depth), np.clip(depth, MIN_DEPTH_M, self.max_depth), depth
            ).astype(np.float32)
        found = find_invalid(depth, MIN_DEPTH_M, self.max_depth)
        if found is not None:
            (row, column), reason = found
            remedies = "0 means missing" + (
                "; --nonfinite-is-missing takes NaN and infinity for it"
                if "NaN" in reason or "infinite" in reason
                else f"; --clip cuts depths to {MIN_DEPTH_M:g} .. {self.max_depth:g} m, --max-depth raises the limit"
            )
            raise RangeError(
                f"Depth {reason} at row {row}, column {column} of {path} (scale {self.known_scale.text}): {remedies}."
                " Nothing of this shard was written."
            )
        return depth
