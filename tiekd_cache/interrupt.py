"""Ctrl-C (and SIGTERM, as schedulers send it) between steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

INTERRUPTED = 130
"""What a process ends with that was asked to stop: 128 + SIGINT, as shells count."""

INTERRUPTED_NOTE = "Interrupted. What was finished is kept; the same command goes on from there."
"""What it says then, unless its stage knows better."""


class StopRequest:
    """While entered, the first SIGINT or SIGTERM only sets `requested`; the second one interrupts at once.

    Outside the main thread, where Python allows no signal handlers, it never becomes requested.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


def ignore_interrupts(worker: int) -> None:
    """For loader processes: a Ctrl-C reaches them too, but stopping is their parent's decision."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
