"""A signature when its store is pushed, pulled and merged: it goes where it holds, or a note says why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from memory_objects import MemoryObjects
from signing_helpers import signers, write_key
from store_helpers import build_schema, depth_maps, files_of, frame_list, make_store

from tiekd_cache.errors import StoreError, TrustError
from tiekd_cache.openssh import Signers, SigningKey
from tiekd_cache.sharing import ShareReport, copy_store, merge_stores
from tiekd_cache.store import StoreWriter, open_store, sign_store, verify_store
from tiekd_cache.store.objects import FolderObjects, Objects
from tiekd_cache.store.signature import FILE

FRAMES = frame_list(10)
RECORD_1 = "done/00001.json"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SigningKey]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: write_key(folder / name) for name in ("ann", "ben")}


@pytest.fixture(scope="module")
def trust(keys: dict[str, SigningKey], tmp_path_factory: pytest.TempPathFactory) -> Signers:
    return signers(tmp_path_factory.mktemp("trust") / "allowed_signers", **keys)


@pytest.fixture
def store(keys: dict[str, SigningKey], tmp_path: Path) -> Path:
    """Ten frames in shards of four, signed by Ann."""
    make_store(tmp_path / "a.zarr")
    sign_store(tmp_path / "a.zarr", keys["ann"])
    return tmp_path / "a.zarr"


def partial(path: Path, *shards: int) -> Path:
    """A store of the ten frames with only some of its shards."""
    writer = StoreWriter.open(path, build_schema(FRAMES), FRAMES, shard_frames=4)
    for shard in shards:
        with writer.claim(shard):
            writer.write_shard(shard, depth_maps(10)[shard * 4 : shard * 4 + 4])
    return path


def share(source: Path | Objects, target: Path | Objects, **options: object) -> ShareReport:
    places = [FolderObjects(place) if isinstance(place, Path) else place for place in (source, target)]
    return copy_store(places[0], places[1], **options)  # type: ignore[arg-type]


def signer(path: Path, trust: Signers) -> str:
    signed = open_store(path, allow_partial=True, trust=trust).signed
    assert signed is not None
    assert verify_store(path, trust=trust).whole
    return signed.signer


def test_a_signature_goes_along_through_every_kind_of_place(store: Path, trust: Signers, tmp_path: Path) -> None:
    bucket = MemoryObjects()
    assert share(store, bucket).notes == ()
    share(bucket, tmp_path / "b.zarr")
    share(MemoryObjects.of(tmp_path / "b.zarr", listable=False), tmp_path / "c.zarr")
    assert files_of(tmp_path / "c.zarr") == files_of(store)
    assert signer(tmp_path / "c.zarr", trust) == "ann@lab"
    assert share(store, bucket).notes == (), "again"


def test_a_part_that_is_pulled_is_signed_and_stays_so_when_it_is_completed(
    store: Path, trust: Signers, tmp_path: Path
) -> None:
    share(store, tmp_path / "b.zarr", frame_ids=[FRAMES[5]])
    assert len(open_store(tmp_path / "b.zarr", allow_partial=True, trust=trust)) == 4
    share(store, tmp_path / "c.zarr", frame_ids=[FRAMES[0], FRAMES[9]])
    report = merge_stores(
        [FolderObjects(tmp_path / "b.zarr"), FolderObjects(tmp_path / "c.zarr")], FolderObjects(tmp_path / "d.zarr")
    )
    assert report.notes == ()
    assert signer(tmp_path / "d.zarr", trust) == "ann@lab"


def test_a_signature_stays_behind_where_the_target_holds_more(
    keys: dict[str, SigningKey], trust: Signers, tmp_path: Path
) -> None:
    source, target = partial(tmp_path / "a.zarr", 0, 2), partial(tmp_path / "b.zarr", 1)
    sign_store(source, keys["ann"])
    report = share(source, target)
    assert len(report.notes) == 1
    assert "stayed behind: it does not hold for all that is at" in report.notes[0]
    with pytest.raises(TrustError, match="is not signed"):
        open_store(target, trust=trust)


def test_a_signature_at_the_target_that_no_longer_holds_is_said_and_replaced_by_one_that_does(
    keys: dict[str, SigningKey], trust: Signers, tmp_path: Path
) -> None:
    source, bucket = partial(tmp_path / "a.zarr", 0), MemoryObjects()
    sign_store(source, keys["ann"])
    share(source, bucket)
    first = bucket.content[FILE]
    partial(source, 1, 2)
    (source / FILE).unlink()
    report = share(source, bucket)
    assert len(report.notes) == 1
    assert "does not hold for all that is there now" in report.notes[0]
    assert bucket.content[FILE] == first, "nothing of somebody else's is removed"
    sign_store(source, keys["ben"])
    assert share(source, bucket).notes == ()
    assert signer(bucket.save(tmp_path / "b.zarr"), trust) == "ben@lab"


def test_a_signature_that_holds_is_only_replaced_by_one_with_the_same_key(
    store: Path, keys: dict[str, SigningKey], trust: Signers, tmp_path: Path
) -> None:
    target = tmp_path / "b.zarr"
    share(store, target)
    before = (store / FILE).read_bytes()
    while (store / FILE).read_bytes() == before:  # signed in another second
        sign_store(store, keys["ann"])
    assert share(store, target).notes == ()
    assert (target / FILE).read_bytes() == (store / FILE).read_bytes() != before
    sign_store(store, keys["ben"])
    report = share(store, target)
    assert len(report.notes) == 1
    assert f"keeps its signature by {keys['ann'].public.fingerprint}" in report.notes[0]
    assert signer(target, trust) == "ann@lab"


def test_parts_that_different_people_signed_are_merged_and_the_result_is_not_signed(
    keys: dict[str, SigningKey], trust: Signers, tmp_path: Path
) -> None:
    parts = [partial(tmp_path / "ann.zarr", 0, 1), partial(tmp_path / "ben.zarr", 2)]
    for part, key in zip(parts, keys.values(), strict=True):
        sign_store(part, key)
    target = FolderObjects(tmp_path / "whole.zarr")
    report = merge_stores([FolderObjects(part) for part in parts], target)
    assert len(report.notes) == 1
    assert "stayed behind" in report.notes[0]
    assert not (tmp_path / "whole.zarr" / FILE).exists()
    into = merge_stores([FolderObjects(parts[1])], FolderObjects(parts[0]))
    assert "does not hold for all that is there now" in into.notes[0]
    with pytest.raises(TrustError, match="1 finished shards"):
        open_store(parts[0], trust=trust)


def test_what_is_no_signature_stays_behind_with_a_word(store: Path, tmp_path: Path) -> None:
    (store / FILE).write_text("signed, Ann\n")
    report = share(store, tmp_path / "b.zarr")
    assert (report.frames, len(report.notes)) == (10, 1)
    assert "counts for nothing: it is no SSH signature" in report.notes[0]
    assert not (tmp_path / "b.zarr" / FILE).exists()


def test_a_signature_that_reads_back_differently_is_an_error(store: Path) -> None:
    class Faulty(MemoryObjects):
        def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
            return super().put(key, data[:-1] if key == FILE else data, if_absent=if_absent)

    with pytest.raises(StoreError, match="signature was written to memory://a and reads back differently"):
        share(store, Faulty())


def test_pull_with_trust_writes_nothing_that_was_not_signed(store: Path, trust: Signers, tmp_path: Path) -> None:
    share(store, tmp_path / "b.zarr", trust=trust)
    assert signer(tmp_path / "b.zarr", trust) == "ann@lab"
    web = MemoryObjects.of(store, listable=False)
    record = web.content[RECORD_1]
    web.content[RECORD_1] = json.dumps(json.loads(record)).encode()  # the same in another spelling
    with pytest.raises(StoreError, match=rf"not the one that was signed.*{RECORD_1}.*Everything else"):
        share(web, tmp_path / "c.zarr", trust=trust)
    assert list(open_store(tmp_path / "c.zarr", allow_partial=True)) == [*FRAMES[:4], *FRAMES[8:]]
    web.content[RECORD_1] = record
    share(web, tmp_path / "c.zarr", trust=trust)
    assert signer(tmp_path / "c.zarr", trust) == "ann@lab"
    web.content["digest/zarr.json"] += b" "
    with pytest.raises(StoreError, match=r"not the one that was signed.*digest/zarr\.json"):
        share(web, tmp_path / "d.zarr", trust=trust)
    assert not (tmp_path / "d.zarr").exists()


@pytest.mark.parametrize("why", ["unsigned", "another key", "more shards"])
def test_pull_with_trust_of_a_source_that_is_not_to_be_trusted_writes_nothing(
    store: Path, keys: dict[str, SigningKey], tmp_path: Path, why: str
) -> None:
    trust = signers(tmp_path / "allowed", ann=keys["ann"])
    if why == "unsigned":
        (store / FILE).unlink()
    elif why == "another key":
        sign_store(store, keys["ben"])
    else:
        kept = (store / RECORD_1).read_bytes()
        (store / RECORD_1).unlink()
        sign_store(store, keys["ann"])
        (store / RECORD_1).write_bytes(kept)
    messages = {"unsigned": "is not signed", "another key": "does not trust", "more shards": "1 finished shards"}
    with pytest.raises(TrustError, match=messages[why]):
        share(store, tmp_path / "b.zarr", trust=trust)
    assert not (tmp_path / "b.zarr").exists()


def test_a_pull_into_a_store_of_ones_own_keeps_it_and_says_that_it_is_not_signed(
    store: Path, trust: Signers, tmp_path: Path
) -> None:
    """Another maker began it: its attributes are not those that Ann signed."""
    schema = build_schema(FRAMES, created_by={"maker": "me"})
    StoreWriter.open(tmp_path / "b.zarr", schema, FRAMES, shard_frames=4)
    report = share(store, tmp_path / "b.zarr", trust=trust)
    assert report.frames == 10
    assert "stayed behind" in report.notes[0]
    assert "(zarr.json)" in report.notes[0]


def test_a_beginning_with_a_signature_alone_is_no_other_thing(store: Path, tmp_path: Path) -> None:
    (tmp_path / "b.zarr").mkdir()
    shutil.copy(store / FILE, tmp_path / "b.zarr" / FILE)
    assert share(store, tmp_path / "b.zarr").frames == 10
    assert files_of(tmp_path / "b.zarr") == files_of(store)
