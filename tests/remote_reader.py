"""Run as a program: read frames of the store at a URL and say as JSON what came of it."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Sequence

from tiekd_cache.errors import TiekdError
from tiekd_cache.store import open_store
from tiekd_cache.store.kernels import kernels


def answers(place: str, positions: Sequence[int] = (), into: dict[str, str] | None = None) -> dict[str, str]:
    """sha256 of the depth of all frames, or of those at `positions`, by frame id; raises what reading raises."""
    found = {} if into is None else into
    store = open_store(place)
    for i in positions or range(len(store)):
        frame_id = store.frame_ids[i]
        found[frame_id] = hashlib.sha256(store[frame_id].tobytes()).hexdigest()
    return found


def main(place: str, positions: Sequence[int]) -> None:
    """Print the `answers` until the first error, the error or null, and the seconds that it took."""
    kernels()  # compiled before the clock runs
    started = time.monotonic()
    found: dict[str, str] = {}
    error = None
    try:
        answers(place, positions, found)
    except TiekdError as caught:
        error = str(caught)
    print(json.dumps({"answers": found, "error": error, "seconds": time.monotonic() - started}))


if __name__ == "__main__":
    main(sys.argv[1], [int(word) for word in sys.argv[2:]])
