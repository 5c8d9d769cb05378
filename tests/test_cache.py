"""Stores read through a cache folder: fetched once, checked, never more than the limit, and never a wrong answer."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import stat
import threading
import time
from functools import partial
from pathlib import Path

import click
import numpy as np
import pytest
from distant_objects import DistantObjects
from fakes import FormulaTeacher, MemoryFrames
from hypothesis import given
from hypothesis import strategies as st
from store_helpers import depth_maps, frame_list, in_child, make_store, open_writer

from tiekd_cache.cli.cache_options import parse_bytes
from tiekd_cache.cli.catalogue import choose_stores
from tiekd_cache.errors import ConfigError, FrameNotFoundError, StoreError
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.store import ResponseStore, cache_room, open_store
from tiekd_cache.store.cache import CachedObjects
from tiekd_cache.store.cache_files import OpenShard
from tiekd_cache.store.cache_room import PROTECTED_S, Held, Room, to_remove
from tiekd_cache.store.images import has_images
from tiekd_cache.store.objects import FolderObjects, MissingObject, RemoteError

FRAMES = frame_list(10)
SHARDS = [f"residual/c/{shard}/0/0" for shard in range(3)]
PLENTY = 10**9


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of ten frames in three shards."""
    path = tmp_path_factory.mktemp("cache") / "a.zarr"
    make_store(path)
    return path


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return shutil.copytree(made, tmp_path / "a.zarr")


@pytest.fixture
def far(path: Path) -> DistantObjects:
    return DistantObjects(path)


def through(far: DistantObjects, limit: int = PLENTY, **options: bool) -> ResponseStore:
    return open_store(CachedObjects(far, far.folder.parent / "cache", limit), **options)


def home(far: DistantObjects) -> Path:
    """The store's part of the cache."""
    return next(file.parent for file in (far.folder.parent / "cache").glob("*/zarr.json"))


def check_all(store: ResponseStore, made: Path) -> None:
    assert np.array_equal(store.read(FRAMES, threads=2), open_store(made).read(FRAMES))


def kept(far: DistantObjects) -> list[str]:
    return [key for key in SHARDS if (home(far) / key).exists()]


def test_each_shard_is_fetched_once_and_the_second_epoch_asks_for_nothing(far: DistantObjects, made: Path) -> None:
    store = through(far)
    check_all(store, made)
    assert [far.count("get", key) for key in SHARDS] == [1, 1, 1]
    assert far.count("get_range", "") == 0
    assert store.info.num_frames == 10
    far.asked.clear()
    check_all(store, made)
    worker = pickle.loads(pickle.dumps(store))
    check_all(worker, made)
    assert far.asked == []
    assert worker._path.objects._objects.asked == []
    check_all(through(far), made)  # tomorrow, a look at what is new is all
    assert sorted(far.asked) == [("get", "zarr.json"), ("list", "done")]
    files = {file.relative_to(made) for file in made.rglob("*") if file.is_file()}
    own = {file.relative_to(home(far)) for file in home(far).rglob("*") if file.is_file() and "locks" not in file.parts}
    assert own < files
    for file in own:
        assert (home(far) / file).read_bytes() == (made / file).read_bytes()


def test_where_nothing_can_be_listed_only_what_is_not_kept_is_asked_for(far: DistantObjects, made: Path) -> None:
    far.listable = False
    check_all(through(far), made)
    far.asked.clear()
    check_all(through(far), made)
    assert far.asked == [("get", "zarr.json")]
    (home(far) / SHARDS[1]).unlink()
    far.asked.clear()
    check_all(through(far), made)
    assert set(far.asked) == {
        ("get", "zarr.json"),
        ("size", "done/00001.json"),
        ("size", SHARDS[1]),
        ("get", SHARDS[1]),
    }


def test_images_are_kept_too(tmp_path: Path) -> None:
    source = MemoryFrames(4)
    config = PrecomputeConfig(shard_frames=2, batch_size=2, with_images=True)
    precompute(FormulaTeacher(), source, tmp_path / "a.zarr", config)
    far = DistantObjects(tmp_path / "a.zarr")
    for epoch in (1, 2):
        store = through(far)
        far.asked.clear()
        for frame_id in source.frame_ids:
            assert store.has_image(frame_id)
            np.testing.assert_array_equal(store.image(frame_id), source.load(frame_id).image)
            np.testing.assert_array_equal(store.intrinsics(frame_id), source.load(frame_id).intrinsics)
        assert far.count("get", "images/image/") == (2 if epoch == 1 else 0)
        assert far.count("get_range", "") == 0
    file = home(far) / "images" / "image" / "c" / "1" / "0" / "0" / "0"
    file.write_bytes(flip(file.read_bytes(), 50))
    assert np.array_equal(through(far).image(source.frame_ids[2]), source.load(source.frame_ids[2]).image)
    assert far.count("get", "images/image/c/1") == 1


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


@pytest.mark.parametrize("place", [30, 0.5, -1, "torn", "empty", "swapped"])
def test_a_damaged_file_of_the_cache_is_fetched_again(far: DistantObjects, made: Path, place: float | str) -> None:
    check_all(through(far), made)
    file = home(far) / SHARDS[1]
    data = file.read_bytes()
    changed = {
        "torn": data[: len(data) // 2],
        "empty": b"",
        "swapped": (made / SHARDS[0]).read_bytes(),
    }
    at = len(data) - 1 if place == -1 else place if isinstance(place, int) else len(data) // 2
    file.write_bytes(changed[place] if isinstance(place, str) else flip(data, at))
    far.asked.clear()
    check_all(through(far), made)
    assert [far.count("get", key) for key in SHARDS] == [0, 1, 0]
    assert file.read_bytes() == data


def test_a_file_that_another_thread_drops_while_it_is_opened_is_not_read(
    far: DistantObjects, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_all(through(far), made)
    file = home(far) / SHARDS[1]
    file.write_bytes(flip(file.read_bytes(), -5))
    objects = CachedObjects(far, far.folder.parent / "cache", PLENTY)
    dropped: list[bool] = []

    def touch_and_drop(self: OpenShard) -> bool:
        if file.exists() and self.is_at(file) and not dropped:
            dropped.append(objects.drop(SHARDS[1]))
        return touch(self)

    touch = OpenShard.touch
    monkeypatch.setattr(OpenShard, "touch", touch_and_drop)
    assert np.array_equal(open_store(objects).read(FRAMES), open_store(made).read(FRAMES))
    assert dropped == [True]


def test_who_is_told_that_a_file_was_dropped_finds_it_gone(
    far: DistantObjects, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_all(through(far), made)
    file, objects = home(far) / SHARDS[1], CachedObjects(far, far.folder.parent / "cache", PLENTY)
    found: list[bool] = []
    other = threading.Thread(target=lambda: found.append(objects.drop(SHARDS[1]) and file.exists()))

    def unlink_late(self: Path, missing_ok: bool = False) -> None:
        other.start()
        other.join(0.2)  # it must not come back before the file is gone
        unlink(self, missing_ok)

    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", unlink_late)
    assert objects.drop(SHARDS[1])
    other.join()
    assert found == [False]


def test_small_files_of_the_cache_are_checked_too(far: DistantObjects, made: Path) -> None:
    check_all(through(far), made)
    for name in ("done/00001.json", "frame_id/c/0", "zarr.json"):
        data = (home(far) / name).read_bytes()
        (home(far) / name).write_bytes(flip(data, len(data) // 2))
        check_all(through(far), made)
        assert (home(far) / name).read_bytes() == data


def test_a_disk_that_gives_back_something_else_is_an_error(
    far: DistantObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Room.write
    monkeypatch.setattr(Room, "write", lambda room, file, data: write(room, file, flip(data, 40)))
    with pytest.raises(
        StoreError, match="so it was before the cache fetched it anew: its disk may be faulty"
    ) as caught:
        through(far)[FRAMES[0]]
    assert "\n" not in str(caught.value)
    assert far.count("get", SHARDS[0]) == 2


def test_what_is_garbled_on_its_way_once_does_no_harm(far: DistantObjects, made: Path) -> None:
    seen: set[str] = set()

    def garble(key: str, data: bytes) -> bytes:
        first = key not in seen and key != "zarr.json"
        seen.add(key)
        return flip(data, len(data) // 2) if first else data

    far.garble = garble
    check_all(through(far), made)
    assert [far.count("get", key) for key in SHARDS] == [2, 2, 2]


def test_a_shard_damaged_at_its_source_is_never_kept(far: DistantObjects, made: Path) -> None:
    file = far.folder / SHARDS[0]
    file.write_bytes(flip(file.read_bytes(), 30))
    store = through(far)
    with pytest.raises(StoreError, match=r"https://example\.org/a\.zarr is damaged"):
        store[FRAMES[0]]
    assert np.array_equal(store[FRAMES[2]], open_store(made)[FRAMES[2]])  # over the network
    assert np.array_equal(store[FRAMES[5]], open_store(made)[FRAMES[5]])
    assert kept(far) == [SHARDS[1]]
    assert far.count("get", SHARDS[0]) == 2


def test_a_missing_shard_is_an_error(far: DistantObjects) -> None:
    (far.folder / SHARDS[0]).unlink()
    with pytest.raises(StoreError, match="file of the shard is missing"):
        through(far)[FRAMES[0]]


def test_a_shard_that_was_made_again_is_fetched_with_its_new_record(far: DistantObjects, made: Path) -> None:
    check_all(through(far), made)
    for name in ("residual/c/1/0/0", "done/00001.json"):
        (far.folder / name).unlink()
    open_writer(far.folder).write_shard(1, depth_maps(10)[4:8])
    old = (home(far) / "done/00001.json").read_bytes()
    (home(far) / SHARDS[1]).unlink()
    record = far.folder / "done" / "00001.json"
    assert record.read_bytes() != old
    shard = (far.folder / SHARDS[1]).read_bytes()
    (home(far) / "done/00001.json").write_bytes((home(far) / "done/00000.json").read_bytes())  # of another shard
    check_all(through(far), made)
    assert (home(far) / "done/00001.json").read_bytes() == record.read_bytes()
    assert (home(far) / SHARDS[1]).read_bytes() == shard


def test_the_least_recently_used_shard_goes_first(far: DistantObjects, made: Path) -> None:
    sizes = [(made / key).stat().st_size for key in SHARDS]
    limit = sizes[0] + sizes[1]
    store = through(far, limit)
    assert store[FRAMES[0]].any()
    assert store[FRAMES[4]].any()
    assert kept(far) == SHARDS[:2]
    long_ago = time.time() - 2 * PROTECTED_S
    for key, age in ((SHARDS[0], 0), (SHARDS[1], 1)):
        os.utime(home(far) / key, (long_ago - age, long_ago - age))
    through(far, limit)[FRAMES[9]]
    assert kept(far) == [SHARDS[0], SHARDS[2]]
    os.utime(home(far) / SHARDS[0], (long_ago, long_ago))
    through(far, limit)[FRAMES[0]]  # used now: the other is older
    os.utime(home(far) / SHARDS[2], (long_ago, long_ago))
    through(far, limit)[FRAMES[4]]
    assert kept(far) == SHARDS[:2]
    check_all(store, made)  # it may have had open what others removed


def test_shards_in_use_stay_and_the_rest_is_read_over_the_network(
    far: DistantObjects, made: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limit = (made / SHARDS[0]).stat().st_size
    store = through(far, limit)
    assert store[FRAMES[0]].any()
    check_all(store, made)
    check_all(store, made)
    assert kept(far) == SHARDS[:1]
    assert [far.count("get", key) for key in SHARDS] == [1, 0, 0]
    assert far.count("get_range", SHARDS[1]) > 0
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        f"The cache {far.folder.parent / 'cache'} is full of shards in use"
    ]


@given(
    held=st.lists(st.tuples(st.floats(0, 2e3), st.integers(0, 50)), max_size=8),
    needed=st.integers(0, 120),
    limit=st.integers(1, 200),
)
def test_what_goes_is_the_oldest_and_no_more_than_needed(
    held: list[tuple[float, int]], needed: int, limit: int
) -> None:
    shards = [Held(used, size, Path(str(number))) for number, (used, size) in enumerate(held)]
    now = 2e3
    chosen = to_remove(shards, needed, limit, now)
    total = sum(shard.num_bytes for shard in shards)
    idle = [shard for shard in shards if shard.used <= now - PROTECTED_S]
    if chosen is None:
        assert total - sum(shard.num_bytes for shard in idle) + needed > limit
        return
    assert chosen == sorted(shards)[: len(chosen)]
    assert set(chosen) <= set(idle)
    freed = [shard.num_bytes for shard in chosen]
    assert total - sum(freed) + needed <= limit
    assert not freed or total - sum(freed[:-1]) + needed > limit


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_is_one_warning_and_reading_goes_on(
    far: DistantObjects,
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    sync, calls = os.fsync, [0]

    def refuse(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] > 12:
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    store = through(far)
    check_all(store, made)
    check_all(store, made)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith(
        f"Nothing more is kept in the cache {far.folder.parent / 'cache'} ({os.strerror(number)})"
    )
    assert "\n" not in warning
    assert all(far.count("get", key) <= 1 for key in SHARDS)
    assert not list(home(far).rglob(".*partial*"))


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_one_clear_error(
    far: DistantObjects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(ConfigError, match="choose another --cache-dir") as caught:
            CachedObjects(far, tmp_path / "cache", PLENTY)
    assert os.strerror(number) in str(caught.value)
    assert "\n" not in str(caught.value)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="file/cache cannot be written"):
        CachedObjects(far, tmp_path / "file" / "cache", PLENTY)


def test_a_whole_store_is_served_without_its_place_and_a_part_is_not(
    far: DistantObjects, made: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = through(far)
    assert store[FRAMES[0]].any()
    far.down = True
    with pytest.raises(
        RemoteError, match=r"no connection\. The cache .*/cache cannot stand in: it has 1 of the 3 shards"
    ):
        through(far)
    far.down = False
    check_all(store, made)
    far.down = True
    far.asked.clear()
    check_all(through(far), made)
    assert through(far).info.num_bytes == open_store(made).info.num_bytes
    assert far.asked == [("get", "zarr.json")] * 2
    assert {record.getMessage().partition("All of")[2] for record in caplog.records} == {
        f" the store is in the cache {far.folder.parent / 'cache'}, which is read alone."
    }
    alone = pickle.loads(pickle.dumps(through(far)))
    check_all(alone, made)
    assert not alone.has_image(FRAMES[0])
    assert not has_images(CachedObjects(far, far.folder.parent / "cache"))


def test_whether_a_url_is_a_store_is_not_asked_where_the_cache_has_it(
    far: DistantObjects, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far.url = "s3://team/a.zarr"
    monkeypatch.setattr("tiekd_cache.store_list.open_objects", lambda place: far)
    nothing = {"kitti": None, "nyu": None, "images": None}
    choose = partial(choose_stores, [far.url], [], any_data=True, partial=False)
    check_all(through(far), made)
    far.down = True
    assert choose(nothing | {"cache_dir": tmp_path / "cache"}) == (far.url,)
    with pytest.raises(RemoteError, match="no connection"):
        choose(nothing | {"cache_dir": tmp_path / "another"})


def test_a_store_that_is_not_there_stays_an_error(far: DistantObjects, made: Path, tmp_path: Path) -> None:
    check_all(through(far), made)
    shutil.rmtree(far.folder)
    with pytest.raises(StoreError, match="There is no"):
        through(far)
    far.down = True
    with pytest.raises(RemoteError, match="no connection"):
        open_store(CachedObjects(far, tmp_path / "another", PLENTY))


def test_a_growing_store_is_looked_up_again(tmp_path: Path, made: Path) -> None:
    writer, depth = open_writer(tmp_path / "a.zarr"), depth_maps(10)
    writer.write_shard(0, depth[:4])
    far = DistantObjects(tmp_path / "a.zarr")
    for listable in (True, False):
        far.listable = listable
        store = through(far, allow_partial=True)
        assert list(store) == FRAMES[: 4 if listable else 8]
        with pytest.raises(FrameNotFoundError):
            store[FRAMES[9]]
        writer.write_shard(1 if listable else 2, depth[4:8] if listable else depth[8:])
    with pytest.raises(FrameNotFoundError):
        store[FRAMES[9]]  # it is as it was when it was opened
    check_all(through(far), made)


def test_the_cache_is_objects(far: DistantObjects, made: Path, tmp_path: Path) -> None:
    objects, plain = CachedObjects(far, tmp_path / "cache", PLENTY), FolderObjects(made)
    for key, size in plain.list():
        assert objects.size(key) == size
        assert objects.get_range(key, 1, size - 1) == plain.get(key)[1:] if size else True
        assert objects.get(key) == plain.get(key)
    assert objects.list() == plain.list()
    with pytest.raises(MissingObject):
        objects.get("done/00009.json")
    with pytest.raises(MissingObject):
        objects.size("done/00009.json")
    with pytest.raises(RemoteError, match="truncated"):
        objects.get_range(SHARDS[0], 0, 10**6)
    with pytest.raises(ConfigError, match="without --cache-dir"):
        objects.put("a", b"")
    with pytest.raises(ConfigError, match="without --cache-dir"):
        objects.delete("a")


def test_another_copy_of_the_same_answers_shares_the_cache(far: DistantObjects, made: Path) -> None:
    check_all(through(far), made)
    other = DistantObjects(far.folder)
    other.url = "s3://team/copy.zarr"
    check_all(through(other), made)
    assert other.count("get", "residual") == 0


def read_all(far: DistantObjects, start: Path, answer: Path) -> None:
    """Open the store, wait for the file `start`, read all of it, and leave what was read as the file `answer`."""
    store = through(far)
    while not start.exists():
        time.sleep(0.002)
    answer.write_bytes(store.read(FRAMES).tobytes())


def test_two_processes_fetch_each_shard_once(path: Path, made: Path, tmp_path: Path) -> None:
    far = DistantObjects(path, tmp_path / "log", slow_s=0.02)
    answers = [tmp_path / "0", tmp_path / "1"]
    children = [in_child(lambda answer=answer: read_all(far, tmp_path / "start", answer)) for answer in answers]
    (tmp_path / "start").touch()
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert [answer.read_bytes() for answer in answers] == [open_store(made).read(FRAMES).tobytes()] * 2
    asked = (tmp_path / "log").read_text().splitlines()
    assert [asked.count(f"get {key}") for key in SHARDS] == [1, 1, 1]


@pytest.mark.parametrize("writes", [0, 2, 4, 8])
def test_a_reader_killed_while_it_writes_leaves_nothing_that_is_used(
    far: DistantObjects, made: Path, writes: int
) -> None:
    sync, calls = os.fsync, [0]

    def die(descriptor: int) -> None:
        found = os.fstat(descriptor)
        calls[0] += stat.S_ISREG(found.st_mode)
        if calls[0] > writes:
            os.ftruncate(descriptor, found.st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", die)
        child = in_child(lambda: through(far).read(FRAMES))
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
    cache = far.folder.parent / "cache"
    assert len(list(cache.rglob(".*.partial-*"))) == 1
    for key in SHARDS:
        for file in cache.glob(f"*/{key}"):
            assert file.read_bytes() == (made / key).read_bytes()
    check_all(through(far), made)
    assert not list(cache.rglob(".*.partial-*"))


@pytest.mark.parametrize(
    ("text", "expected"), [("50GB", 50 * 10**9), ("1.5 tb", 15 * 10**11), ("800m", 8 * 10**8), ("7", 7)]
)
def test_sizes_are_read(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-1GB", "50 apples", "GB", "0.1"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="no size like 50GB"):
        parse_bytes(text)


def test_a_cache_that_holds_nothing_is_refused(far: DistantObjects, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="0 bytes"):
        CachedObjects(far, tmp_path, 0)


def test_a_process_that_holds_the_cache_for_ever_does_not_stop_the_others(
    far: DistantObjects, made: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache_room, "WAIT_S", 0.05)
    store = through(far)
    with cache_room.locked(far.folder.parent / "cache" / ".lock", 1.0) as mine:
        assert mine
        check_all(store, made)
    assert kept(far) == []
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "another process has held" in warning
