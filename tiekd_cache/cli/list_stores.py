"""`tiekd-cache list`: which stores there are in a folder or bucket."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tiekd_cache.cli.common import json_option, named_store, note, print_table
from tiekd_cache.foreign import shown
from tiekd_cache.progress import progress_bar

_HEADER = ("store", "teacher", "data set", "split", "fingerprint", "maker", "date", "images", "frames", "size")


@click.command("list")
@click.argument("place", type=named_store, metavar="[FOLDER|URL]", default="stores")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Also write a static page with pictures.")
@click.option(
    "--thumbnails",
    type=click.IntRange(0, 50),
    default=3,
    show_default=True,
    help="Pictures of each store on the page; 200 of all together.",
)
@json_option
def list_command(place: str | Path, html: Path | None, thumbnails: int, as_json: bool) -> None:
    """The stores in a folder or bucket, and in its folders: teacher, data, how much is done, who made it when.

    What is no store is passed over; a damaged store is listed with what is wrong. Reads the attributes of each store
    and the sizes of its files; `verify` reads all of one.

    \b
    Examples:
      tiekd-cache list
      tiekd-cache list /mnt/team/stores --html /mnt/team/stores/index.html
      tiekd-cache list s3://team/stores --json
    """
    from tiekd_cache.store.objects import open_objects
    from tiekd_cache.store_list import list_stores
    from tiekd_cache.store_page import cells, store_page, write_page

    stores = list_stores(place)
    where = shown(str(place) if isinstance(place, Path) else open_objects(place).url, 300)
    if as_json:
        click.echo(json.dumps([store.to_json() for store in stores], indent=2))
    elif stores:
        rows = []
        for store in stores:
            teacher, data, split, frames, size, *rest = cells(store)
            rows.append([shown(store.name), teacher, data, split, *rest, frames, size])
        print_table(_HEADER, rows, text_columns=8)
    else:
        note(f"No store in {where}, nor in its folders.")
    for store in stores:
        if store.problem is not None:
            note(f"Damaged: {shown(store.name)}: {store.problem}")
    if html is not None:
        with progress_bar(len(stores), "page", "store") as bar:
            page = store_page(where, stores, thumbnails=thumbnails, advance=bar.update)
        write_page(html, page)
        note(f"Page: {html}")
