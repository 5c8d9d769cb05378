"""Students side by side: means with intervals, and paired differences to the first one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tiekd_cache.bootstrap import Interval, bootstrap_intervals
from tiekd_cache.errors import ConfigError
from tiekd_cache.metrics import METRICS
from tiekd_cache.results import ImageValues

HIGHER_IS_BETTER = frozenset({"a1", "a2", "a3"})


@dataclass(frozen=True)
class Row:
    """One student.

    Attributes:
        name: the run or file.
        means: metric -> mean over images.
        differences: metric -> this student's mean less the first one's, from differences image by image; empty for
            the first one.
    """

    name: str
    means: dict[str, Interval]
    differences: dict[str, Interval]

    def verdict(self, metric: str) -> str:
        """`better` or `worse` than the first where the interval of the difference excludes 0, else empty."""
        difference = self.differences.get(metric)
        if difference is None or not difference.excludes_zero:
            return ""
        return "better" if (difference.mean > 0) == (metric in HIGHER_IS_BETTER) else "worse"


@dataclass(frozen=True)
class Comparison:
    """Students that were evaluated alike.

    Attributes:
        rows: one a student, the first of which is compared with.
        frames: images.
        groups: what was drawn: images, or drives.
        metrics, level, resamples, seed: as asked for.
    """

    rows: tuple[Row, ...]
    frames: int
    groups: int
    metrics: tuple[str, ...]
    level: float
    resamples: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        runs = []
        for row in self.rows:
            differences = {
                name: {**asdict(one), "excludes_zero": one.excludes_zero, "verdict": row.verdict(name)}
                for name, one in row.differences.items()
            }
            means = {name: asdict(one) for name, one in row.means.items()}
            runs.append({"run": row.name, "means": means, "differences": differences})
        names = ("frames", "groups", "level", "resamples", "seed")
        return {**{name: getattr(self, name) for name in names}, "runs": runs}


def compare(
    results: Sequence[ImageValues],
    metrics: Sequence[str] = ("abs_rel", "rmse", "silog", "a1"),
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
    by_drive: bool = False,
) -> Comparison:
    """Means and paired differences with bootstrap intervals over images.

    Args:
        results: at least one; the others are compared with the first.
        by_drive: draw drives (the part of a frame's id before the first /) instead of images: images of one drive
            resemble each other, so that intervals over images are too narrow for other streets.
    Raises:
        ConfigError: an unknown metric; students evaluated on other frames or another protocol; too few images.
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics:
        raise ConfigError(f"'{', '.join(unknown)}' is no metric. Use some of: {', '.join(METRICS)}.")
    first = results[0]
    groups = [frame_id.split("/")[0] for frame_id in first.frame_ids] if by_drive else None

    def intervals(values: np.ndarray) -> dict[str, Interval]:
        found = bootstrap_intervals(values, resamples=resamples, level=level, seed=seed, groups=groups)
        return dict(zip(metrics, found, strict=True))

    rows, reference = [], _columns(first, first, metrics)
    for result in results:
        check_alike(first, result)
        values = _columns(first, result, metrics)
        differences = {} if result is first else intervals(values - reference)
        rows.append(Row(result.name, intervals(values), differences))
    count = len(first.frame_ids)
    drawn = count if groups is None else len(set(groups))
    return Comparison(tuple(rows), count, drawn, tuple(metrics), level, resamples, seed)


def check_alike(a: ImageValues, b: ImageValues) -> None:
    """Raises ConfigError where two evaluations are of other frames, another protocol, or other pixels."""
    for name in a.protocol.keys() & b.protocol.keys():
        if a.protocol[name] != b.protocol[name]:
            raise ConfigError(
                f"{b.name} was evaluated with {name} {b.protocol[name]}, {a.name} with {a.protocol[name]}: no "
                "comparison. Evaluate both alike."
            )
    ours, others = set(a.frame_ids), set(b.frame_ids)
    lacking = [frame_id for frame_id in a.frame_ids if frame_id not in others]
    more = [frame_id for frame_id in b.frame_ids if frame_id not in ours]
    if lacking or more:
        raise ConfigError(
            f"{b.name} was evaluated on other frames than {a.name}: {len(lacking)} are missing and {len(more)} more "
            f"(the first: {(lacking + more)[0]}). Evaluate both on one split."
        )
    if a.pixels is not None and b.pixels is not None:
        theirs = dict(zip(b.frame_ids, b.pixels, strict=True))
        for frame_id, pixels in zip(a.frame_ids, a.pixels, strict=True):
            if theirs[frame_id] != pixels:
                raise ConfigError(
                    f"In {frame_id} {theirs[frame_id]} pixels count for {b.name}, {pixels} for {a.name}: another crop, "
                    "range or ground truth. Evaluate both alike."
                )


def _columns(first: ImageValues, result: ImageValues, metrics: Sequence[str]) -> np.ndarray:
    """[N, M]: the metrics of a student in the order of the first one's frames."""
    place = {frame_id: i for i, frame_id in enumerate(result.frame_ids)}
    order = [place[frame_id] for frame_id in first.frame_ids]
    return np.stack([result.values[name][order] for name in metrics], axis=1)
