"""Stage one's speed against the network alone: `python benchmarks/precompute.py [--device cuda --precision bf16]`."""

from __future__ import annotations

import sys

from tiekd_cache.cli import main

if __name__ == "__main__":
    main(["bench", "precompute", *sys.argv[1:]])
