"""A store's signature: one text file that names every file of the store with its sha256, signed as OpenSSH does.

The files of shards are not named: a shard's sha256 stands in its done-record, which is. `Signed` is what a reader
compares with, once the signature was found to be by somebody who is trusted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tiekd_cache.errors import StoreError, TrustError
from tiekd_cache.foreign import parse_json
from tiekd_cache.openssh import PublicKey, Signers, SigningKey, sshsig
from tiekd_cache.store.chunks import Damage, NotAsSigned
from tiekd_cache.store.whole import read_whole, unless_absent

FILE = "signature"
NAMESPACE = "tiekd-cache"
SIGNATURE_FORMAT = "tiekd-cache-signature/1"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")


@dataclass(frozen=True)
class Manifest:
    """What is signed.

    Attributes:
        signed_at: UTC, ISO 8601, as its signer says.
        files: sha256 (hex) of each file, by its path in the store, with `/`.
    """

    signed_at: str
    files: Mapping[str, str]

    @classmethod
    def now(cls, files: Mapping[str, str]) -> Manifest:
        """The manifest of these files, signed at this moment."""
        return cls(datetime.now(UTC).isoformat(timespec="seconds"), files)

    def to_bytes(self) -> bytes:
        """The text that is signed: JSON with a file a line."""
        document = {
            "format": SIGNATURE_FORMAT,
            "signed_at": self.signed_at,
            "files": dict(sorted(self.files.items())),
        }
        return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """The manifest in a text; raises Damage where it is none of this format."""
        try:
            document: Any = parse_json(data)
        except ValueError as error:
            raise Damage("what it signs is no JSON") from error
        if not isinstance(document, dict) or document.get("format") != SIGNATURE_FORMAT:
            raise Damage(f"it is not of the format {SIGNATURE_FORMAT!r}")
        signed_at, files = document.get("signed_at"), document.get("files")
        if not isinstance(files, dict) or not all(_is(_SHA256, digest) for digest in files.values()):
            raise Damage("what it signs lacks digests, or has some that are no sha256")
        if not _is(_TIME, signed_at):
            raise Damage("what it signs does not say when")
        return cls(str(signed_at), files)

    def lacks(self, digests: Mapping[str, str]) -> str | None:
        """The first of some files, given by name with their sha256, that is not in it as it is; None where all are."""
        return next((name for name, digest in digests.items() if self.files.get(name) != digest), None)

    def check(self, name: str, data: bytes) -> None:
        """Raise NotAsSigned unless the data are those of the file with this name."""
        if name not in self.files:
            raise NotAsSigned("the file is none of those that were signed")
        if hashlib.sha256(data).hexdigest() != self.files[name]:
            raise NotAsSigned("the file is not the one that was signed: it was changed since, or is another store's")


@dataclass(frozen=True)
class StoreSignature:
    """The signature file of a store, in its parts; nothing of it is checked yet.

    Attributes:
        message: the text that is signed.
        armored: the signature, `-----BEGIN SSH SIGNATURE-----` and so on.
        manifest: what the text says.
        key: the public key that it says it was signed with.
    """

    message: bytes
    armored: bytes
    manifest: Manifest
    key: PublicKey

    @classmethod
    def make(cls, manifest: Manifest, key: SigningKey) -> StoreSignature:
        """The signature of a manifest."""
        message = manifest.to_bytes()
        return cls(message, sshsig.sign(message, key, NAMESPACE), manifest, key.public)

    @classmethod
    def from_bytes(cls, data: bytes) -> StoreSignature:
        """The parts of a signature file; raises Damage where it is none."""
        message, begin, rest = data.partition(sshsig.BEGIN)
        try:
            key = sshsig.signer(begin + rest, NAMESPACE)
        except ValueError as error:
            raise Damage(str(error)) from error
        return cls(message, begin + rest, Manifest.from_bytes(message), key)

    def to_bytes(self) -> bytes:
        """The file: the text that is signed, then the signature."""
        return self.message + self.armored


@dataclass(frozen=True)
class Signed:
    """What somebody who is trusted has signed: what is read of the store must be that.

    Attributes:
        signer: the name that the trusted signers have for the key.
        key: its fingerprint, `SHA256:…`.
        manifest: the files.
    """

    signer: str
    key: str
    manifest: Manifest

    def require_names(self, store: Path, names: Iterable[str]) -> None:
        """Raise TrustError where the store has files of finished shards that were not signed."""
        added = sorted(set(names) - self.manifest.files.keys())
        if added:
            raise TrustError(
                f"Store {store} has {len(added)} finished shards (the first: {added[0]}) that {self.signer} has not"
                f" signed: they were added after {self.manifest.signed_at}. Whoever answers for them signs the store"
                " again with `tiekd-cache sign`; or leave --trust out."
            )

    def to_json(self) -> dict[str, str]:
        """Who signed it, with which key, and when, as JSON values."""
        return {"signer": self.signer, "key": self.key, "signed_at": self.manifest.signed_at}


def _is(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def read_signature(store: Path) -> StoreSignature | None:
    """The signature of a store, unchecked; None where it has none.

    Args:
        store: what `store_path` gives.
    Raises:
        Damage: it cannot be read, or is none.
        RemoteError: no answer, or no permission.
    """
    file = store / FILE
    data = unless_absent(store, file, lambda: read_whole(file, store))
    return None if data is None else StoreSignature.from_bytes(data)


Trust = Signers | Signed
"""Who is trusted; or what was found to be signed by them, which a store is then held to without looking again."""


def signed_by(store: Path, trust: Trust | None) -> Signed | None:
    """As `require_signed`; None where nobody asks who signed it."""
    return None if trust is None else require_signed(store, trust)


def require_signed(store: Path, trust: Trust) -> Signed:
    """What a trusted signer has signed of a store, which is not compared with it yet.

    Args:
        store: what `store_path` gives.
        trust: who is trusted.
    Raises:
        TrustError: it is not signed, by none of these, or the signature was changed.
        StoreError: there is no store.
        ConfigError: cryptography is not installed.
        RemoteError: no answer, or no permission.
    """
    if isinstance(trust, Signed):
        return trust
    file = store / FILE
    try:
        found = read_signature(store)
        if found is None:
            if not (store / "zarr.json").is_file():
                raise StoreError(f"There is no store at {store}: check the path")
            raise TrustError(
                f"Store {store} is not signed: it has no file {FILE}. Whoever made it signs it with `tiekd-cache sign`;"
                " or leave --trust out."
            )
        name = trust.name_of(found.key, NAMESPACE)
        if name is None:
            raise TrustError(
                f"Store {store} is signed with the key {found.key.fingerprint}, which {trust.source} does not trust"
                f" for {NAMESPACE}. Find out whose it is before you add it; or leave --trust out."
            )
        if not sshsig.is_signed(found.message, found.armored, NAMESPACE):
            raise Damage(f"{name} has not signed this: it was changed since, or is forged")
    except Damage as damage:
        raise TrustError(f"The signature of store {store} does not hold: {damage} ({file}). Do not use it.") from damage
    return Signed(name, found.key.fingerprint, found.manifest)
