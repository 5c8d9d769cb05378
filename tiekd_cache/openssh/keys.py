"""ed25519 keys as OpenSSH writes them: `~/.ssh/id_ed25519` to sign, `id_ed25519.pub` to check."""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tiekd_cache.errors import ConfigError, first_line
from tiekd_cache.foreign import read_file
from tiekd_cache.openssh.wire import string, strings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_TYPE = "ssh-ed25519"
_MAKE_ONE = "make one with `ssh-keygen -t ed25519`"


@dataclass(frozen=True)
class PublicKey:
    """An ed25519 public key.

    Attributes:
        raw: its 32 bytes.
    """

    raw: bytes

    @classmethod
    def from_blob(cls, blob: bytes) -> PublicKey:
        """The key in OpenSSH's binary form; raises ValueError where it is no ed25519 key."""
        parts = strings(blob)
        if len(parts) != 2 or parts[0] != KEY_TYPE.encode() or len(parts[1]) != 32:
            raise ValueError("no ed25519 key")
        return cls(parts[1])

    @classmethod
    def from_base64(cls, text: str) -> PublicKey:
        """The key in the second word of a line `ssh-ed25519 AAAA…`; raises ValueError where it is none."""
        try:
            return cls.from_blob(base64.b64decode(text, validate=True))
        except binascii.Error as error:
            raise ValueError("no base64") from error

    @property
    def blob(self) -> bytes:
        """OpenSSH's binary form."""
        return string(KEY_TYPE.encode()) + string(self.raw)

    @property
    def fingerprint(self) -> str:
        """`SHA256:…`, as `ssh-keygen -l` shows it."""
        return f"SHA256:{base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip('=')}"

    @property
    def line(self) -> str:
        """`ssh-ed25519 AAAA…`, as in a `.pub` file."""
        return f"{KEY_TYPE} {base64.b64encode(self.blob).decode()}"

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether the signature (64 bytes) of the data was made with the private key of this one.

        Raises:
            ConfigError: cryptography is not installed.
        """
        require_cryptography()
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, data)
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """A private key, for as long as this process needs it; nothing shows or writes it.

    Attributes:
        public: the key that others check with.
    """

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = PublicKey(private.public_key().public_bytes_raw())

    @classmethod
    def load(cls, file: str | Path, passphrase: Callable[[], str]) -> SigningKey:
        """The key in a file that `ssh-keygen -t ed25519` made.

        Args:
            file: the private one, `~` allowed.
            passphrase: is asked where the key has one.
        Raises:
            ConfigError: the file cannot be read or holds no ed25519 private key, the passphrase is wrong, or
                cryptography is not installed.
        """
        require_cryptography()
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_ssh_private_key

        path = Path(file).expanduser()
        try:
            data = read_file(path)
        except OSError as error:
            raise ConfigError(
                f"The key {path} cannot be read: {error.strerror or error}. Check the path, or {_MAKE_ONE}."
            ) from None
        if data.startswith((b"ssh-", b"ecdsa-", b"sk-")):
            raise ConfigError(f"{path} is a public key: signing takes the private one, its name without .pub.")
        try:
            try:
                key = load_ssh_private_key(data, None)
            except TypeError:  # it has a passphrase
                if importlib.util.find_spec("bcrypt") is None:
                    raise _not_installed("The passphrase of a key needs bcrypt") from None
                key = load_ssh_private_key(data, passphrase().encode())
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(
                f"{path} cannot be used ({first_line(error)}): the passphrase is wrong, or it is no ed25519 private key"
                f" of OpenSSH; only those sign, {_MAKE_ONE}."
            ) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{path} is a key of another kind than ed25519: only those sign, {_MAKE_ONE}.")
        return cls(key)

    def sign(self, data: bytes) -> bytes:
        """The signature of the data, 64 bytes; the same each time."""
        return self._private.sign(data)


def require_cryptography() -> None:
    """Raise ConfigError where cryptography is not installed."""
    if importlib.util.find_spec("cryptography") is None:
        raise _not_installed("Signatures need cryptography")


def _not_installed(what: str) -> ConfigError:
    return ConfigError(f"{what}: pip install 'tiekd-cache[sign]'")
