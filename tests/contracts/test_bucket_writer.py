"""Stage one straight into a bucket: what it holds at any moment is whole, and any writer may go on from there."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import numpy as np
import pytest
from fakes import FormulaTeacher, MemoryFrames
from memory_objects import MemoryObjects
from store_helpers import build_schema, depth_maps, files_of, frame_list, make_store, write_all

from tiekd_cache.errors import ConfigError, StoreError
from tiekd_cache.foreign import SMALL_BYTES
from tiekd_cache.launch import ShardRange
from tiekd_cache.precompute import PrecomputeConfig, open_writer, precompute
from tiekd_cache.sharing import copy_store
from tiekd_cache.sharing.bucket_writer import BucketWriter, open_writer_at
from tiekd_cache.sharing.shards import ConflictError
from tiekd_cache.store import StoreWriter, layout, open_store, verify_store
from tiekd_cache.store.catalogue import DamagedStoreError
from tiekd_cache.store.objects import FolderObjects

FRAMES = frame_list(10)
SOURCE = MemoryFrames(6)
CONFIG = PrecomputeConfig(batch_size=2, shard_frames=2, with_images=True)
SHARD_1 = "residual/c/1/0/0"
RECORD_1 = "done/00001.json"


class Bucket(MemoryObjects):
    """A bucket whose line is cut after so many puts: whoever writes can then do nothing any more, not even tidy up."""

    def __init__(self, puts: int | None = None) -> None:
        super().__init__("memory://bucket")
        self.puts_left = puts
        self.written: list[str] = []

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """See Objects."""
        self._require_line()
        done = super().put(key, data, if_absent=if_absent)
        self.written += [key] if done else []
        if self.puts_left is not None:
            self.puts_left -= 1
        return done

    def get(self, key: str, at_most: int = SMALL_BYTES) -> bytes:
        """See Objects."""
        self._require_line()
        return super().get(key, at_most)

    def delete(self, key: str) -> None:
        """See Objects."""
        self._require_line()
        super().delete(key)

    def _require_line(self) -> None:
        if self.puts_left == 0:
            raise StoreError("the line is cut")


def writer_of(objects: MemoryObjects, max_depth: float = 80.0, shard_frames: int = 4) -> StoreWriter:
    """The writer of ten frames in shards of four, in a bucket."""
    return open_writer_at(objects, build_schema(FRAMES, max_depth=max_depth), FRAMES, shard_frames=shard_frames)


def check(bucket: MemoryObjects, folder: Path, *, leftovers: bool = False) -> None:
    """Verify what the bucket holds, as files."""
    report = verify_store(bucket.save(folder))
    assert report.problems == ()
    assert [note for note in report.notes if "not finished" not in note and "images of" not in note] == []
    assert leftovers or not [key for key in bucket.content if "claims" in key]


def test_the_objects_are_those_of_a_store_made_in_a_folder_and_pushed(store_with_images: Path, tmp_path: Path) -> None:
    pushed, bucket = MemoryObjects(), Bucket()
    copy_store(FolderObjects(store_with_images), pushed)
    report = precompute(FormulaTeacher(), SOURCE, bucket, CONFIG)
    assert (report.made, report.frames, report.complete) == (6, 6, True)
    assert bucket.content.keys() == pushed.content.keys()
    changed = {key for key, data in pushed.content.items() if bucket.content[key] != data}
    times = re.compile(r"zarr\.json|(images/)?done/\d+\.json")
    assert all(times.fullmatch(key) for key in changed), "only what says when it was made may differ"
    check(bucket, tmp_path / "b.zarr")


@pytest.mark.parametrize("images", [pytest.param(True, marks=pytest.mark.slow), False])
def test_stopped_after_any_object_the_same_call_goes_on(store_with_images: Path, tmp_path: Path, images: bool) -> None:
    config = PrecomputeConfig(batch_size=2, shard_frames=2, with_images=images)
    whole, expected = open_store(store_with_images), Bucket()
    precompute(FormulaTeacher(), SOURCE, expected, config)
    for puts in range(len(expected.written)):
        bucket = Bucket(puts)
        with pytest.raises(StoreError, match="the line is cut"):
            precompute(FormulaTeacher(), SOURCE, bucket, config)
        bucket.puts_left = None
        there = {key: data for key, data in bucket.content.items() if "claims" not in key}
        if "zarr.json" in there:
            assert verify_store(bucket.save(tmp_path / f"{puts}a.zarr")).problems == ()
        bucket.written.clear()
        teacher = FormulaTeacher()
        report = precompute(teacher, SOURCE, bucket, config)
        assert (report.frames, report.made) == (6, 6 - 2 * sum(key.startswith("done/") for key in there))
        assert {key: bucket.content[key] for key in there} == there, "what was there stays as it is"
        assert not [key for key in bucket.written if key in there], "and is not written again"
        check(bucket, tmp_path / f"{puts}b.zarr")
        store = open_store(tmp_path / f"{puts}b.zarr")
        assert store.read(store.frame_ids).tobytes() == whole.read(store.frame_ids).tobytes()
        if images:
            assert all(np.array_equal(store.image(one), whole.image(one)) for one in store)


def test_shards_of_another_gpu_that_a_dead_process_left_are_finished_as_they_are(tmp_path: Path) -> None:
    """A GPU of another make may answer with other last bits, so the same shard is other bytes."""
    depth = depth_maps(10)
    theirs = np.where(depth > 1, depth - 1 / 64, depth).astype(np.float32)
    stopped = 0
    for puts in range(40):
        bucket = Bucket(puts)
        try:
            write_all(writer_of(bucket), theirs)
            break
        except StoreError:
            bucket.puts_left = None
        begun = {key: data for key, data in bucket.content.items() if key.startswith("residual/c/")}
        stopped += len(begun) > sum(key.startswith("done/") for key in bucket.content)
        write_all(writer_of(bucket), depth)
        assert {key: bucket.content[key] for key in begun} == begun
        check(bucket, tmp_path / f"{puts}.zarr", leftovers=True)
        writer_of(bucket)  # the next one that comes tidies up
        assert not [key for key in bucket.content if "claims" in key]
    assert stopped >= 6, "some must have been stopped between a shard and its record, or nothing was tested"


def test_two_writers_of_one_shard_end_with_one_of_the_two(tmp_path: Path) -> None:
    depth = depth_maps(10)
    theirs = np.where(depth > 1, depth - 1 / 64, depth).astype(np.float32)
    make_store(tmp_path / "mine.zarr")
    mine = files_of(tmp_path / "mine.zarr")[SHARD_1]
    winners = set()
    for moment in range(8):
        bucket = Bucket()
        writer = writer_of(bucket)

        def rival(key: str, bucket: Bucket = bucket, left: list[int] = [moment]) -> None:  # noqa: B006
            left[0] -= 1
            if left[0] == -1:
                writer_of(bucket).write_shard(1, theirs[4:8])

        bucket.before_put = rival
        writer.write_shard(1, depth[4:8])
        assert writer.todo() == [0, 2]
        winners.add(bucket.content[SHARD_1] == mine)
        assert len([key for key in bucket.written if key == SHARD_1]) == 1
        assert len([key for key in bucket.written if key == RECORD_1]) == 1
        check(bucket, tmp_path / f"{moment}.zarr")
    assert winners == {True, False}


def test_what_is_no_shard_of_this_store_is_named_and_stays(tmp_path: Path) -> None:
    """As after a half-removed store of another teacher: bytes, and even the announcement, but another fingerprint."""
    bucket = Bucket(7)
    with pytest.raises(StoreError, match="the line is cut"):
        writer_of(bucket, max_depth=100.0).write_shard(1, depth_maps(10)[4:8] / 2)
    bucket.puts_left = None
    assert [key for key in bucket.content if key.startswith("claims/00001-")]
    del bucket.content["zarr.json"]
    left = bucket.content[SHARD_1]
    with pytest.raises(ConflictError, match=SHARD_1):
        writer_of(bucket).write_shard(1, depth_maps(10)[4:8])
    assert bucket.content[SHARD_1] == left
    assert RECORD_1 not in bucket.content


def test_a_store_of_other_settings_is_refused_untouched(tmp_path: Path) -> None:
    bucket = Bucket()
    write_all(writer_of(bucket), depth_maps(10))
    before = dict(bucket.content)
    with pytest.raises(StoreError, match=r"memory://bucket was begun with other settings: depth\.max \(80\.0, now 100"):
        writer_of(bucket, max_depth=100.0)
    assert bucket.content == before
    assert writer_of(bucket, shard_frames=2).shard_frames == 4, "a store keeps the shards it was begun with"
    begun = Bucket(1)
    with pytest.raises(StoreError, match="the line is cut"):
        writer_of(begun)
    begun.puts_left = None
    with pytest.raises(StoreError, match=r"the beginning of another store .* residual/zarr\.json"):
        writer_of(begun, shard_frames=2)
    other = MemoryObjects()
    other.content["photo.png"] = b"..."
    with pytest.raises(StoreError, match=r"holds other things \(photo.png\) and no store"):
        writer_of(other)
    with pytest.raises(ConfigError, match="can only be read"):
        writer_of(MemoryObjects(listable=False))


def test_writers_side_by_side_make_each_shard_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BucketWriter, "look_again_s", 0.01)
    source = MemoryFrames(48)
    bucket = Bucket()
    config = PrecomputeConfig(batch_size=2, shard_frames=2)
    meeting = threading.Barrier(2, timeout=30)
    made: list[int] = []

    class Teacher(FormulaTeacher):
        def predict_frames(self, frames):  # type: ignore[no-untyped-def]
            if not met.is_set():
                meeting.wait()  # neither is finished before the other has begun
                met.set()
            return super().predict_frames(frames)

    met = threading.Event()

    def work() -> None:
        made.append(precompute(Teacher(), source, bucket, config).made)

    open_writer(FormulaTeacher(), source, bucket, config)
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(made) == 48
    assert all(made), "both must have worked, or nothing was tested"
    check(bucket, tmp_path / "b.zarr")


def test_a_part_is_made_alone_and_a_growing_store_is_read(tmp_path: Path) -> None:
    bucket = Bucket()
    part = precompute(FormulaTeacher(), SOURCE, bucket, CONFIG, shards=ShardRange.parse("1:2"))
    assert (part.frames, part.made, part.complete) == (2, 2, False)
    growing = open_store(bucket, allow_partial=True)
    assert list(growing) == SOURCE.frame_ids[2:4]
    assert np.array_equal(growing.image(SOURCE.frame_ids[2]), SOURCE.load(SOURCE.frame_ids[2]).image)
    copy_store(bucket, FolderObjects(tmp_path / "pulled.zarr"))
    assert list(open_store(tmp_path / "pulled.zarr", allow_partial=True)) == SOURCE.frame_ids[2:4]
    assert precompute(FormulaTeacher(), SOURCE, bucket, CONFIG).made == 4
    assert len(open_store(bucket)) == 6


def test_where_a_shard_cannot_be_written_the_next_ones_are_not_tried() -> None:
    """Each try may take a minute where a server is silent."""
    refused: list[str] = []

    def refuse(key: str) -> None:
        if key.startswith("residual/c/"):
            refused.append(key)
            raise StoreError("no answer")

    bucket = Bucket()
    bucket.before_put = refuse
    with pytest.raises(StoreError, match="no answer"):
        precompute(FormulaTeacher(), MemoryFrames(40), bucket, CONFIG)
    assert len(refused) == 1
    assert not [key for key in bucket.content if key.endswith((".lock", ".alive"))], "and no claim stays"


@pytest.mark.parametrize("again", ["precompute", "push"])
def test_what_is_damaged_in_a_bucket_is_dropped_and_brought_again(
    store_with_images: Path, tmp_path: Path, again: str
) -> None:
    bucket = MemoryObjects("s3://team/a.zarr")
    copy_store(FolderObjects(store_with_images), bucket)
    whole = dict(bucket.content)
    bucket.content[SHARD_1] = whole[SHARD_1][:-9]
    del bucket.content["residual/c/2/0/0"], bucket.content["digest/zarr.json"]
    bucket.content["images/image/c/0/0/0/0"] = bytes(len(whole["images/image/c/0/0/0/0"]))
    with pytest.raises(DamagedStoreError, match="then with --repair, then the same `precompute`, `push` or `pull`"):
        open_store(bucket)[SOURCE.frame_ids[2]]
    report = verify_store(bucket, repair=True)
    assert len(report.problems) >= 4
    assert report.whole
    assert not {SHARD_1, RECORD_1, "done/00002.json", "images/done/00000.json"} & bucket.content.keys()
    assert verify_store(bucket).problems == ()
    if again == "push":
        copy_store(FolderObjects(store_with_images), bucket)
        assert bucket.content == whole
    else:
        precompute(FormulaTeacher(), SOURCE, bucket, CONFIG)
        assert bucket.content.keys() == whole.keys()
    check(bucket, tmp_path / "b.zarr")


@pytest.mark.parametrize("in_bucket", [True, False])
def test_images_too_large_for_a_shard_are_refused_and_the_responses_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_bucket: bool
) -> None:
    height, width = SOURCE.image_size
    monkeypatch.setattr(layout, "MAX_SHARD_BYTES", 5 * height * width)  # two responses have 4 bytes a pixel, images 6
    place = Bucket() if in_bucket else tmp_path / "a.zarr"
    with pytest.raises(StoreError, match=r"cannot hold images: .*fewer frames"):
        precompute(FormulaTeacher(), SOURCE, place, CONFIG)
    report = precompute(FormulaTeacher(), SOURCE, place, PrecomputeConfig(batch_size=2, shard_frames=2))
    assert report.complete
