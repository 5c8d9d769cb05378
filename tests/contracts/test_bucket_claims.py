"""Claims in a bucket: one holder at a time, none outlives its process for long, and none is needed for safety."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from memory_objects import MemoryObjects

from tiekd_cache.errors import StoreError
from tiekd_cache.store import bucket_claims
from tiekd_cache.store.bucket_claims import BucketClaims

KEY, OTHER = "claims/00003.lock", "claims/00004.lock"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def bucket() -> MemoryObjects:
    return MemoryObjects()


def claims_of(bucket: MemoryObjects, notes: list[str] | None = None) -> BucketClaims:
    return BucketClaims(bucket, "claims", lambda text: None if notes is None else notes.append(text))


def held_elsewhere(bucket: MemoryObjects, where: str = "another machine", pid: int = 1, key: str = KEY) -> str:
    """Let another process hold the key; returns the key of its sign of life."""
    holder = f"{len(bucket.content):016x}"
    bucket.content[key] = holder.encode()
    sign = f"claims/{holder}.alive"
    bucket.content[sign] = json.dumps({"where": where, "pid": pid, "beats": 1}).encode()
    return sign


def test_a_claim_is_exclusive_and_leaves_nothing(bucket: MemoryObjects) -> None:
    first, second = claims_of(bucket), claims_of(bucket)
    with first.claim(KEY) as mine, second.claim(KEY) as theirs, second.claim(OTHER) as another:
        assert (mine, theirs, another) == (True, False, True)
        with first.claim(KEY) as again:
            assert not again
    assert bucket.content == {}
    with pytest.raises(ZeroDivisionError), first.claim(KEY):
        raise ZeroDivisionError
    assert bucket.content == {}
    with second.claim(KEY) as mine:
        assert mine
    assert not [thread for thread in threading.enumerate() if thread.name == "show life"]


def test_of_many_that_claim_at_once_one_gets_it(bucket: MemoryObjects) -> None:
    start, end = threading.Barrier(8, timeout=20), threading.Barrier(8, timeout=20)
    got: list[bool] = []
    shared = claims_of(bucket)

    def work(claims: BucketClaims) -> None:
        start.wait()
        with claims.claim(KEY) as mine:
            got.append(mine)
            end.wait()

    threads = [threading.Thread(target=work, args=(shared if i % 2 else claims_of(bucket),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(got) == [False] * 7 + [True]
    assert bucket.content == {}


def test_of_two_threads_the_one_that_is_at_it_has_the_claim(bucket: MemoryObjects) -> None:
    claims = claims_of(bucket)
    other: list[bool] = []

    def meanwhile(key: str) -> None:
        if key == KEY and not other:
            with claims.claim(KEY) as mine:
                other.append(mine)

    bucket.before_put = meanwhile
    with claims.claim(KEY) as mine:
        assert (mine, other) == (True, [False])
    assert bucket.content == {}


def test_the_claim_of_a_process_that_has_ended_on_this_machine_is_taken_at_once(bucket: MemoryObjects) -> None:
    code = "import os; from tiekd_cache.processes import process_space as s; print(os.getpid(), s())"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    pid, space = ended.stdout.strip().split(" ", 1)
    sign = held_elsewhere(bucket, space, int(pid))
    notes: list[str] = []
    with claims_of(bucket, notes).claim(KEY) as mine:
        assert mine
        assert sign not in bucket.content
    assert (bucket.content, notes) == ({}, [])


def test_a_living_process_on_this_machine_keeps_its_claim_while_it_shows_life(
    bucket: MemoryObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign = held_elsewhere(bucket, bucket_claims.process_space(), os.getppid())
    clock = [0.0]
    monkeypatch.setattr(bucket_claims.time, "monotonic", lambda: clock[0])
    claims = claims_of(bucket)
    for beats in range(3):
        bucket.content[sign] = bucket.content[sign].replace(b'"beats": %d' % beats, b'"beats": %d' % (beats + 1))
        before = dict(bucket.content)
        with claims.claim(KEY) as mine:
            assert not mine
        assert bucket.content == before
        clock[0] += bucket_claims.LEASE_S + 1
    with claims.claim(KEY) as mine:
        assert mine, "its number is another process's by now"
    assert bucket.content == {}


def test_another_machine_that_shows_signs_of_life_is_left_alone(
    bucket: MemoryObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign = held_elsewhere(bucket)
    elsewhere_looks = 0

    def look(seconds: float) -> None:
        nonlocal elsewhere_looks
        elsewhere_looks += 1
        if elsewhere_looks == 3:
            bucket.content[sign] = bucket.content[sign].replace(b'"beats": 1', b'"beats": 2')

    monkeypatch.setattr(bucket_claims.time, "sleep", look)
    notes: list[str] = []
    claims = claims_of(bucket, notes)
    with claims.claim(KEY) as mine:
        assert not mine
    assert elsewhere_looks == 3
    assert len(notes) == 1
    bucket.content[OTHER] = bucket.content[KEY]
    with claims.claim(OTHER) as mine:
        assert not mine
    assert elsewhere_looks == 3, "it is known to live"


def test_another_machine_that_fell_silent_is_taken_for_dead(
    bucket: MemoryObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign = held_elsewhere(bucket)
    clock = [1000.0]
    monkeypatch.setattr(bucket_claims.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(bucket_claims.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    with claims_of(bucket).claim(KEY) as mine:
        assert mine
        assert bucket_claims.LEASE_S < clock[0] - 1000 < bucket_claims.LEASE_S + 3
        assert sign not in bucket.content, "so that nobody else looks for so long"
    assert bucket.content == {}


def test_a_holder_shows_life_while_it_holds(bucket: MemoryObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_claims, "BEAT_S", 0.001)
    beats: set[bytes] = set()
    seen_often = threading.Event()

    def before_put(key: str) -> None:
        beats.add(bucket.content.get(key, b""))
        if len(beats) > 4:
            seen_often.set()

    bucket.before_put = before_put
    with claims_of(bucket).claim(KEY):
        assert seen_often.wait(20)
    assert bucket.content == {}


@pytest.mark.parametrize("said", [b"", b"\xff" * 16, b"../../../evil", b"x" * 100_000], ids=range(4))
def test_a_claim_that_makes_no_sense_is_nobodys(bucket: MemoryObjects, said: bytes) -> None:
    bucket.content[KEY] = said
    with claims_of(bucket).claim(KEY) as mine:
        assert mine


@pytest.mark.parametrize(
    "said", [b"", b"[]", b"{}", b"[" * 100_000, b'{"where": 1, "pid": -1, "beats": 1}'], ids=range(5)
)
def test_a_sign_of_life_that_makes_no_sense_is_one_as_long_as_it_changes(
    bucket: MemoryObjects, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    clock = [0.0]
    monkeypatch.setattr(bucket_claims.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(bucket_claims.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    bucket.content |= {KEY: b"0123456789abcdef", "claims/0123456789abcdef.alive": said}
    with claims_of(bucket).claim(KEY) as mine:
        assert mine
        assert clock[0] > bucket_claims.LEASE_S


@pytest.mark.parametrize("same_process", [True, False])
def test_where_the_line_is_cut_a_claim_ends_without_a_word_and_the_next_call_has_it_and_tidies_up(
    same_process: bool,
) -> None:
    class Cut(MemoryObjects):
        deletes = 0
        cut = True

        def delete(self, key: str) -> None:
            """See Objects."""
            self.deletes += 1
            if self.cut:
                raise StoreError("no answer")
            super().delete(key)

    bucket = Cut()
    claims = claims_of(bucket)
    with claims.claim(KEY) as mine:
        assert mine
    assert bucket.deletes == 1, "each one would take ten seconds to fail"
    bucket.cut = False
    with (claims if same_process else claims_of(bucket)).claim(KEY) as mine:
        assert mine
    assert bucket.content == {}


def test_what_dead_processes_left_of_finished_shards_is_removed(bucket: MemoryObjects) -> None:
    sign = held_elsewhere(bucket, key=OTHER)
    other = held_elsewhere(bucket)
    held_elsewhere(bucket, bucket_claims.process_space(), 2**31 - 1)
    bucket.content[f"claims/00003-{'0' * 64}.json"] = b""
    claims_of(bucket).tidy([3])
    assert bucket.content.keys() == {OTHER, sign, other}, "who may live is left alone"
