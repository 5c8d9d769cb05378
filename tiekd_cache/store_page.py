"""A catalogue as one static page of HTML: a table, and some depth maps of each store in colour.

The page needs no script and nothing but itself. Whatever a store says is escaped, and the page's own policy forbids
scripts and foreign resources besides.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from tiekd_cache.errors import TiekdError
from tiekd_cache.foreign import shown
from tiekd_cache.pictures import depth_thumbnail
from tiekd_cache.store import open_store
from tiekd_cache.store.durable import clear_errors
from tiekd_cache.store_list import UNREADABLE, ListedStore, is_server_failing
from tiekd_cache.version import __version__
from tiekd_cache.whole_file import whole_file

MOST_THUMBNAILS = 200
"""On one page, over all stores: about 6 MB."""

_COLUMNS = ("store", "teacher", "data set", "split", "frames", "size", "fingerprint", "maker", "date", "images")
_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.4 sans-serif; color: #222; margin: 2em; }}
table {{ border-collapse: collapse; }}
th, td {{ text-align: left; padding: .2em .8em; border-bottom: 1px solid #ddd; }}
td.number {{ text-align: right; white-space: nowrap; }}
th, td, h2, p, figcaption {{ overflow-wrap: anywhere; unicode-bidi: isolate; }}
.problem {{ color: #b00020; }}
figure {{ display: inline-block; margin: 0 1em 1em 0; width: 240px; vertical-align: top; }}
figcaption {{ font-size: 12px; }}
img {{ display: block; }}
</style>
</head>
<body>
"""


def store_page(
    place: str,
    stores: Sequence[ListedStore],
    *,
    thumbnails: int = 3,
    advance: Callable[[int], object] = lambda count: None,
) -> str:
    """The page of a listing of `list_stores`; reads the stores for the pictures.

    Args:
        place: of the catalogue, as it is shown.
        stores: what is there.
        thumbnails: of each store at most; 0 = none. `MOST_THUMBNAILS` of all together.
        advance: is told of each store that is through.
    Raises:
        RemoteError: the server fails; it is not asked for the other pictures.
    """
    parts = [_HEAD.format(title=f"Stores in {_text(place)}"), f"<h1>Stores in {_text(place)}</h1>\n"]
    parts.append(f"<p>{len(stores)} stores.</p>\n{_table(stores)}")
    left = MOST_THUMBNAILS
    for number, store in enumerate(stores, 1):
        pictures = _pictures(store, min(thumbnails, left))
        left -= len(pictures)
        parts += [f'<h2 id="store-{number}">{_text(store.name)}</h2>\n', _about(store), *pictures]
        advance(1)
    parts.append(f"<p>Depth is coloured by its logarithm, near = bright; black: no value. tiekd-cache {__version__}")
    return "".join([*parts, "</p>\n</body>\n</html>\n"])


def size_text(num_bytes: int) -> str:
    """Bytes in the unit that reads best: `512 B`, `1.5 MB`; powers of 1000."""
    size, units = float(num_bytes), ["B", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{num_bytes} B" if units[0] == "B" else f"{size:.3g} {units[0]}"


def cells(store: ListedStore) -> list[str]:
    """A store's teacher, data set, split, frames, size, fingerprint, maker, date, images: the columns behind its name.

    Without control characters, not escaped.
    """
    schema = store.schema
    if schema is None:
        return ["-", "-", "-", "-", size_text(store.num_bytes), "-", "-", "-", "-"]
    return [
        shown(schema.teacher["name"], 40) + ("" if schema.teacher["trained"] else " (untrained)"),
        shown(schema.dataset["name"], 40),
        shown(schema.dataset["split"], 60),
        f"{store.frames_done}/{schema.num_frames}",
        size_text(store.num_bytes),
        schema.fingerprint[:12],
        shown(store.maker, 30),
        shown(store.date, 10),
        store.images,
    ]


def _text(text: str) -> str:
    return escape(shown(text, 300))


def _table(stores: Sequence[ListedStore]) -> str:
    rows = ["<tr>" + "".join(f"<th>{name}</th>" for name in _COLUMNS) + "</tr>"]
    for number, store in enumerate(stores, 1):
        row = [f'<td><a href="#store-{number}">{_text(store.name)}</a></td>']
        for name, cell in zip(_COLUMNS[1:], cells(store), strict=True):
            kind = ' class="number"' if name in ("frames", "size") else ""
            row.append(f"<td{kind}>{escape(cell)}</td>")
        rows.append(f"<tr>{''.join(row)}</tr>")
    return "<table>\n" + "\n".join(rows) + "\n</table>\n"


def _about(store: ListedStore) -> str:
    problem = "" if store.problem is None else f'<p class="problem">Problem: {_text(store.problem)}</p>\n'
    return f"<p><code>{_text(store.place)}</code></p>\n{problem}"


def _pictures(store: ListedStore, count: int) -> list[str]:
    """Up to `count` figures of depth maps, spread over the finished frames; what cannot be read says why instead."""
    if count < 1 or store.schema is None or not store.frames_done:
        return []
    try:
        opened = open_store(store.place, allow_partial=True)
        frame_ids = opened.frame_ids
    except (TiekdError, *UNREADABLE) as error:
        return [_failure(store, error)]
    number = min(count, len(frame_ids))
    chosen = [(2 * i + 1) * len(frame_ids) // (2 * number) for i in range(number)]
    figures = []
    for position in chosen:
        frame_id = frame_ids[position]
        try:
            picture = depth_thumbnail(opened.native(frame_id), opened.schema.max_depth)
        except (TiekdError, *UNREADABLE) as error:
            figures.append(_failure(store, error))
            continue
        data = base64.b64encode(picture.png).decode()
        caption = _text(frame_id)
        figures.append(
            f'<figure><img src="data:image/png;base64,{data}" width="{picture.width}" height="{picture.height}"'
            f' alt="depth of {caption}"><figcaption>{caption}</figcaption></figure>\n'
        )
    return figures


def _failure(store: ListedStore, error: Exception) -> str:
    if is_server_failing(store.place, error):
        raise error
    return f'<p class="problem">No picture: {_text(str(error))}</p>\n'


def write_page(path: Path, make: Callable[[], str]) -> None:
    """Write the page that `make` gives, in place of one that is there; it is made when the file can be written.

    Raises:
        StoreError: it cannot be written; or as `make`.
    """
    with clear_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(make().encode())
