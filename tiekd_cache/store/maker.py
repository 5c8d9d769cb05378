"""Who makes a store: a name that colleagues can ask."""

from __future__ import annotations

import getpass
import os


def maker_name() -> str:
    """$TIEKD_MAKER, else the login name, else `unknown` (a container without users)."""
    try:
        return os.environ.get("TIEKD_MAKER") or getpass.getuser()
    except (OSError, KeyError, ImportError):  # which one depends on Python's version and on the system
        return "unknown"
