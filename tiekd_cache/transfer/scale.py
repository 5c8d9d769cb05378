"""Counts per metre of depth files, exactly: `256`, `1000`, `65535/80`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from tiekd_cache.agreement import UNIT_FACTOR, is_wrong_unit
from tiekd_cache.data.frame import DepthMap
from tiekd_cache.errors import ConfigError

USUAL_SCALES = ("1", "100", "256", "1000", "65535/80", "65535/10")
"""Metres, centimetres, KITTI, millimetres, and the 16-bit range stretched over 80 m and over 10 m."""


@dataclass(frozen=True)
class Scale:
    """How many counts a metre has, and how its user spells it."""

    counts_per_metre: Fraction
    text: str

    @classmethod
    def parse(cls, text: str) -> Scale:
        """The scale in a text: a number, or a fraction of two.

        Raises:
            ConfigError: it is neither, or not above 0.
        """
        try:
            above, _, below = text.partition("/")
            if len(text) > 80 or not all(0 < float(number) < math.inf for number in (above, below or 1)):
                raise ValueError  # as a fraction, 1e-999999999 would take as many digits
            value = Fraction(above) / Fraction(below or 1)
        except (ValueError, ZeroDivisionError, OverflowError):
            value = Fraction(0)
        if value <= 0 or "/" in below:
            raise ConfigError(
                f"Scale '{text}' is no number of counts per metre: say {', '.join(USUAL_SCALES[2:5])}, or another"
                " number or fraction above 0."
            )
        return cls(value, text.strip())

    def metres(self, counts: npt.NDArray[Any]) -> DepthMap:
        """float32 metres of counts; exact where the counts' maximum stands for a whole number of metres."""
        if self.counts_per_metre == 1:
            return counts.astype(np.float32)
        numerator, denominator = self.counts_per_metre.as_integer_ratio()
        scaled = counts.astype(np.float64)
        scaled *= denominator
        scaled /= numerator
        return scaled.astype(np.float32)

    def counts(self, depth: DepthMap) -> npt.NDArray[np.float64]:
        """Rounded counts, float64, of metres; a depth above 0 never becomes 0, which means missing."""
        numerator, denominator = self.counts_per_metre.as_integer_ratio()
        scaled = depth.astype(np.float64)
        scaled *= numerator
        scaled /= denominator
        np.rint(scaled, out=scaled)
        scaled[(scaled == 0) & (depth > 0)] = 1
        return scaled

    def others_that_fit(self, ratio: float) -> Sequence[str]:
        """The usual scales with which a median ratio would lie within 1/1.3 .. 1.3, the best first.

        Args:
            ratio: median of depth / ground truth, with this scale.
        """
        ratios = {text: ratio * float(self.counts_per_metre / Fraction(text)) for text in USUAL_SCALES}
        fitting = [text for text, other in ratios.items() if not is_wrong_unit(other)]
        return sorted(fitting, key=lambda text: abs(math.log(ratios[text])))


def unit_error(ratio: float, frames: int, scale: Scale) -> str | None:
    """The line that refuses a unit which the ground truth contradicts; None where it does not."""
    if not is_wrong_unit(ratio):
        return None
    fitting = scale.others_that_fit(ratio)
    remedy = f"--scale {' or '.join(fitting)} would fit" if fitting else "no usual scale would fit: is it depth?"
    return (
        f"With scale {scale.text} the depths are {ratio:.3g} times the ground truth (median of {frames} frames; metres"
        f" lie within 1/{UNIT_FACTOR} .. {UNIT_FACTOR}): {remedy}. Nothing was written; --trust-scale imports them as"
        " they are."
    )


def unit_hint(ratio: float, scale: Scale) -> str | None:
    """A line where the unit passes but another usual scale is far nearer (1000 and 65535/80 differ by 1.22)."""
    fitting = scale.others_that_fit(ratio)
    if abs(math.log(ratio)) < math.log(1.1) or not fitting:
        return None
    better = ratio * float(scale.counts_per_metre / Fraction(fitting[0]))
    if abs(math.log(better)) > math.log(1.05):
        return None
    return f"The depths are {ratio:.3g} times the ground truth; with --scale {fitting[0]} it would be {better:.3g}."
