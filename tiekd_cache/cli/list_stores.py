"""`tiekd-cache list`: which stores there are in a folder or bucket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tiekd_cache.cli.common import json_option, named_store, note, print_table
from tiekd_cache.cli.signing import read_signers
from tiekd_cache.foreign import shown
from tiekd_cache.progress import progress_bar

if TYPE_CHECKING:
    from tiekd_cache.openssh import Signers
    from tiekd_cache.store_list import ListedStore

_HEADER = ("store", "teacher", "data set", "split", "fingerprint", "maker", "date", "images", "frames", "size")


@click.command("list")
@click.argument("place", type=named_store, metavar="[FOLDER|URL]", default="stores")
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also write a static page with pictures.",
)
@click.option(
    "--thumbnails",
    type=click.IntRange(0, 50),
    default=3,
    show_default=True,
    help="Pictures of each store on the page; 200 of all together.",
)
@click.option(
    "--trust",
    "trust_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also say which of these signed each store: an OpenSSH allowed_signers file, or a public key.",
)
@json_option
def list_command(place: str | Path, html: Path | None, thumbnails: int, trust_file: Path | None, as_json: bool) -> None:
    """The stores in a folder or bucket, and in its folders: teacher, data, how much is done, who made it when.

    What is no store is passed over; a damaged store is listed with what is wrong. Reads the attributes of each store
    and the sizes of its files; `verify` reads all of one. With --trust it says who signed each.

    \b
    Examples:
      tiekd-cache list
      tiekd-cache list /mnt/team/stores --html /mnt/team/stores/index.html
      tiekd-cache list s3://team/stores --json
      tiekd-cache list s3://team/stores --trust allowed_signers
    """
    from tiekd_cache.store.objects import open_objects
    from tiekd_cache.store_list import list_stores
    from tiekd_cache.store_page import cells, store_page, write_page

    trust = read_signers(trust_file)
    stores = list_stores(place)
    where = shown(str(place) if isinstance(place, Path) else open_objects(place).url, 300)
    signers = None if trust is None else [_signer(store, trust) for store in stores]
    if as_json:
        facts = [store.to_json() for store in stores]
        if signers is not None:
            facts = [{**one, "signer": signer} for one, signer in zip(facts, signers, strict=True)]
        click.echo(json.dumps(facts, indent=2))
    elif stores:
        rows = []
        for number, store in enumerate(stores):
            teacher, data, split, frames, size, *rest = cells(store)
            signer = [] if signers is None else [signers[number] or "-"]
            rows.append([shown(store.name), *signer, teacher, data, split, *rest, frames, size])
        header = _HEADER if signers is None else (_HEADER[0], "signed by", *_HEADER[1:])
        print_table(header, rows, text_columns=len(header) - 2)
    else:
        note(f"No store in {where}, nor in its folders.")
    for store in stores:
        if store.problem is not None:
            note(f"Problem: {shown(store.name)}: {store.problem}")
    if html is not None:
        with progress_bar(len(stores), "page", "store") as bar:
            write_page(html, lambda: store_page(where, stores, thumbnails=thumbnails, advance=bar.update))
        note(f"Page: {html}")


def _signer(store: ListedStore, trust: Signers) -> str | None:
    """The name of who signed a store; None, and the reason on stderr, where it is not trusted.

    Raises:
        RemoteError: the server fails.
    """
    from tiekd_cache.errors import StoreError
    from tiekd_cache.store_list import UNREADABLE, is_server_failing, signer_of

    try:
        return signer_of(store.place, trust)
    except (StoreError, *UNREADABLE) as error:
        if is_server_failing(store.place, error):
            raise
        note(f"Not trusted: {shown(store.name)}: {shown(str(error), 300)}")
        return None
