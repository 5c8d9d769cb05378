"""Whatever happens to a store, in whatever order, a read gives the right depth or an error, and repair mends it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from store_helpers import HALF_STEP, build_schema, depth_maps, frame_list

from tiekd_cache.errors import FrameNotFoundError, StoreError
from tiekd_cache.store import StoreWriter, open_store, verify_store

NUM_FRAMES, SHARD_FRAMES = 7, 2
FRAMES = frame_list(NUM_FRAMES)
DEPTH = depth_maps(NUM_FRAMES)
DEAD_PID = 2**22 + 1  # above what Linux hands out

shards = st.integers(0, 3)


class StoreHistory(RuleBasedStateMachine):
    """A store, and beside it what it should hold: which shards are done, and which of them were damaged."""

    @initialize()
    def create(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "a.zarr"
        self.done: set[int] = set()
        self.damaged: set[int] = set()
        self.resume()

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def shard_file(self, shard: int) -> Path:
        return self.path / "residual" / "c" / str(shard) / "0" / "0"

    @rule()
    def resume(self) -> None:
        self.writer = StoreWriter.open(self.path, build_schema(FRAMES), FRAMES, shard_frames=SHARD_FRAMES)
        assert set(self.writer.todo()) == set(range(4)) - self.done

    @rule(shard=shards)
    def write(self, shard: int) -> None:
        with self.writer.claim(shard) as mine:
            assert mine == (shard not in self.done)
            if mine:
                self.writer.write_shard(shard, DEPTH[SHARD_FRAMES * shard : SHARD_FRAMES * (shard + 1)])
                self.done.add(shard)

    @rule(shard=shards, whole=st.booleans())
    def die_before_the_record(self, shard: int, whole: bool) -> None:
        """What a kill leaves: a shard without a record, or a part of a file under another name."""
        if shard in self.done:
            return
        file = self.shard_file(shard)
        self.writer.write_shard(shard, DEPTH[SHARD_FRAMES * shard : SHARD_FRAMES * (shard + 1)])
        (self.path / "done" / f"{shard:05d}.json").unlink()
        if not whole:
            file.rename(file.with_name(f".0.partial-{DEAD_PID}-0a0b-elsewhere"))

    @rule(shard=shards, place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
    def flip(self, shard: int, place: float, bit: int) -> None:
        if shard in self.done - self.damaged:
            data = bytearray(self.shard_file(shard).read_bytes())
            data[int(place * len(data))] ^= 1 << bit
            self.shard_file(shard).write_bytes(data)
            self.damaged.add(shard)

    @rule(shard=shards, keep=st.floats(0, 1, exclude_max=True))
    def truncate_or_remove(self, shard: int, keep: float) -> None:
        if shard in self.done - self.damaged:
            data = self.shard_file(shard).read_bytes()
            if keep < 0.1:
                self.shard_file(shard).unlink()
            else:
                self.shard_file(shard).write_bytes(data[: int(keep * len(data))])
            self.damaged.add(shard)

    @rule()
    def repair(self) -> None:
        report = verify_store(self.path, repair=True)
        assert report.whole
        named = {shard for shard in range(4) if any(str(self.shard_file(shard)) in line for line in report.problems)}
        assert named == self.damaged
        self.done -= self.damaged
        self.damaged = set()

    @rule(batch=st.lists(st.integers(0, NUM_FRAMES - 1), min_size=1, max_size=4))
    def read_a_batch(self, batch: list[int]) -> None:
        touched = {i // SHARD_FRAMES for i in batch}
        store = open_store(self.path, allow_partial=True)
        try:
            read = store.read([FRAMES[i] for i in batch])
        except FrameNotFoundError:
            assert not touched <= self.done
        except StoreError:
            assert touched & self.damaged
        else:
            assert np.abs(read - DEPTH[batch]).max() <= HALF_STEP

    @invariant()
    def every_read_is_right_or_an_error(self) -> None:
        store = open_store(self.path, allow_partial=True)
        for i, frame_id in enumerate(FRAMES):
            shard = i // SHARD_FRAMES
            assert (frame_id in store) == (shard in self.done)
            try:
                read = store[frame_id]
            except FrameNotFoundError:
                assert shard not in self.done
            except StoreError:
                assert shard in self.damaged
            else:
                assert shard in self.done
                assert np.abs(read - DEPTH[i]).max() <= HALF_STEP


StoreHistory.TestCase.settings = settings(max_examples=12, stateful_step_count=14)
test_any_history = StoreHistory.TestCase
