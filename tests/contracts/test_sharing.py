"""Sharing a store: what arrives is what was there, or nothing; whoever else writes at the same time."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import FormulaTeacher, MemoryFrames
from memory_objects import MemoryObjects
from store_helpers import build_schema, depth_maps, files_of, frame_list, make_store, open_writer, write_all

from tiekd_cache.errors import ConfigError, DataError, StoreError
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.sharing import ShareReport, copy_store, merge_stores
from tiekd_cache.sharing.shards import ConflictError
from tiekd_cache.store import StoreWriter, open_store, verify_store
from tiekd_cache.store.chunks import encode_digests
from tiekd_cache.store.objects import FolderObjects, Objects
from tiekd_cache.store.record import DoneRecord

FRAMES = frame_list(10)
SOURCE = MemoryFrames(6)
SHARD_1 = "residual/c/1/0/0"
RECORD_1 = "done/00001.json"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A finished store without images: ten frames, shards of four."""
    make_store(tmp_path / "plain.zarr")
    return tmp_path / "plain.zarr"


def partial(path: Path, *shards: int, noise: float = 0.0, max_depth: float = 80.0, shard_frames: int = 4) -> Path:
    """A store of the ten frames with only some of its shards."""
    writer = StoreWriter.open(path, build_schema(FRAMES, max_depth=max_depth), FRAMES, shard_frames=shard_frames)
    depth = depth_maps(10)
    for shard in shards:
        part = depth[shard * shard_frames : (shard + 1) * shard_frames]
        writer.write_shard(shard, np.where(part > 1, part - noise, part).astype(np.float32))
    return path


def share(source: Path | Objects, target: Path | Objects, frame_ids: list[str] | None = None) -> ShareReport:
    places = [FolderObjects(place) if isinstance(place, Path) else place for place in (source, target)]
    return copy_store(places[0], places[1], frame_ids=frame_ids, jobs=2)


def same_answers(one: Path, other: Path) -> None:
    """Array for array, and nothing is wrong with either."""
    first, second = open_store(one, allow_partial=True), open_store(other, allow_partial=True)
    assert list(first) == list(second)
    assert first.read(first.frame_ids).tobytes() == second.read(first.frame_ids).tobytes()
    report = verify_store(other)
    assert report.problems == ()
    assert not [note for note in report.notes if "belongs to no part" in note or "interrupted" in note]


@pytest.mark.parametrize("kind", ["folder to folder", "through a bucket", "from a web server"])
def test_everything_arrives_byte_for_byte(store_with_images: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "deep" / "b.zarr"
    if kind == "folder to folder":
        report = share(store_with_images, target)
    elif kind == "through a bucket":
        bucket = MemoryObjects()
        first = share(store_with_images, bucket)
        assert (first.sent, first.target) == (6, "memory://a")
        report = share(bucket, target)
    else:
        report = share(MemoryObjects.of(store_with_images, listable=False), target)
    assert (report.frames, report.store_frames, report.sent, report.missing) == (6, 6, 6, 0)
    assert files_of(target) == files_of(store_with_images)
    same_answers(store_with_images, target)
    for frame_id in SOURCE.frame_ids:
        assert open_store(target).image(frame_id).tobytes() == SOURCE.load(frame_id).image.tobytes()


def test_what_is_there_is_skipped_and_not_read_again(store_with_images: Path) -> None:
    bucket = MemoryObjects()
    share(store_with_images, bucket)
    source = MemoryObjects.of(store_with_images)
    before = dict(bucket.content)
    report = share(source, bucket)
    assert (report.sent, report.there_before, report.num_bytes) == (0, 6, 0)
    assert bucket.content == before
    assert not [key for key in source.reads if "/c/" in key and "frame_id" not in key], "no shard was read"


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_a_push_stopped_after_any_object_goes_on_from_there(plain: Path, tmp_path: Path, place: str) -> None:
    keys = len(MemoryObjects.of(plain).content)
    expected = files_of(plain)
    for stopped_after in range(0, keys, 1 if place == "bucket" else 3):
        left = [stopped_after]

        def fail(key: str, left: list[int] = left) -> None:
            if not left[0]:
                raise StoreError("the plug was pulled")
            left[0] -= 1

        bucket = MemoryObjects(before_put=fail)
        with pytest.raises(StoreError, match="plug"):
            copy_store(FolderObjects(plain), bucket, jobs=1)
        if place == "folder":
            target = bucket.save(tmp_path / str(stopped_after))
            share(plain, target)
            assert {name: data for name, data in files_of(target).items() if "claims" not in name} == expected
        else:
            bucket.before_put = lambda key: None
            share(plain, bucket)
            assert bucket.content == expected


def test_progress_is_in_bytes(plain: Path, tmp_path: Path) -> None:
    class Bar:
        def __init__(self, *arguments: object) -> None:
            self.arguments, self.seen = arguments, list[int]()
            bars.append(self)

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *arguments: object) -> None:
            pass

        def update(self, count: int) -> None:
            self.seen.append(count)

    bars: list[Bar] = []
    places = FolderObjects(plain), FolderObjects(tmp_path / "b.zarr")
    report = copy_store(*places, progress=Bar)  # type: ignore[arg-type]
    sizes = [file.stat().st_size for file in (plain / "residual" / "c").rglob("*") if file.is_file()]
    assert [(bar.arguments, sorted(bar.seen)) for bar in bars] == [((sum(sizes), "copy", "B"), sorted(sizes))]
    assert report.num_bytes == sum(sizes)


def test_only_the_shards_needed_are_pulled_and_the_rest_later(store_with_images: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.zarr"
    report = share(store_with_images, target, [SOURCE.frame_ids[3], SOURCE.frame_ids[2]])
    assert (report.frames, report.sent, report.there_before) == (2, 2, 0)
    store = open_store(target, allow_partial=True)
    assert list(store) == SOURCE.frame_ids[2:4]
    assert store.has_image(SOURCE.frame_ids[2])
    with pytest.raises(StoreError, match="not finished"):
        open_store(target)
    share(store_with_images, target, SOURCE.frame_ids[:3])
    made_again = precompute(FormulaTeacher(), SOURCE, target, PrecomputeConfig(shard_frames=2, batch_size=2))
    assert made_again.made == 2, "precompute made the last shard, and no other"
    same_answers(store_with_images, target)


def test_frames_that_the_store_does_not_have_are_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 2 frames are not in the frame list of .*\(elsewhere\).*frames like"):
        share(plain, tmp_path / "b.zarr", [FRAMES[0], "elsewhere"])
    assert not (tmp_path / "b.zarr").exists()


def test_frames_that_the_maker_left_out_are_said_and_no_error(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr", skipped=[("blind", "no LiDAR")])
    said: list[str] = []
    places = FolderObjects(tmp_path / "a.zarr"), FolderObjects(tmp_path / "b.zarr")
    report = copy_store(*places, frame_ids=[FRAMES[0], "blind"], note=said.append)
    assert report.frames == 4
    assert said == ["1 frames have no response in this store, its maker left them out (blind)"]


def test_a_puller_on_a_growing_store_takes_what_is_finished(tmp_path: Path) -> None:
    growing, target = tmp_path / "growing.zarr", tmp_path / "b.zarr"
    source = MemoryFrames(14, image_size=(16, 24))
    reports: list[ShareReport] = []

    class Teacher(FormulaTeacher):
        def predict_frames(self, frames):  # type: ignore[no-untyped-def]
            if growing.exists():
                reports.append(share(growing, target))
            return super().predict_frames(frames)

    precompute(Teacher(), source, growing, PrecomputeConfig(shard_frames=2, batch_size=2, with_images=True))
    reports.append(share(growing, target))
    frames = [report.frames for report in reports]
    assert frames == sorted(frames)
    assert any(0 < count < 14 for count in frames), frames
    assert reports[0].missing > 0
    assert frames[-1] == 14
    assert files_of(target) == files_of(growing)
    same_answers(growing, target)


@pytest.mark.parametrize("listable", [True, False])
def test_nothing_without_a_record_is_taken(plain: Path, tmp_path: Path, listable: bool) -> None:
    source = MemoryObjects.of(plain, listable=listable)
    del source.content[RECORD_1]
    report = share(source, tmp_path / "b.zarr")
    assert (report.frames, report.sent, report.missing) == (6, 2, 1)
    assert not (tmp_path / "b.zarr" / SHARD_1).exists()


def test_a_shard_without_its_responses_and_images_is_one_that_is_missing(
    store_with_images: Path, tmp_path: Path
) -> None:
    source = MemoryObjects.of(store_with_images)
    del source.content[RECORD_1], source.content[f"images/{RECORD_1}"]
    assert share(source, tmp_path / "b.zarr").missing == 1


def spoil(key: str, change: Callable[[bytes], bytes]) -> Callable[[MemoryObjects], None]:
    def work(objects: MemoryObjects) -> None:
        objects.content[key] = change(objects.content[key])

    return work


def flip(data: bytes) -> bytes:
    return data[:40] + bytes([data[40] ^ 1]) + data[41:]


@pytest.mark.parametrize(
    ("damage", "key"),
    [
        (spoil(SHARD_1, lambda data: data[: len(data) // 2]), SHARD_1),
        (spoil(SHARD_1, flip), SHARD_1),
        (lambda objects: objects.content.pop(SHARD_1), SHARD_1),
        (lambda objects: objects.content.update({SHARD_1: objects.content["residual/c/0/0/0"]}), SHARD_1),
        (spoil(RECORD_1, flip), RECORD_1),
        (lambda objects: objects.content.update({RECORD_1: objects.content["done/00000.json"]}), RECORD_1),
        (lambda objects: objects.content.pop("digest/c/1"), "digest/c/1"),
        (lambda objects: objects.content.update({"digest/c/1": objects.content["digest/c/0"]}), "digest/c/1"),
    ],
    ids=["torn", "bit", "missing", "swapped", "record", "record swapped", "no digests", "digests swapped"],
)
@pytest.mark.parametrize("listable", [True, False])
def test_a_damaged_shard_is_refused_by_name_and_the_others_arrive(
    plain: Path, tmp_path: Path, damage: Callable[[MemoryObjects], None], key: str, listable: bool
) -> None:
    source = MemoryObjects.of(plain, listable=listable)
    damage(source)
    if not listable and key == RECORD_1:
        with pytest.raises(StoreError, match="memory://plain"):
            share(source, tmp_path / "b.zarr")
        return
    with pytest.raises(StoreError, match="is damaged") as caught:
        share(source, tmp_path / "b.zarr")
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(open_store(tmp_path / "b.zarr", allow_partial=True)) == FRAMES[:4] + FRAMES[8:]
    assert verify_store(tmp_path / "b.zarr").problems == ()


def test_frames_are_decoded_and_compared_with_their_digests(plain: Path, tmp_path: Path) -> None:
    source = MemoryObjects.of(plain)
    record = DoneRecord.from_bytes(source.content[RECORD_1])
    wrong = replace(record, digests=record.digests[::-1])  # the file is the one that the record speaks of
    source.content[RECORD_1] = wrong.to_bytes()
    source.content["digest/c/1"] = encode_digests(wrong.digests, 4)
    with pytest.raises(StoreError, match="shard 1: frame 0 of the shard does not have the digest"):
        share(source, tmp_path / "b.zarr")
    assert len(open_store(tmp_path / "b.zarr", allow_partial=True)) == 6


@pytest.mark.parametrize("key", ["images/image/c/1/0/0/0", "images/intrinsics/c/1/0/0", "images/done/00001.json"])
def test_damaged_images_are_refused_by_name(store_with_images: Path, tmp_path: Path, key: str) -> None:
    source = MemoryObjects.of(store_with_images)
    source.content[key] = flip(source.content[key])
    with pytest.raises(StoreError, match=key):
        share(source, tmp_path / "b.zarr")
    assert list(open_store(tmp_path / "b.zarr")) == SOURCE.frame_ids, "the responses are whole"


def test_damaged_statistics_stay_behind_with_a_word(store_with_images: Path, tmp_path: Path) -> None:
    source = MemoryObjects.of(store_with_images)
    source.content["statistics/00001.json"] = flip(source.content["statistics/00001.json"])
    report = share(source, tmp_path / "b.zarr")
    assert report.frames == 6
    assert len(report.notes) == 1
    assert "statistics of shard 1" in report.notes[0]
    assert not (tmp_path / "b.zarr" / "statistics" / "00001.json").exists()


@pytest.mark.parametrize("key", ["zarr.json", "residual/zarr.json", "frame_id/c/0"])
def test_damaged_metadata_are_refused_and_nothing_is_written(plain: Path, tmp_path: Path, key: str) -> None:
    source = MemoryObjects.of(plain)
    source.content[key] = source.content[key].replace(b"80.0", b"90.0")[:-7]
    with pytest.raises(StoreError, match=r"memory://plain.zarr is damaged.*" + key):
        share(source, tmp_path / "b.zarr")
    del source.content[key]
    with pytest.raises(StoreError, match=key):
        share(source, tmp_path / "b.zarr")
    assert not (tmp_path / "b.zarr").exists()


@pytest.mark.parametrize(
    ("bomb", "message"),
    [
        (SHARD_1, "1000000000000 bytes, the done-record says"),
        (RECORD_1, "it has 1000000000000 bytes, and may have 67108864"),
        ("zarr.json", "it has 1000000000000 bytes, and may have 67108864"),
    ],
)
def test_objects_too_large_for_what_they_are_are_not_read(plain: Path, tmp_path: Path, bomb: str, message: str) -> None:
    class Bomb(MemoryObjects):
        def size(self, key: str) -> int:
            return 10**12 if key == bomb else super().size(key)

    source = Bomb()
    source.content = MemoryObjects.of(plain).content
    with pytest.raises(StoreError, match=message):
        share(source, tmp_path / "b.zarr")


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_a_target_with_other_settings_is_refused_untouched(plain: Path, tmp_path: Path, place: str) -> None:
    other = partial(tmp_path / "other.zarr", max_depth=100.0)
    target = FolderObjects(other) if place == "folder" else MemoryObjects.of(other)
    before = files_of(other)
    with pytest.raises(StoreError, match=r"differ in depth\.max \(100\.0, now 80\.0\)\."):
        share(plain, target)
    assert before == (files_of(other) if place == "folder" else target.content)  # type: ignore[attr-defined]
    smaller = partial(tmp_path / "smaller.zarr", shard_frames=2)
    with pytest.raises(StoreError, match=r"frames a shard of the responses \(2, now 4\)"):
        share(plain, smaller)


def test_a_target_with_other_things_is_refused_untouched(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "photo.png").write_bytes(b"...")
    with pytest.raises(StoreError, match=r"holds other things \(photo.png\) and no store"):
        share(plain, tmp_path / "home")
    assert list(files_of(tmp_path / "home")) == ["photo.png"]
    with pytest.raises(StoreError, match="is the source and the target"):
        share(plain, plain)
    with pytest.raises(ConfigError, match="can only be read"):
        share(plain, MemoryObjects(listable=False))
    with pytest.raises(StoreError, match="There is no store at"):
        share(tmp_path / "absent", tmp_path / "b.zarr")


def keys_put(source: Path) -> list[str]:
    """What a push puts into an empty bucket, in its order."""
    keys: list[str] = []
    share(source, MemoryObjects(before_put=keys.append))
    return keys


class Rival:
    """Pushes a whole store to the bucket before the first pusher puts the object `moment` there."""

    def __init__(self, source: Path, moment: str) -> None:
        self.source, self.moment, self.refused = source, moment, list[str]()
        self.bucket = MemoryObjects("memory://bucket", before_put=self.wait)

    def wait(self, key: str) -> None:
        if key == self.moment:
            self.bucket.before_put = lambda key: None
            self.push(self.source)

    def push(self, source: Path) -> None:
        try:
            share(source, self.bucket)
        except StoreError as error:
            self.refused.append(str(error))


@pytest.mark.parametrize("difference", ["settings", "frames"])
def test_of_two_that_begin_different_stores_one_stops(plain: Path, tmp_path: Path, difference: str) -> None:
    other = tmp_path / "other.zarr"
    if difference == "settings":
        partial(other, 0, max_depth=100.0)
    else:
        make_store(other, count=11)
    for number, moment in enumerate(keys_put(plain)[:6]):
        rival = Rival(other, moment)
        rival.push(plain)
        assert len(rival.refused) == 1, rival.refused
        assert "differ in" in rival.refused[0]
        assert verify_store(rival.bucket.save(tmp_path / str(number))).problems == ()


@pytest.mark.parametrize("noise", [0.0, 0.5], ids=["the same responses", "other responses"])
def test_two_pushers_at_any_moment_do_no_harm(tmp_path: Path, noise: float) -> None:
    one = partial(tmp_path / "one.zarr", 0, 1)
    other = partial(tmp_path / "other.zarr", 1, 2, noise=noise)
    winners = set()
    for number, moment in enumerate(keys_put(one)):
        rival = Rival(other, moment)
        rival.push(one)
        assert rival.refused == []
        assert verify_store(rival.bucket.save(tmp_path / str(number))).problems == ()
        assert not [key for key in rival.bucket.content if "claims" in key]
        winners.add(rival.bucket.content[SHARD_1] == (one / SHARD_1).read_bytes())
    assert winners == ({True} if noise == 0 else {True, False}), "one of the two, whole"


def test_bytes_of_another_encoder_are_taken_over(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiekd_cache.store.chunks as chunks
    from tiekd_cache.store.writer import StoreWriter as Writer

    monkeypatch.setattr(
        "tiekd_cache.store.writer.encode_chunk", lambda residual: chunks.with_crc(other.encode(residual))
    )
    from numcodecs import Blosc

    other = Blosc(cname="zstd", clevel=9, shuffle=Blosc.BITSHUFFLE)
    writer = Writer.open(tmp_path / "b.zarr", build_schema(FRAMES), FRAMES, shard_frames=4)
    write_all(writer, depth_maps(10))
    bucket = MemoryObjects.of(tmp_path / "b.zarr")
    assert bucket.content[SHARD_1] != (plain / SHARD_1).read_bytes()
    del bucket.content[RECORD_1]
    share(plain, bucket)
    record = json.loads(bucket.content[RECORD_1])
    assert record["file_bytes"] == len(bucket.content[SHARD_1])
    assert verify_store(bucket.save(tmp_path / "c.zarr")).problems == ()


@pytest.mark.parametrize("left", [b"", b"torn"])
def test_what_an_interrupted_writer_left_is_replaced_in_a_folder_and_named_in_a_bucket(
    plain: Path, tmp_path: Path, left: bytes
) -> None:
    target = shutil.copytree(plain, tmp_path / "b.zarr")
    (target / RECORD_1).unlink()
    (target / SHARD_1).write_bytes(left)
    bucket = MemoryObjects.of(target)
    share(plain, target)
    same_answers(plain, target)
    with pytest.raises(ConflictError, match=SHARD_1):
        share(plain, bucket)
    assert RECORD_1 not in bucket.content


def test_a_shard_that_precompute_is_making_is_waited_for(plain: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.zarr"
    writer = open_writer(target)
    depth = depth_maps(10)
    with writer.claim(1) as mine:
        assert mine
        reports: list[ShareReport] = []
        puller = threading.Thread(target=lambda: reports.append(share(plain, target)))
        puller.start()
        while puller.is_alive() and not (target / "done" / "00002.json").exists():
            time.sleep(0.01)
        assert not (target / SHARD_1).exists()
        writer.write_shard(1, depth[4:8])
    puller.join()
    assert [report.sent for report in reports] == [2]
    same_answers(plain, target)


@pytest.mark.parametrize("key", ["frame_id/zarr.json", SHARD_1])
@pytest.mark.parametrize("spoil", [flip, lambda data: data + b"more"], ids=["another byte", "longer"])
def test_what_reads_back_differently_gets_no_record(plain: Path, key: str, spoil: Callable[[bytes], bytes]) -> None:
    class Faulty(MemoryObjects):
        def put(self, name: str, data: bytes, *, if_absent: bool = False) -> bool:
            return super().put(name, spoil(data) if name == key else data, if_absent=if_absent)

    bucket = Faulty()
    with pytest.raises(StoreError, match=f"{key} was written .* reads back differently"):
        share(plain, bucket)
    assert RECORD_1 not in bucket.content


def test_names_in_a_listing_are_never_written_to(plain: Path, tmp_path: Path) -> None:
    source = MemoryObjects.of(plain)
    for key in ("../evil", "done/../../evil.json", "/etc/evil", "done/99999.json", "residual/c/../../../evil"):
        source.content[key] = b"evil"
    share(source, tmp_path / "deep" / "b.zarr")
    assert {file.name for file in (tmp_path / "deep").iterdir()} == {"b.zarr"}
    assert files_of(tmp_path / "deep" / "b.zarr") == files_of(plain)


def test_parts_are_merged_and_one_that_is_whole_replaces_a_damaged_one(plain: Path, tmp_path: Path) -> None:
    one, two = partial(tmp_path / "one.zarr", 0, 1), partial(tmp_path / "two.zarr", 1, 2)
    (one / SHARD_1).write_bytes(b"torn")
    target = tmp_path / "c.zarr"
    report = merge_stores([FolderObjects(one), FolderObjects(two)], FolderObjects(target))
    assert (report.frames, report.sent) == (10, 3)
    same_answers(plain, target)
    again = merge_stores([FolderObjects(one), FolderObjects(target)], FolderObjects(target))
    assert (again.sent, again.there_before) == (0, 3)
    begun = partial(tmp_path / "begun.zarr", 2)
    merge_stores([FolderObjects(two)], FolderObjects(begun))
    merge_stores([FolderObjects(target)], FolderObjects(begun))
    same_answers(plain, begun)


def test_images_are_merged_where_any_part_has_them(store_with_images: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.zarr"
    precompute(FormulaTeacher(), SOURCE, bare, PrecomputeConfig(shard_frames=2, batch_size=2))
    target = tmp_path / "c.zarr"
    report = merge_stores([FolderObjects(bare), FolderObjects(store_with_images)], FolderObjects(target))
    assert (report.frames, report.sent) == (6, 6)
    assert all(open_store(target).has_image(frame_id) for frame_id in SOURCE.frame_ids)
    same_answers(store_with_images, target)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"max_depth": 100.0}, r"depth\.max \(80\.0, now 100\.0\)"),
        ({"step": 1 / 32}, r"depth\.step \(0\.015625, now 0\.03125\)"),
        ({"teacher": "other"}, r'teacher\.name \("formula", now "other"\)'),
        ({"digest": "1" * 64}, r"teacher\.digest"),
        ({"frame_ids": FRAMES[:9]}, r"dataset\.frames_digest"),
    ],
)
def test_parts_of_different_stores_are_not_merged(
    plain: Path, tmp_path: Path, changes: dict[str, object], field: str
) -> None:
    frame_ids = changes.pop("frame_ids", FRAMES)
    teacher = dict(build_schema(FRAMES).teacher)
    teacher["name"], teacher["digest"] = changes.pop("teacher", "formula"), changes.pop("digest", "0" * 64)
    schema = build_schema(frame_ids, teacher=teacher, **changes)  # type: ignore[arg-type]
    StoreWriter.open(tmp_path / "other.zarr", schema, frame_ids, shard_frames=4)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=rf"other\.zarr cannot be joined with .*differ in {field}"):
        merge_stores([FolderObjects(plain), FolderObjects(tmp_path / "other.zarr")], FolderObjects(tmp_path / "c"))
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("where", ["sources", "target"])
def test_shards_that_disagree_are_named_and_nothing_is_merged(plain: Path, tmp_path: Path, where: str) -> None:
    other = partial(tmp_path / "other.zarr", 0, 2, noise=0.5)
    target = other if where == "target" else tmp_path / "c.zarr"
    sources = [plain] if where == "target" else [plain, other]
    before = files_of(other)
    with pytest.raises(ConflictError, match=r"hold different responses in 2 shards \(0, 2\)"):
        merge_stores([FolderObjects(path) for path in sources], FolderObjects(target))
    assert files_of(other) == before
    assert not (tmp_path / "c.zarr").exists()
