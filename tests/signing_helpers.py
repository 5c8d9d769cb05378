"""Keys for tests, made here, and those who trust them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tiekd_cache.openssh import Signers, SigningKey

needs_bcrypt = pytest.mark.skipif(
    importlib.util.find_spec("bcrypt") is None, reason="bcrypt is not installed: keys have no passphrase without it"
)


def write_key(file: Path, name: str = "ann@lab", passphrase: str = "") -> SigningKey:
    """A new key as `ssh-keygen -t ed25519 -f FILE` writes it: the private one, and the public one as FILE.pub."""
    serialization = pytest.importorskip(
        "cryptography.hazmat.primitives.serialization", reason="cryptography is not installed"
    )
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    encryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    form = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, encryption
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(private.private_bytes(*form))
    file.chmod(0o600)  # ssh-keygen refuses others
    key = SigningKey(private)
    file.with_name(f"{file.name}.pub").write_text(f"{key.public.line} {name}\n")
    return key


def signers(file: Path, **keys: SigningKey) -> Signers:
    """An allowed_signers file with these keys by name, read."""
    file.write_text("".join(f"{name}@lab {key.public.line}\n" for name, key in keys.items()))
    return Signers.read(file)
