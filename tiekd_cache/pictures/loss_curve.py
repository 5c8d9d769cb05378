"""A training run's loss over its steps, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from tiekd_cache.errors import ShapeError
from tiekd_cache.pictures.colours import Map
from tiekd_cache.pictures.figure_file import save_figure

NOT_TERMS = ("step", "epoch", "loss", "lr", "grad_norm", "seconds")
"""Keys of a run's records that are no term of its loss."""


def loss_curve(
    records: Sequence[Mapping[str, Any]], path: Path, *, terms: Sequence[str] | None = None, title: str = ""
) -> Path:
    """Write a PNG of the total loss over the training steps, and of its terms beside it; returns its path.

    Thin lines are the values, thick ones their running mean (Gaussian, standard deviation a fiftieth of the run). An
    axis is logarithmic where all its values are positive and span more than a factor of five.

    Args:
        records: a mapping a logged step, with `step` and `loss`, as the lines of a run's metrics.jsonl; what a record
            lacks, or holds no finite number of, is left out of that line.
        path: the PNG; replaced atomically.
        terms: keys of the loss's terms; None = every key but those in `NOT_TERMS`.
        title: above the picture.
    Raises:
        ShapeError: no record has a finite `step` and `loss`.
        DataError: the file cannot be written.
    """
    if terms is None:
        terms = list(dict.fromkeys(key for record in records for key in record if key not in NOT_TERMS))
    lines = {key: _points(records, key) for key in ("loss", *terms)}
    if not len(lines["loss"][0]):
        raise ShapeError(f"A loss curve needs records with finite 'step' and 'loss'; none of {len(records)} has.")
    panels = [(["loss"], "total loss")] + ([(list(terms), "terms of the loss, unweighted")] if terms else [])
    figure = Figure(figsize=(5.2 * len(panels), 3.6), dpi=110, facecolor="white", layout="constrained")
    for axes, (keys, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, key in enumerate(keys):
            _draw_line(axes, *lines[key], key, matplotlib.colormaps["tab10"](number))
        _dress(axes, np.concatenate([lines[key][1] for key in keys]), label)
    if title:
        figure.suptitle(title, fontsize=11)
    return save_figure(figure, path)


def _points(records: Sequence[Mapping[str, Any]], key: str) -> tuple[Map, Map]:
    """Steps and finite values of a key, in the order of the records."""
    pairs = [(float(record["step"]), float(record[key])) for record in records if "step" in record and key in record]
    array = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    array = array[np.isfinite(array).all(axis=1)]
    return array[:, 0], array[:, 1]


def _draw_line(axes: Axes, steps: Map, values: Map, name: str, colour: Any) -> None:
    if len(values) < 10:
        axes.plot(steps, values, color=colour, linewidth=1.8, marker="o", markersize=3, label=name)
        return
    axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.35)
    axes.plot(steps, _running_mean(values, max(1.0, len(values) / 50)), color=colour, linewidth=2, label=name)


def _running_mean(values: Map, sigma: float) -> Map:
    """Gaussian mean around each value, `sigma` in values; at the ends over the values that are there."""
    reach = int(3 * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    inside = slice(reach, reach + len(values))
    mean: Map = np.convolve(values, weights)[inside] / np.convolve(np.ones(len(values)), weights)[inside]
    return mean


def _dress(axes: Axes, values: Map, label: str) -> None:
    """Scale, labels and grid of a panel that shows these values."""
    if len(values) and values.min() > 0 and values.max() > 5 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("training step")
    axes.set_ylabel(label)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
