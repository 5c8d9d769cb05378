"""`tiekd-cache teachers`: which teachers there are, how large, how good, and where their weights come from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from tiekd_cache.cli.common import json_option, note, print_table

if TYPE_CHECKING:
    from tiekd_cache.teachers.cards import Card


@click.command()
@json_option
def teachers(as_json: bool) -> None:
    """The teachers, with what is published of them on KITTI (Eigen split) and where to get their weights.

    \b
    Example:
      tiekd-cache teachers
    """
    from tiekd_cache.teachers import TEACHERS
    from tiekd_cache.teachers.cards import CARDS, OWN_CARDS

    cards = {**{name: CARDS[name] for name in CARDS if name in TEACHERS}, **OWN_CARDS}
    if as_json:
        click.echo(json.dumps([{"name": name, **card.to_json()} for name, card in cards.items()], indent=2))
        return
    header = ("teacher", "network", "weights", "M param.", "own size", "abs_rel", "rmse")
    print_table(header, [_row(name, card) for name, card in cards.items()], text_columns=3)
    note(
        "Own size: of its map for an image of 352x1216. Errors: as published with TIE-KD (arXiv 2402.14340); rmse in m."
    )


def _row(name: str, card: Card) -> list[str]:
    return [
        name,
        card.network,
        card.weights,
        "-" if card.parameters is None else f"{card.parameters / 1e6:.1f}",
        "-" if card.native_size is None else "x".join(map(str, card.native_size)),
        "-" if card.abs_rel is None else f"{card.abs_rel:.4f}",
        "-" if card.rmse is None else f"{card.rmse:.4f}",
    ]
