"""OpenSSH's ed25519 keys, its signatures (`ssh-keygen -Y sign`) and its `allowed_signers` files, without its programs.

`cryptography` does the arithmetic; what is here are OpenSSH's file formats. It is imported where it is needed, as most
users sign nothing.
"""

from tiekd_cache.openssh.keys import PublicKey, SigningKey
from tiekd_cache.openssh.signers import Signers

__all__ = ["PublicKey", "Signers", "SigningKey"]
