"""The command line as a program: `tiekd-cache`, or `python -m tiekd_cache`, e.g. under torchrun."""

from __future__ import annotations

import sys

from tiekd_cache.interrupt import INTERRUPTED


def start() -> None:
    """Run the command line. Ctrl-C while it is still being loaded ends as it does later: one line, exit 130."""
    try:
        from tiekd_cache.cli import main

        main(prog_name="tiekd-cache")
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    start()
