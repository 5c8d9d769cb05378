"""Making the shards of a store that are not there yet, beside any other process that does the same.

Whoever knows how to answer frames (a teacher, a folder of files) hands that in; claims, the thread that writes,
waiting for others and the statistics are the same for all.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tiekd_cache.data.frame import DepthMap
from tiekd_cache.errors import StoreError
from tiekd_cache.statistics import ShardStatistics, write_statistics
from tiekd_cache.store import StoreWriter

WAITING_SHARDS = 2
"""Shards that may be written or wait for it while the next one is being answered: what bounds the memory."""


@dataclass(frozen=True)
class Claim:
    """A shard that is ours to make until it is released.

    Attributes:
        shard: its number.
        frame_ids: its frames, in order.
        held: what keeps the others away.
    """

    shard: int
    frame_ids: Sequence[str]
    held: contextlib.ExitStack


Pieces = Generator[tuple[Claim, DepthMap], None, None]
Answer = Callable[[Iterator[Claim]], Pieces]
"""Claims in, pieces [b,h,w] float32 metres at native size out: those of a claim in order of its frames, claims in
order. It may take the next claims before it has answered the first, to read ahead."""

Look = Callable[[int, Sequence[str], DepthMap], ShardStatistics | None]
"""(shard, its frame ids, [n,h,w] metres) -> the shard's statistics, where there are any."""


def frames_to_make(writer: StoreWriter, shards: Sequence[int] | None = None) -> int:
    """Frames of the shards that are not finished now; of all, or of some."""
    order = range(writer.num_shards) if shards is None else shards
    return sum(len(writer.frames_of(shard)) for shard in _missing(writer, order))


def fill_store(
    writer: StoreWriter,
    answer: Answer,
    look: Look,
    *,
    shards: Sequence[int] | None = None,
    wait: bool = True,
    advance: Callable[[int], object] = lambda count: None,
    note: Callable[[str], None] = lambda text: None,
) -> int:
    """Makes every shard that is not finished; returns how many frames this call made.

    A thread takes statistics, encodes, writes and reads back while the next shard is answered.

    Args:
        shards: which, in the order in which they are tried; None makes all of them.
        wait: whether to stay until the shards that other processes are making are there, too.
        advance: is told how many more frames were answered.
        note: takes sentences for the user (what is waited for).
    Raises:
        Whatever `answer`, `look` and `StoreWriter.write_shard` raise; finished shards stay.
    """
    order = range(writer.num_shards) if shards is None else shards
    made = 0
    while todo := _missing(writer, order):
        with _Filling(writer, look) as filling:
            made += filling.run(answer, todo, advance)
        left = _missing(writer, order)
        if not wait:
            break
        if left and len(left) == filling.busy:
            note(f"{len(left)} shards are being made by another process: waiting for it (Ctrl-C is safe).")
            _wait_for_others(writer, order, len(left))
    return made


class _Filling(contextlib.AbstractContextManager["_Filling"]):
    """One pass over shards that are to be made. Leaving it, every claim is released and the thread has ended.

    An error lets the answered shards be written, unless writing is what failed; Ctrl-C, only the one that is being
    written.
    """

    def __init__(self, writer: StoreWriter, look: Look) -> None:
        self.busy = 0
        self._writer, self._look = writer, look
        self._held: dict[int, Claim] = {}
        self._writing: deque[Future[None]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write shard")
        self._refused = False

    def run(self, answer: Answer, shards: Collection[int], advance: Callable[[int], object]) -> int:
        """Makes those of the shards that nobody else makes; returns how many frames they have."""
        made = 0
        pieces: list[DepthMap] = []
        with contextlib.closing(answer(self._claims(shards))) as answered:
            for claim, depth in answered:
                pieces.append(depth)
                advance(len(depth))
                self._raise_errors(all_but=WAITING_SHARDS)
                if sum(map(len, pieces)) == len(claim.frame_ids):
                    self._raise_errors(all_but=WAITING_SHARDS - 1)
                    self._writing.append(self._thread.submit(self._write, claim, pieces))
                    made += len(claim.frame_ids)
                    pieces = []
        self._raise_errors(all_but=0)
        return made

    def _claims(self, shards: Collection[int]) -> Iterator[Claim]:
        for shard in shards:
            held = contextlib.ExitStack()
            if held.enter_context(self._writer.claim(shard)):
                claim = self._held[shard] = Claim(shard, self._writer.frames_of(shard), held)
                yield claim
            else:
                held.close()
                self.busy += not self._writer.is_done(shard)

    def _write(self, claim: Claim, pieces: Sequence[DepthMap]) -> None:
        if self._refused:
            return  # the pass ends with the first refusal: a silent server takes its time over each shard
        depth = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        statistics = self._look(claim.shard, claim.frame_ids, depth)
        try:
            if statistics is not None:
                write_statistics(self._writer.path, statistics)
            self._writer.write_shard(claim.shard, depth)
        except StoreError:
            self._refused = True
            raise
        self._held.pop(claim.shard).held.close()

    def _raise_errors(self, all_but: int) -> None:
        """Raise what went wrong in writing; returns when at most so many shards are still to be written."""
        while self._writing and (len(self._writing) > all_but or self._writing[0].done()):
            self._writing.popleft().result()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        at_once = kind is not None and not issubclass(kind, Exception)
        self._thread.shutdown(wait=True, cancel_futures=at_once)
        for claim in self._held.values():
            claim.held.close()


def _missing(writer: StoreWriter, order: Sequence[int]) -> list[int]:
    todo = set(writer.todo())
    return [shard for shard in order if shard in todo]


def _wait_for_others(writer: StoreWriter, order: Sequence[int], num_missing: int) -> None:
    """Returns when a shard was finished or given up by the process that had claimed it."""
    while len(missing := _missing(writer, order)) == num_missing:
        for shard in missing:
            with writer.claim(shard) as free:
                if free:
                    return
        time.sleep(writer.look_again_s)
