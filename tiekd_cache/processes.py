"""Whether another process lives, and where its number means something."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def is_alive(pid: int) -> bool:
    """Whether there is a process with this number here."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True


def process_space() -> str:
    """Names those processes that this one can ask for by number: the same text means that `is_alive` can be asked.

    On Linux this start of this machine, and the namespace of its process numbers, which containers have of their own;
    elsewhere the machine's name.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except (OSError, ValueError):
        return socket.gethostname()
