"""What a store's responses look like: depth histogram, missing pixels, agreement with sparse ground truth.

Taken from each shard while it is written and kept beside its done-record, as `statistics/<shard>.json`, so that they
survive stops and several writers; `read_statistics` adds up those of the finished shards. They describe a store and
are no part of its answers: a store without them is whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tiekd_cache.agreement import UNIT_FACTOR, FrameAgreement, frame_agreement, is_wrong_unit, median_ratio
from tiekd_cache.data.frame import DepthMap, FrameSource
from tiekd_cache.errors import DataError
from tiekd_cache.foreign import parse_json
from tiekd_cache.store.catalogue import Catalogue, damaged, open_catalogue
from tiekd_cache.store.chunks import Damage, NotAsSigned
from tiekd_cache.store.durable import clear_errors, make_folders, write_file
from tiekd_cache.store.layout import statistics_file
from tiekd_cache.store.object_path import StorePlace, as_object, is_network, objects_of, side_by_side, store_path
from tiekd_cache.store.resize import resize_bilinear
from tiekd_cache.store.schema import StoreSchema, canonical_json, sha256_of
from tiekd_cache.store.signature import Trust, signed_by

EDGES_M = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 80.0, 150.0)
"""Lower edges of the histogram's bins, metres; the last bin has no upper edge."""

PIXEL_STRIDE = 4
"""Every fourth row and column goes into the histogram: a tenth of a millisecond a frame."""

COMPARED_PER_SHARD = 8
"""Frames of a shard whose ground truth is read; reading one takes as long as decoding an image."""


@dataclass(frozen=True)
class ShardStatistics:
    """What a shard's responses look like.

    Attributes:
        fingerprint: of the store.
        shard: its number.
        frames, pixels, missing: frames; pixels at the stored resolution; how many of them have no depth.
        histogram: of the pixels looked at, how many lie in each bin of `EDGES_M`.
        nearest, farthest: metres, among those pixels; 0 where none has depth.
        agreement: the frames compared with ground truth.
        unreadable: why the ground truth of frames that should have been compared could not be read.
    """

    fingerprint: str
    shard: int
    frames: int
    pixels: int
    missing: int
    histogram: tuple[int, ...]
    nearest: float
    farthest: float
    agreement: tuple[FrameAgreement, ...] = ()
    unreadable: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """As it is written: JSON with a digest of itself."""
        document = json.loads(canonical_json({**asdict(self), "edges_m": EDGES_M}))
        return canonical_json({**document, "statistics_digest": sha256_of(document)}) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes | str) -> ShardStatistics:
        """What `to_bytes` wrote.

        Raises:
            ValueError: it is something else, was changed, or has other bins.
        """
        document: Any = parse_json(data)
        if not isinstance(document, dict) or document.pop("statistics_digest", None) != sha256_of(document):
            raise ValueError("does not match its own digest: it was changed")
        if document.pop("edges_m", None) != list(EDGES_M):
            raise ValueError("has other bins: another version wrote it")
        try:
            agreement = tuple(FrameAgreement(**frame) for frame in document.pop("agreement"))
            for name in ("histogram", "unreadable"):
                document[name] = tuple(document[name])
            statistics = cls(**document, agreement=agreement)
        except (KeyError, TypeError) as error:
            raise ValueError(f"lacks something ({error})") from error
        statistics._check()
        return statistics

    def _check(self) -> None:
        """Raise ValueError where something is of another type, or no number that it can be."""
        counts = (self.shard, self.frames, self.pixels, self.missing, *self.histogram)
        counts += tuple(frame.pixels for frame in self.agreement)
        numbers = [self.nearest, self.farthest]
        numbers += [number for frame in self.agreement for number in (frame.abs_rel, frame.median_ratio)]
        texts = (self.fingerprint, *self.unreadable, *(frame.frame_id for frame in self.agreement))
        if (
            len(self.histogram) != len(EDGES_M)
            or any(type(count) is not int or count < 0 for count in counts)
            or any(type(number) not in (int, float) or number < 0 for number in numbers)
            or not all(isinstance(text, str) for text in texts)
        ):
            raise ValueError("holds something that cannot be: it was made by other means")


def shard_statistics(
    schema: StoreSchema, shard: int, frame_ids: Sequence[str], teacher_depth: DepthMap, source: FrameSource | None
) -> ShardStatistics:
    """Looks at a shard's responses.

    Args:
        schema: of the store.
        frame_ids: the shard's frames, in order.
        teacher_depth: [n,h,w] float32, metres at native size, 0 = missing.
        source: where ground truth is read from; None compares nothing.
    """
    sample = teacher_depth[:, ::PIXEL_STRIDE, ::PIXEL_STRIDE]
    seen = sample[sample > 0]
    bins = np.searchsorted(EDGES_M[1:], seen, side="right")
    agreement: list[FrameAgreement] = []
    unreadable: list[str] = []
    for place in [] if source is None else _places_to_compare(frame_ids, source):
        assert source is not None
        try:
            gt_depth = source.lidar_depth(frame_ids[place])
        except DataError as error:  # a comparison is worth no stop; who asks for statistics is told
            unreadable.append(f"{frame_ids[place]}: {error}")
            continue
        depth = teacher_depth[place]
        resize = schema.depth["resize"]
        if resize is not None:
            depth = resize_bilinear(depth, schema.image_size, resize["align_corners"])
        found = None if gt_depth is None else frame_agreement(frame_ids[place], depth, gt_depth, schema.max_depth)
        agreement += [] if found is None else [found]
    return ShardStatistics(
        fingerprint=schema.fingerprint,
        shard=shard,
        frames=len(frame_ids),
        pixels=int(teacher_depth.size),
        missing=int(teacher_depth.size - np.count_nonzero(teacher_depth)),
        histogram=tuple(int(count) for count in np.bincount(bins, minlength=len(EDGES_M))),
        nearest=round(float(seen.min()), 4) if seen.size else 0.0,
        farthest=round(float(seen.max()), 4) if seen.size else 0.0,
        agreement=tuple(agreement),
        unreadable=tuple(unreadable),
    )


def _places_to_compare(frame_ids: Sequence[str], source: FrameSource) -> list[int]:
    known = [i for i, frame_id in enumerate(frame_ids) if source.has_gt(frame_id) or source.has_lidar(frame_id)]
    if len(known) <= COMPARED_PER_SHARD:
        return known
    return [known[int(i)] for i in np.linspace(0, len(known) - 1, COMPARED_PER_SHARD)]


@dataclass(frozen=True)
class StoreStatistics:
    """The statistics of a store's finished shards together; notes say which could not be counted, and why."""

    shards: tuple[ShardStatistics, ...]
    notes: tuple[str, ...] = ()

    @property
    def agreement(self) -> tuple[FrameAgreement, ...]:
        """Every frame that was compared with ground truth."""
        return tuple(frame for shard in self.shards for frame in shard.agreement)

    @property
    def median_ratio(self) -> float | None:
        """Median over frames of response / ground truth; None where nothing was compared."""
        return median_ratio(self.agreement)

    @property
    def abs_rel(self) -> float | None:
        """Mean over frames; None where nothing was compared."""
        values = [frame.abs_rel for frame in self.agreement]
        return float(np.mean(values)) if values else None

    @property
    def missing_share(self) -> float:
        """Share of pixels without depth."""
        pixels = sum(shard.pixels for shard in self.shards)
        return sum(shard.missing for shard in self.shards) / pixels if pixels else 0.0

    @property
    def histogram(self) -> dict[str, float]:
        """Share of the pixels with depth in each bin, by the bin's name (`5-7.5 m`)."""
        counts = np.sum([shard.histogram for shard in self.shards], axis=0) if self.shards else np.zeros(len(EDGES_M))
        total = max(1, int(np.sum(counts)))
        names = [f"{low:g}-{high:g} m" for low, high in pairwise(EDGES_M)]
        return {name: float(count) / total for name, count in zip([*names, f">{EDGES_M[-1]:g} m"], counts, strict=True)}

    def unit_warning(self, teacher: Mapping[str, Any]) -> str | None:
        """One line where the responses are not metres; an untrained teacher's mean nothing and give none."""
        ratio = self.median_ratio
        if not teacher["trained"] or ratio is None or not is_wrong_unit(ratio):
            return None
        return (
            f"WRONG UNIT? Responses are {ratio:.3g} times the ground truth (median of {len(self.agreement)} frames;"
            f" metres lie within 1/{UNIT_FACTOR} .. {UNIT_FACTOR}): check the teacher's scale before distilling"
        )

    def to_json(self) -> dict[str, Any] | None:
        """All of it as JSON values; depths in metres. None where no shard has any."""
        if not self.shards:
            return None
        nearest = [shard.nearest for shard in self.shards if shard.nearest > 0]
        return {
            "frames": sum(shard.frames for shard in self.shards),
            "missing_share": _short(self.missing_share),
            "nearest_m": min(nearest, default=None),
            "farthest_m": max(shard.farthest for shard in self.shards) or None,
            "histogram": {name: _short(share) for name, share in self.histogram.items()},
            "ground_truth": {
                "frames": len(self.agreement),
                "abs_rel": _short(self.abs_rel),
                "median_ratio": _short(self.median_ratio),
                "unreadable": [line for shard in self.shards for line in shard.unreadable],
            },
        }


def _short(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(f"{value:.4g}")


def write_statistics(store: Path, statistics: ShardStatistics) -> None:
    """Keep a shard's statistics; called before the shard is written, so that no finished shard lacks them.

    Raises:
        StoreError: the disk is full or refuses, or the bucket cannot be written.
    """
    file = statistics_file(store, statistics.shard)
    objects = objects_of(store)
    if objects is not None:
        objects.put(as_object(file).key, statistics.to_bytes(), if_absent=True)  # never those of a finished shard
        return
    with clear_errors(file):
        make_folders(file.parent, store)
    write_file(file, statistics.to_bytes())


def read_statistics(store: StorePlace, trust: Trust | None = None) -> StoreStatistics:
    """The statistics of a store's finished shards.

    Args:
        trust: who must have signed it, or what they have.
    Raises:
        StoreError: there is no store, its metadata are damaged, or something of it is not as signed.
    """
    place = store_path(store)
    catalogue = open_catalogue(place, signed_by(place, trust))
    shards = sorted(catalogue.done)
    read = partial(_read_one, catalogue)
    results = side_by_side(read, shards) if is_network(catalogue.path) else list(map(read, shards))
    notes = [result for result in results if isinstance(result, str)]
    missing = results.count(None)
    if missing:
        notes.append(f"no statistics for {missing} of {len(shards)} finished shards")
    return StoreStatistics(tuple(one for one in results if isinstance(one, ShardStatistics)), tuple(notes))


def statistics_of(catalogue: Catalogue, shard: int) -> tuple[bytes, ShardStatistics] | None:
    """A shard's statistics as they are written, and what they say; None where it has none.

    Raises:
        Damage: they are not what was written, of another version or another shard; NotAsSigned: not as signed.
    """
    data = catalogue.read_optional(statistics_file(catalogue.path, shard))
    if data is None:
        return None
    try:
        statistics = ShardStatistics.from_bytes(data)
    except ValueError as error:
        raise Damage(str(error)) from error
    if (statistics.fingerprint, statistics.shard) != (catalogue.schema.fingerprint, shard):
        raise Damage("belongs to another store or shard")
    return data, statistics


def _read_one(catalogue: Catalogue, shard: int) -> ShardStatistics | str | None:
    """The statistics of a shard; None where there are none, the reason where they do not count."""
    file = statistics_file(catalogue.path, shard)
    try:
        found = statistics_of(catalogue, shard)
        return None if found is None else found[1]
    except NotAsSigned as reason:
        raise damaged(catalogue.path, file, reason) from reason
    except Damage as damage:
        return f"statistics {file} are not counted: {damage}"
