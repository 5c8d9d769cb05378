"""A training step of three ways, teacher online among them: `python benchmarks/distill_step.py [--device cuda]`."""

from __future__ import annotations

import sys

from tiekd_cache.cli import main

if __name__ == "__main__":
    main(["bench", "step", *sys.argv[1:]])
