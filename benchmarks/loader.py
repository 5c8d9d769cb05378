"""The loader's speed against decoding the pictures alone: `python benchmarks/loader.py [--workers 4]`."""

from __future__ import annotations

import sys

from tiekd_cache.cli import main

if __name__ == "__main__":
    main(["bench", "loader", *sys.argv[1:]])
