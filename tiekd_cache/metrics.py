"""The nine depth metrics, an image at a time, and their mean over images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tiekd_cache.errors import DataError, RangeError, ShapeError

if TYPE_CHECKING:
    import torch

METRICS = ("a1", "a2", "a3", "abs_rel", "sq_rel", "rmse", "rmse_log", "log_10", "silog")
"""a1, a2, a3: share of pixels off by less than a factor 1.25, 1.25^2, 1.25^3 (higher is better); sq_rel and rmse are
in metres; silog is times 100."""

Map: TypeAlias = "npt.NDArray[Any] | torch.Tensor"


def depth_metrics(prediction: Map, gt_depth: Map, valid: Map) -> dict[str, float]:
    """Metrics of one image over its valid pixels, computed in float64.

    With p the prediction, d the ground truth and e = log p - log d:
    a_n = share of max(p/d, d/p) < 1.25^n; abs_rel = mean |p-d|/d; sq_rel = mean (p-d)^2/d; rmse, rmse_log = root
    mean square of p-d and of e; log_10 = mean |log10 p - log10 d|; silog = 100 sqrt(mean e^2 - (mean e)^2).

    Args:
        prediction: metres, any shape; numpy array or tensor. Clamp it to the protocol's range first.
        gt_depth: metres, the same shape.
        valid: bool, the same shape: the pixels that the protocol counts.
    Returns:
        name -> value, in the order of `METRICS`.
    Raises:
        ShapeError: shapes differ, or `valid` is not bool.
        RangeError: no pixel is valid, or a depth at a valid pixel is not positive and finite.
    Source: the Eigen protocol's usual formulas, as in the released evaluation.
    """
    predicted, measured, mask = _array(prediction), _array(gt_depth), _array(valid)
    if predicted.shape != measured.shape or predicted.shape != mask.shape:
        raise ShapeError(
            f"Prediction {predicted.shape}, ground truth {measured.shape} and valid {mask.shape} must be of one shape."
        )
    if mask.dtype != np.bool_:
        raise ShapeError(f"valid is {mask.dtype}; it must be bool, True where a pixel counts.")
    if not mask.any():
        raise RangeError("No pixel is valid: an image without ground truth in range has no metrics. Leave it out.")
    p, d = predicted[mask].astype(np.float64), measured[mask].astype(np.float64)
    for name, depth in (("prediction", p), ("ground truth", d)):
        wrong = ~(np.isfinite(depth) & (depth > 0))
        if wrong.any():
            raise RangeError(
                f"The {name} is {depth[wrong][0]} m at {int(wrong.sum())} valid pixel(s): metrics need positive, "
                "finite metres. Clamp predictions to the protocol's range; leave missing pixels out of `valid`."
            )
    factor = np.maximum(p / d, d / p)
    difference = p - d
    log_error = np.log(p) - np.log(d)
    mean_square = np.mean(log_error**2)
    values = (
        np.mean(factor < 1.25),
        np.mean(factor < 1.25**2),
        np.mean(factor < 1.25**3),
        np.mean(np.abs(difference) / d),
        np.mean(difference**2 / d),
        np.sqrt(np.mean(difference**2)),
        np.sqrt(mean_square),
        np.mean(np.abs(log_error)) / np.log(10),
        100 * np.sqrt(max(mean_square - np.mean(log_error) ** 2, 0.0)),  # a variance: rounding may put it below 0
    )
    return {name: float(value) for name, value in zip(METRICS, values, strict=True)}


class MetricsMean:
    """Mean over images of metrics by name; every image counts the same, whatever its number of pixels.

    Attributes:
        count: images added.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, float] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        """Count one image; raises DataError where its names are not those of the images before."""
        if self.count and set(metrics) != set(self._sums):
            raise DataError(f"An image has the metrics {', '.join(metrics)}, those before {', '.join(self._sums)}.")
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self.count += 1

    def mean(self) -> dict[str, float]:
        """Name -> mean over images; raises DataError where there was none."""
        if not self.count:
            raise DataError("No image was added: there is no mean. Evaluate at least one image with valid pixels.")
        return {name: total / self.count for name, total in self._sums.items()}


def _array(values: Map) -> npt.NDArray[Any]:
    if isinstance(values, np.ndarray):
        return values
    values = values.detach().cpu()
    return (values.double() if values.is_floating_point() else values).numpy()  # numpy has no bfloat16
