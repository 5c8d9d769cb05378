"""Bytes and times of the store against PNG, HDF5 and plain Blosc: `python benchmarks/store.py [--maps FILE.npz]`."""

from __future__ import annotations

import sys

from tiekd_cache.cli import main

if __name__ == "__main__":
    main(["bench", "store", *sys.argv[1:]])
