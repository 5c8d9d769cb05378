"""Figures to PNG files with matplotlib's object-oriented interface: no display, no global state."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tiekd_cache.whole_file import write_whole


def save_figure(figure: Figure, path: Path) -> Path:
    """Render on an Agg canvas and put the PNG in place when it is whole, so that a viewer never sees half of it.

    Raises:
        DataError: the file cannot be written.
    """
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    write_whole(path, content.getvalue())
    return path
