"""Claiming shards in a bucket: objects that are put where there are none, and count while their holder lives.

No bucket notices that a process has died. So whoever holds claims shows in one more object, again and again, that it
is alive; a holder that has not done so for `LEASE_S`, or whose process is known to have ended, holds nothing any
more. Claims spare work and guard nothing: a holder that was cut off for longer than that may find its shard made
twice, and since shards are put where there are none, that costs time only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator

from tiekd_cache.errors import StoreError
from tiekd_cache.foreign import parse_json
from tiekd_cache.processes import is_alive, process_space
from tiekd_cache.store.objects import MissingObject, Objects, OversizedObject

BEAT_S = 15.0
"""How often a holder shows that it is alive."""

LEASE_S = 120.0
"""A holder that has not shown it for so long is dead; one request may take half of it, made again and again."""

LOOK_S = 1.0
"""Between two looks at a holder of which it is not known whether it is alive."""

_LIVING: set[str] = set()
"""Holders that are of this process."""

_LARGEST_BYTES = 4096
_HOLDER = re.compile(r"[0-9a-f]{16}")
_OF_A_SHARD = re.compile(r"(\d{5,})[.-]")


class BucketClaims:
    """One process's claims on the shards of a store, or of its images. Threads share it.

    Args:
        objects: of the store.
        folder: key of the folder that the claims are in.
        note: takes a sentence for the user, where it takes long to see whether a holder is alive.
    """

    def __init__(self, objects: Objects, folder: str, note: Callable[[str], None] = lambda text: None) -> None:
        self._objects, self._folder, self._note = objects, folder, note
        self._own = secrets.token_hex(8)
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._beats = 0
        self._seen: dict[str, tuple[bytes, float, bool]] = {}
        self._answers = True

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Yields True where what this key stands for is ours until the block ends.

        Raises:
            StoreError: the bucket cannot be read or written.
        """
        mine = self._take(key)
        try:
            yield mine
        finally:
            if mine:
                self._remove(key)
                self._let_go(key)

    def tidy(self, done: Collection[int]) -> None:
        """Remove what dead processes left: claims on these shards, which are finished, and their signs of life."""
        with contextlib.suppress(StoreError):  # it is in nobody's way
            for key, _ in self._objects.list(self._folder):
                name = key.rpartition("/")[2]
                shard = _OF_A_SHARD.match(name)
                ended = name.endswith(".alive") and _process_lives(name[:-6], self._read(key) or b"") is False
                if ended or (shard is not None and int(shard[1]) in done):
                    self._objects.delete(key)

    def _take(self, key: str) -> bool:
        while (holder := self._read(key)) is not None:
            lives = self._lives(holder.decode("ascii", "replace"), key)
            if lives:
                return False
            if lives is False:
                break
            time.sleep(LOOK_S)
        if not self._hold(key):
            return False
        taken = False
        try:
            taken = self._objects.put(key, self._own.encode(), if_absent=holder is None)
        finally:
            if not taken:
                self._let_go(key)
        return taken

    def _lives(self, holder: str, key: str) -> bool | None:
        """Whether the holder of a claim is alive; None where it has to be looked at again."""
        if holder == self._own:
            return key in self._held
        said = self._read(self._sign_of(holder)) if _HOLDER.fullmatch(holder) else None
        if said is None:
            return False  # it has ended, or somebody found it dead
        known, now = _process_lives(holder, said), time.monotonic()
        if known is None and holder not in self._seen:
            self._note(f"Waiting up to {LEASE_S:.0f} s for a sign of life from the process that holds {key}.")
        before, since, changed = self._seen.get(holder, (said, now, False))
        if said != before:
            since, changed = now, True
        self._seen[holder] = (said, since, changed)
        silent = now - since > LEASE_S  # where its process seems to live, the number may be another one's by now
        lives = False if known is False or silent else known or changed or None
        if lives is False:
            self._remove(self._sign_of(holder))
        return lives

    def _hold(self, key: str) -> bool:
        """Show that we are alive, and go on doing so while we hold anything; False where another thread has the key."""
        with self._lock:
            if key in self._held:
                return False
            if not self._held:
                _LIVING.add(self._own)
                try:
                    self._show_life()
                except StoreError:
                    _LIVING.discard(self._own)
                    raise
                self._end = threading.Event()
                self._thread = threading.Thread(target=self._beat, args=(self._end,), name="show life", daemon=True)
                self._thread.start()
            self._held.add(key)
        return True

    def _let_go(self, key: str) -> None:
        with self._lock:
            self._held.discard(key)
            if not self._held and self._thread is not None:
                self._end.set()
                self._thread.join()
                self._thread = None
                self._remove(self._sign_of(self._own))
                _LIVING.discard(self._own)

    def _beat(self, end: threading.Event) -> None:
        while not end.wait(BEAT_S):
            with contextlib.suppress(StoreError):  # whoever writes a shard will say so
                self._show_life()

    def _show_life(self) -> None:
        self._beats += 1
        said = {"where": process_space(), "pid": os.getpid(), "beats": self._beats}
        self._objects.put(self._sign_of(self._own), json.dumps(said).encode())
        self._answers = True

    def _sign_of(self, holder: str) -> str:
        return f"{self._folder}/{holder}.alive"

    def _remove(self, key: str) -> None:
        """Remove an object, if that can be done: where it stays, nobody waits longer than `LEASE_S` for us."""
        if self._answers:
            try:
                self._objects.delete(key)
            except StoreError:
                self._answers = False  # each try takes ten seconds where there is no answer, and there are several

    def _read(self, key: str) -> bytes | None:
        """A small object; None where there is none, nothing where it is no small one."""
        try:
            return self._objects.get(key, _LARGEST_BYTES)
        except MissingObject:
            return None
        except OversizedObject:
            return b""


def _process_lives(holder: str, said: bytes) -> bool | None:
    """Whether the process of a holder, as its sign of life names it, lives; None where it cannot be asked from here."""
    try:
        document = parse_json(said)
        where, pid = document["where"], document["pid"]
    except (ValueError, KeyError, TypeError):
        return None
    if where != process_space() or type(pid) is not int or not 0 < pid < 2**31:
        return None
    return holder in _LIVING if pid == os.getpid() else is_alive(pid)
