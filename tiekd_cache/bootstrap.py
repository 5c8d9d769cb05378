"""How far a mean over images could be another one by chance: the bootstrap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tiekd_cache.errors import ConfigError, RangeError, ShapeError

Values = npt.NDArray[np.float64]

_BLOCK = 1 << 20
"""Numbers drawn at a time: 8 MB."""


@dataclass(frozen=True)
class Interval:
    """A mean and what resampling makes of it.

    Attributes:
        mean: of the values as they are.
        low, high: the percentiles of the resampled means between which the level's share of them lies.
    """

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0


def resampled_means(
    values: Values, *, resamples: int, seed: int = 0, groups: Sequence[str] | None = None
) -> npt.NDArray[np.float64]:
    """[resamples, M]: the means of so many samples, with replacement, of the rows of `values`.

    The same seed and groups draw the same rows whatever the values: columns, and calls, can be compared.

    Args:
        values: [N, M] or [N], finite: M numbers an image.
        groups: [N]: whole groups are drawn, e.g. the drives that images come from; None draws images. The mean is
            then the drawn images' own, so that a group counts by its size.
    Raises:
        ConfigError: fewer than two rows or groups, or no resamples.
        ShapeError, RangeError: `values` or `groups` have another shape, or a value is not finite.
    """
    rows = values[:, None] if values.ndim == 1 else values
    if rows.ndim != 2 or (groups is not None and len(groups) != len(rows)):
        raise ShapeError(f"values {values.shape} must be [N] or [N, M], groups [N]; there are {len(groups or ())}.")
    if not np.isfinite(rows).all():
        raise RangeError("A value is not finite: its mean cannot be resampled. Leave that image out.")
    sums, sizes = rows, np.ones(len(rows))
    if groups is not None:
        names, index = np.unique(np.asarray(groups), return_inverse=True)
        sums = np.zeros((len(names), rows.shape[1]))
        np.add.at(sums, index, rows)
        sizes = np.bincount(index).astype(np.float64)
    count = len(sums)
    if count < 2 or resamples < 1:
        what = "image" if groups is None else "group of images"
        raise ConfigError(
            f"{count} {what}(s) and {resamples} resample(s) make no interval: compare on at least 2, with at least 1."
        )
    rng = np.random.default_rng(seed)
    chances = np.full(count, 1.0 / count)
    block = max(1, _BLOCK // count)
    means = []
    for start in range(0, resamples, block):
        times = rng.multinomial(count, chances, size=min(block, resamples - start)).astype(np.float64)
        means.append(times @ sums / (times @ sizes)[:, None])
    return np.concatenate(means)


def bootstrap_intervals(
    values: Values,
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> list[Interval]:
    """The mean of each column with its percentile interval; hand in differences for a paired comparison.

    Args:
        values, groups: as `resampled_means`.
        level: share of the resampled means inside, 0..1.
    Raises:
        ConfigError, ShapeError, RangeError: as `resampled_means`; ConfigError for a level outside 0..1.
    Source: B. Efron, The Annals of Statistics 7(1), 1979; percentile intervals.
    """
    if not 0 < level < 1 or not math.isfinite(level):
        raise ConfigError(f"The level {level} is a share of 0 to 1, e.g. 0.95.")
    means = resampled_means(values, resamples=resamples, seed=seed, groups=groups)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    centre = np.atleast_1d(values.mean(axis=0))
    return [Interval(*(float(x) for x in row)) for row in zip(centre, low, high, strict=True)]
