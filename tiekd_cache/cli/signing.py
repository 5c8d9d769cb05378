"""`tiekd-cache sign`, and the options of other commands that sign a store or ask who signed it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tiekd_cache.cli.common import Command, json_option, named_store, note, only_store, print_result
from tiekd_cache.errors import ConfigError
from tiekd_cache.progress import progress_bar

if TYPE_CHECKING:
    from tiekd_cache.openssh import Signers, SigningKey
    from tiekd_cache.store.signing import SignReport


def trust_option(command: Command) -> Command:
    """--trust."""
    return click.option(
        "--trust",
        "trust_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Refuse what was not signed by one of these: an OpenSSH allowed_signers file, or a public key.",
    )(command)


def read_signers(trust_file: Path | None) -> Signers | None:
    """The signers in the file that --trust names; None where it is not given; raises ConfigError as `Signers.read`."""
    from tiekd_cache.openssh import Signers

    return None if trust_file is None else Signers.read(trust_file)


def sign_option(help_text: str) -> Callable[[Command], Command]:
    """--sign."""
    return click.option("--sign", "key_file", type=click.Path(path_type=Path), metavar="KEY", help=help_text)


def load_key(file: Path) -> SigningKey:
    """The key in a file; asks for its passphrase where it has one.

    Raises:
        ConfigError: it cannot be used, or there is no terminal to ask at.
    """
    from tiekd_cache.openssh import SigningKey

    def passphrase() -> str:
        if not sys.stdin.isatty():
            raise ConfigError(f"The key {file} has a passphrase, and there is no terminal to ask for it: sign later.")
        return str(click.prompt(f"Passphrase of {file}", hide_input=True, err=True))

    return SigningKey.load(file, passphrase)


def sign_and_tell(store: str | Path, key: SigningKey) -> SignReport:
    """Sign a store; says how much of it is signed and with which key."""
    from tiekd_cache.store.signing import sign_store

    report = sign_store(store, key, progress_bar)
    images = f" and {report.images} of {report.store_frames} images" if report.images else ""
    note(f"Signed with {report.key.fingerprint}: {report.frames} of {report.store_frames} responses{images}")
    if report.frames < report.store_frames or 0 < report.images < report.store_frames:
        note("The signature does not hold for what is added later: sign again when the store is finished.")
    return report


@click.command()
@click.argument("store", type=named_store, required=False)
@click.option(
    "--key",
    "key_file",
    type=click.Path(path_type=Path),
    default="~/.ssh/id_ed25519",
    show_default=True,
    help="An ed25519 private key of OpenSSH.",
)
@json_option
def sign(store: str | Path | None, key_file: Path, as_json: bool) -> None:
    """Sign a store, so that others can be sure who answers for it: they ask with --trust.

    Everything in it is verified first, and named in the signature by digest. It holds for the shards that are there
    now. Moving the store by push, pull, rsync or zip does no harm to it.

    \b
    Examples:
      tiekd-cache sign stores/bts.zarr
      tiekd-cache sign stores/bts.zarr --key ~/.ssh/id_work
    """
    path = store if store is not None else only_store()
    report = sign_and_tell(path, load_key(key_file))
    print_result(
        {
            "store": str(report.store),
            "responses": report.frames,
            "responses_when_finished": report.store_frames,
            "images": report.images,
            "key": report.key.fingerprint,
            "public_key": report.key.line,
        },
        as_json,
    )
