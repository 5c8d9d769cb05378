"""Signatures in the form of `ssh-keygen -Y sign` (OpenSSH's PROTOCOL.sshsig), made and checked without it.

Only one spelling of a signature is taken, the one that ssh-keygen writes: ed25519, sha512, 70 characters a line.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from tiekd_cache.openssh.keys import KEY_TYPE, PublicKey, SigningKey
from tiekd_cache.openssh.wire import string, strings

BEGIN = b"-----BEGIN SSH SIGNATURE-----\n"
_END = b"-----END SSH SIGNATURE-----\n"
_MAGIC = b"SSHSIG"
_VERSION = (1).to_bytes(4, "big")
_HASH = b"sha512"
_LINE = 70
_LONGEST = 4096
"""Bytes of the lines of text; an ed25519 signature has a tenth of it."""


def sign(message: bytes, key: SigningKey, namespace: str) -> bytes:
    """The signature of a message as lines of text, `-----BEGIN SSH SIGNATURE-----` first.

    Args:
        namespace: what the signature is for; it holds for nothing else.
    """
    return _armored(key.public, key.sign(_signed_data(message, namespace)), namespace)


def signer(armored: bytes, namespace: str) -> PublicKey:
    """The key that a signature says it was made with; nothing is checked but its form.

    Raises:
        ValueError: it is not such a signature, or one for another namespace.
    """
    return _parse(armored, namespace)[0]


def is_signed(message: bytes, armored: bytes, namespace: str) -> bool:
    """Whether a signature is that of the message, by the key that `signer` gives; raises ValueError as that."""
    key, signature = _parse(armored, namespace)
    return key.verifies(signature, _signed_data(message, namespace))


def _signed_data(message: bytes, namespace: str) -> bytes:
    fields = (namespace.encode(), b"", _HASH, hashlib.sha512(message).digest())
    return _MAGIC + b"".join(map(string, fields))


def _armored(key: PublicKey, signature: bytes, namespace: str) -> bytes:
    inner = string(KEY_TYPE.encode()) + string(signature)
    fields = (key.blob, namespace.encode(), b"", _HASH, inner)
    text = base64.b64encode(_MAGIC + _VERSION + b"".join(map(string, fields)))
    lines = (text[start : start + _LINE] + b"\n" for start in range(0, len(text), _LINE))
    return BEGIN + b"".join(lines) + _END


def _parse(armored: bytes, namespace: str) -> tuple[PublicKey, bytes]:
    """(key, signature of 64 bytes); raises ValueError."""
    if len(armored) > _LONGEST:
        raise ValueError("it is no SSH signature")
    body = armored.removeprefix(BEGIN).removesuffix(_END)
    try:
        blob = base64.b64decode(body.replace(b"\n", b""), validate=True)
    except binascii.Error as error:
        raise ValueError("it is no SSH signature") from error
    if not blob.startswith(_MAGIC + _VERSION):
        raise ValueError("it is no SSH signature")
    fields = strings(blob[len(_MAGIC + _VERSION) :])
    if len(fields) != 5:
        raise ValueError("it is no SSH signature")
    key, signature = PublicKey.from_blob(fields[0]), strings(fields[4])
    if fields[1] != namespace.encode():
        raise ValueError(f"it was made for another purpose than {namespace!r}")
    if len(signature) != 2 or len(signature[1]) != 64 or _armored(key, signature[1], namespace) != armored:
        raise ValueError("it is not spelled as ssh-keygen does, or is no ed25519 signature with sha512")
    return key, signature[1]
