"""The benchmark as a picture: bytes, encoding and reading of every way, as ratios to PNG by Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tiekd_cache.bench.store import BenchRow
from tiekd_cache.errors import ShapeError
from tiekd_cache.pictures.figure_file import save_figure

_PANELS = (
    ("bytes_ratio", "num_bytes", "bytes a frame", "{:,.0f} B"),
    ("encode_ratio", "encode_ms", "encoding", "{:.2f} ms"),
    ("read_ratio", "read_ms", "random read to float32", "{:.2f} ms"),
)
_OURS, _OTHERS = "#c2410c", "#94a3b8"


def plot_store_bench(rows: Sequence[BenchRow], path: Path) -> Path:
    """Write a PNG of bars, a line of panels for each teacher's maps; returns its path.

    Raises:
        ShapeError: there are no rows.
        DataError: the file cannot be written.
    """
    if not rows:
        raise ShapeError("The benchmark measured nothing: no bars to draw.")
    names = list(dict.fromkeys(row.maps for row in rows))
    figure = Figure(figsize=(12.5, 0.6 + 2.3 * len(names)), dpi=110, facecolor="white", layout="constrained")
    for line, name in zip(figure.subplots(len(names), len(_PANELS), squeeze=False), names, strict=True):
        of_maps = [row for row in rows if row.maps == name]
        for number, (axes, (ratio, value, label, text)) in enumerate(zip(line, _PANELS, strict=True)):
            ratios = [getattr(row, ratio) for row in of_maps]
            texts = [f"{r:.3g}  ({text.format(getattr(row, value))})" for r, row in zip(ratios, of_maps, strict=True)]
            _bars(axes, [row.coder for row in of_maps], ratios, texts)
            axes.set_title(f"{name}: {label}", fontsize=10, loc="left")
            if number:
                axes.set_yticklabels([])
    figure.supxlabel("ratio to 16-bit PNG by Pillow (1 = the same; lower is better)", fontsize=10)
    return save_figure(figure, path)


def _bars(axes: Axes, names: Sequence[str], ratios: Sequence[float], texts: Sequence[str]) -> None:
    colours = [_OURS if name.startswith("tiekd-cache") else _OTHERS for name in names]
    bars = axes.barh(names, ratios, color=colours)
    axes.bar_label(bars, labels=texts, fontsize=8, padding=3)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.75 * max(ratios))
    axes.axvline(1, color="#64748b", linewidth=0.8, linestyle=":")
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
