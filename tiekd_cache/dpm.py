"""Depth probability maps: bins, depth -> DPM and DPM -> depth, in plain torch.

This is the oracle that everything faster is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tiekd_cache.errors import ConfigError, RangeError, ShapeError

SPACINGS = ("uniform", "log", "inverse")
"""How bins are spread over the range; see `Bins`."""

FORMS = ("released", "gaussian")
"""How a depth becomes a distribution over bins; see `depth_to_dpm`."""

DENSITY_FLOOR = 1e-16
"""Released form: densities (1/m) below this one count as nothing."""

FLOORED_SCORE = -1000.0
"""Released form: the score that a bin gets in place of such a density; its probability is exactly 0 in float32."""

MOST_BINS = 1 << 16
"""A bin for each code of a 16-bit depth map."""

RANGE_TOLERANCE = 1e-5
"""How far, relative to a bound, a depth may lie outside the bins: rounding (a coarser dtype's own), no more."""


@dataclass(frozen=True)
class Bins:
    """K depth bins between two depths; equal bins compare equal, whatever tensors they gave out.

    Attributes:
        min_depth: nearest edge, metres, > 0 (0 means missing).
        max_depth: farthest edge, metres.
        num_bins: K.
        spacing: where edges are equally far apart: `uniform` = in metres; `log` = in log depth (each bin wider than
            the one before by the same factor); `inverse` = in 1 / depth (widths grow with the square of the depth).
            The last two put most bins near `min_depth`: 1 m serves them better than 1e-3 m.
    """

    min_depth: float
    max_depth: float
    num_bins: int
    spacing: str = "uniform"

    def __post_init__(self) -> None:
        if type(self.num_bins) is not int or not 2 <= self.num_bins <= MOST_BINS:
            raise ConfigError(
                f"num_bins = {self.num_bins!r}: a DPM needs a whole number of bins, at least 2 and at most {MOST_BINS}."
            )
        if not (0 < self.min_depth < self.max_depth < math.inf):
            raise ConfigError(
                f"Bins from {self.min_depth} m to {self.max_depth} m: need 0 < min_depth < max_depth, both finite."
            )
        if self.spacing not in SPACINGS:
            raise ConfigError(f"Bin spacing '{self.spacing}' is not known. Use one of: {', '.join(SPACINGS)}.")

    @classmethod
    def uniform(cls, min_depth: float, max_depth: float, num_bins: int) -> Bins:
        """Bins of equal width; KITTI in the paper: `Bins.uniform(1e-3, 80.0, 257)`."""
        return cls(float(min_depth), float(max_depth), num_bins)

    @classmethod
    def spaced(cls, spacing: str, min_depth: float, max_depth: float, num_bins: int) -> Bins:
        """Bins of one of `SPACINGS`; raises ConfigError for another word."""
        return cls(float(min_depth), float(max_depth), num_bins, spacing)

    @property
    def edges(self) -> torch.Tensor:
        """[K+1] float32 on the CPU, metres, ascending."""
        return self._edges64().to(torch.float32)

    @property
    def centers(self) -> torch.Tensor:
        """[K] float32 on the CPU, metres: the midpoints of the bins."""
        edges = self._edges64()
        return ((edges[:-1] + edges[1:]) / 2).to(torch.float32)

    def _edges64(self) -> torch.Tensor:
        low, high, count = self.min_depth, self.max_depth, self.num_bins + 1
        if self.spacing == "uniform":
            return torch.linspace(low, high, count, dtype=torch.float64)
        if self.spacing == "log":
            edges = torch.linspace(math.log(low), math.log(high), count, dtype=torch.float64).exp()
        else:
            edges = torch.linspace(1 / low, 1 / high, count, dtype=torch.float64).reciprocal()
        edges[0], edges[-1] = low, high  # not to the last digit otherwise
        return edges

    def to_json(self) -> dict[str, Any]:
        """JSON values from which `from_json` makes equal bins."""
        return {
            "spacing": self.spacing,
            "min_depth": self.min_depth,
            "max_depth": self.max_depth,
            "num_bins": self.num_bins,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Bins:
        """The inverse of `to_json`; raises ConfigError for missing or unknown keys and for values of another kind."""
        wanted = {"spacing", "min_depth", "max_depth", "num_bins"}
        if set(values) != wanted:
            raise ConfigError(
                f"Bins need exactly {', '.join(sorted(wanted))}; got {', '.join(sorted(map(str, values)))}."
            )
        try:
            min_depth, max_depth = float(values["min_depth"]), float(values["max_depth"])
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(f"Bins from {values['min_depth']!r} to {values['max_depth']!r}: not metres.") from None
        return cls(min_depth, max_depth, values["num_bins"], values["spacing"])


def check_form(form: str, sigma: float, bins: Bins, sigma_share: float = 0.0) -> None:
    """Raise unless `form` is known and the widths (see `dpm_width`; `sigma` in metres) make sense with it.

    Raises:
        ConfigError: unknown form.
        RangeError: sigma is not positive and finite, sigma_share negative or not finite; or the width is so small that
            in the released form a depth between two centres is below the density floor in every bin (its DPM would be
            flat over the whole range), or float32's rounding would decide that.
    """
    if form not in FORMS:
        raise ConfigError(f"DPM form '{form}' is not known. Use one of: {', '.join(FORMS)}.")
    if not 0 < sigma < math.inf:
        raise RangeError(f"sigma = {sigma} m: must be positive and finite (the paper: 0.8 for KITTI, 0.15 for NYU).")
    if not 0 <= sigma_share < math.inf:
        raise RangeError(f"sigma_share = {sigma_share}: must be >= 0 and finite (0 = the same sigma at every depth).")
    if form == "released":
        edges = bins._edges64()
        # the depth farthest from any centre lies half-way between two, or at an end
        centers = (edges[:-1] + edges[1:]) / 2
        depth = torch.cat([edges[:1], (centers[:-1] + centers[1:]) / 2, edges[-1:]])
        gap = torch.cat([centers[:1] - edges[:1], centers.diff() / 2, edges[-1:] - centers[-1:]])
        reach = gap + RANGE_TOLERANCE * (gap + depth)  # so that float32's rounding does not decide
        width = (sigma_share * depth).clamp(min=sigma)
        density = torch.exp(-0.5 * (reach / width) ** 2) / (width * math.sqrt(2 * math.pi))
        worst = int(density.argmin())
        if density[worst] < DENSITY_FLOOR:
            raise RangeError(
                f"sigma = {width[worst]:.3g} m is too small for form 'released' with bins {2 * gap[worst]:.3g} m wide: "
                "depths between two centres would get a flat DPM. Use a larger sigma or sigma_share, more bins or form "
                "'gaussian'."
            )


def dpm_width(depth: torch.Tensor, sigma: float, sigma_share: float) -> float | torch.Tensor:
    """Metres: the width of the DPM of each depth, max(sigma, sigma_share * depth); `sigma` itself for a share of 0.

    Source: the paper has the fixed sigma; the share is ours, for teachers whose error grows with the depth.
    """
    return (depth * sigma_share).clamp(min=sigma) if sigma_share > 0 else sigma


def check_depth(depth: torch.Tensor, bins: Bins, valid_mask: torch.Tensor | None = None) -> torch.Tensor:
    """[B,T,H,W] bool: where there is a depth to use, i.e. not 0 (missing) and inside `valid_mask`.

    Pixels outside `valid_mask` are not looked at. Reads one number back from the device.

    Args:
        depth: [B,T,H,W] float, metres, of one or more teachers; 0 = missing.
        valid_mask: [B,T,H,W] bool, or None for all pixels.
    Raises:
        ShapeError: a shape is not that.
        RangeError: a depth is not finite or lies outside the bins by more than rounding.
    """
    if depth.dim() != 4 or not depth.is_floating_point():
        raise ShapeError(f"Depth is {_describe(depth)}; it must be float [B,T,H,W], in metres.")
    present = depth != 0
    if valid_mask is not None:
        if valid_mask.shape != depth.shape or valid_mask.dtype != torch.bool:
            raise ShapeError(
                f"valid_mask is {_describe(valid_mask)}; it must be bool {list(depth.shape)}, like the depth."
            )
        present = present & valid_mask
    tolerance = max(RANGE_TOLERANCE, torch.finfo(depth.dtype).eps)
    low, high = bins.min_depth * (1 - tolerance), bins.max_depth * (1 + tolerance)
    wrong = present & ~((depth >= low) & (depth <= high))  # written so that NaN is wrong, too
    if bool(wrong.any()):
        b, t, y, x = (int(i) for i in wrong.nonzero()[0])
        teacher = f", teacher {t}" if depth.shape[1] > 1 else ""
        raise RangeError(
            f"Depth {float(depth[b, t, y, x])} m (sample {b}{teacher}, row {y}, column {x}) lies outside the bins "
            f"({bins.min_depth} to {bins.max_depth} m; 0 = missing). Clamp it, or use bins that reach it."
        )
    return present


def depth_to_dpm(
    depth: torch.Tensor, bins: Bins, sigma: float = 0.8, form: str = "released", sigma_share: float = 0.0
) -> torch.Tensor:
    """Each depth as a distribution over the bins.

    `released`: softmax over the bins of q, the Gaussian density N(centre; depth, sigma) in 1/m, where q below 1e-16
    is replaced by -1000. It is nearly flat over about +-8.5 sigma and therefore biased near the ends of the range
    (sigma 0.8 m: 2 m has the mean 4.08 m).
    `gaussian`: the Gaussian over the bin centres, normalised to 1 (2 m has the mean 2.01 m).

    Args:
        depth: [B,1,H,W] float, metres; 0 = missing.
        bins: K bins that hold every depth.
        sigma: metres, > 0.
        form: `released` or `gaussian`.
        sigma_share: the width at depth d is max(sigma, sigma_share * d) metres.
    Returns:
        [B,K,H,W] float32 (float64 for float64 depth), on the depth's device; sums to 1 over K, zero where missing.
        It carries no gradient: the teacher's depth is data.
    Raises:
        ConfigError: unknown form.
        ShapeError: depth is not [B,1,H,W].
        RangeError: a depth lies outside the bins; sigma is not positive.
    Source: paper section 3 (depth probability map); the released code's `gaussian_softmax`. The `gaussian` form and
        sigma_share are not in the release.
    """
    check_form(form, sigma, bins, sigma_share)
    if depth.dim() != 4 or depth.shape[1] != 1 or not depth.is_floating_point():
        raise ShapeError(f"Depth is {_describe(depth)}; it must be float [B,1,H,W], in metres.")
    present = check_depth(depth, bins)
    dtype = torch.promote_types(depth.dtype, torch.float32)
    centers = bins.centers.to(depth.device, dtype)[None, :, None, None]
    with torch.no_grad():
        # one [B,K,H,W] buffer, changed in place
        depth = depth.to(dtype)
        width = dpm_width(depth, sigma, sigma_share)
        scores = centers - depth
        scores.square_().mul_(-0.5 / width**2)
        if form == "released":
            # the clamp is far below the floor; without it exp takes 30 times as long, on results of no use
            scores.clamp_(min=-80.0).exp_().mul_(1 / (width * math.sqrt(2 * math.pi)))
            scores.masked_fill_(scores < DENSITY_FLOOR, FLOORED_SCORE)
        return torch.softmax(scores, dim=1).mul_(present)


def dpm_to_depth(dpm: torch.Tensor, bins: Bins) -> torch.Tensor:
    """The expected depth: sum over bins of probability times bin centre.

    Args:
        dpm: [B,K,H,W] float, sums to 1 over K.
        bins: the K bins it is over.
    Returns:
        [B,1,H,W] metres; float32, also under autocast (float64 for a float64 DPM); 0 where the DPM is zero.
    Raises:
        ShapeError: dpm is not [B,K,H,W] with the bins' K.
    """
    if dpm.dim() != 4 or dpm.shape[1] != bins.num_bins or not dpm.is_floating_point():
        raise ShapeError(f"DPM is {_describe(dpm)}; it must be float [B,{bins.num_bins},H,W], for these bins.")
    batch, num_bins, height, width = dpm.shape
    dtype = torch.promote_types(dpm.dtype, torch.float32)
    centers = bins.centers.to(dpm.device, dtype)
    with torch.autocast(dpm.device.type, enabled=False):  # bf16 would round depth to 1/4 m and worse
        depth = torch.matmul(centers, dpm.to(dtype).reshape(batch, num_bins, height * width))
    return depth.reshape(batch, 1, height, width)


def _describe(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
