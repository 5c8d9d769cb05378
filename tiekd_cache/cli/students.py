"""`tiekd-cache students`: which students there are, what they cost, and how good the published ones are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from tiekd_cache.cli.common import json_option, note, parse_size, print_table

if TYPE_CHECKING:
    from tiekd_cache.students.cards import Card


@click.command()
@click.option("--student", metavar="NAME", help="Only this one: a name of the table, or timm:NAME.")
@click.option("--decoder", help="Its decoder, densedepth or slim.  [default: densedepth]")
@click.option("--output", help="What it answers with, dpm or depth.  [default: dpm]")
@click.option("--decoder-width", type=float, help="Scales the decoder's channels.  [default: 1.0]")
@click.option("--size", default="352x1216", show_default=True, help="Image that GMAC are for, HEIGHTxWIDTH.")
@json_option
def students(
    student: str | None,
    decoder: str | None,
    output: str | None,
    decoder_width: float | None,
    size: str,
    as_json: bool,
) -> None:
    """The students: parameters, cost of an image, and the errors published on KITTI (Eigen split).

    \b
    Examples:
      tiekd-cache students
      tiekd-cache students --student timm:convnext_tiny --decoder slim
    """
    if student is None and (decoder, output, decoder_width) != (None, None, None):
        raise click.UsageError("--decoder, --output and --decoder-width describe one student: add --student NAME.")
    image_size = parse_size(size)
    from tiekd_cache.students.cards import LEARNT_FROM, LISTED, make_card

    if student is None:
        cards = [make_card(*choice, image_size=image_size) for choice in LISTED]
    else:
        width = 1.0 if decoder_width is None else decoder_width
        cards = [
            make_card(student, decoder or "densedepth", output or "dpm", decoder_width=width, image_size=image_size)
        ]
    if as_json:
        click.echo(json.dumps([card.to_json() for card in cards], indent=2))
        return
    print_table(
        ("student", "decoder", "output", "M param.", "GMAC", *LEARNT_FROM),
        [_row(card, LEARNT_FROM) for card in cards],
        text_columns=3,
    )
    note(
        f"GMAC: for an image of {size}. Last columns: abs_rel / rmse in m as published with TIE-KD (arXiv 2402.14340), "
        "by what the student learnt from. Any backbone of timm is a student, as timm:NAME."
    )


def _row(card: Card, columns: tuple[str, ...]) -> list[str]:
    errors = [card.errors.get(column) for column in columns]
    return [
        card.name,
        card.decoder,
        card.output,
        f"{card.parameters / 1e6:.1f}",
        f"{card.gmac:.1f}",
        *("-" if error is None else f"{error.abs_rel:.4f} / {error.rmse:.4f}" for error in errors),
    ]
