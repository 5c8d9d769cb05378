"""The fused head against the released formulas in plain torch: `python benchmarks/dpm_head.py [--device cuda]`."""

from __future__ import annotations

import sys

from tiekd_cache.cli import main

if __name__ == "__main__":
    main(["bench", "head", *sys.argv[1:]])
