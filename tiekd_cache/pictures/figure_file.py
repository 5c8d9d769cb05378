"""Figures to PNG files with matplotlib's object-oriented interface: no display, no global state."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tiekd_cache.errors import DataError


def save_figure(figure: Figure, path: Path) -> Path:
    """Render on an Agg canvas and put the PNG in place with a rename, so that a viewer never sees half of it.

    Raises:
        DataError: the file cannot be written.
    """
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    aside = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content.getvalue())
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise DataError(f"{path} cannot be written ({error.strerror}). Check free space and permissions.") from error
    return path
