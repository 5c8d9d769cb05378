"""A signed store: what is read of it is what was signed, or a trusting reader gets an error instead."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from distant_objects import DistantObjects
from fakes import FormulaTeacher, MemoryFrames
from hypothesis import given
from hypothesis import strategies as st
from memory_objects import MemoryObjects
from numcodecs import Blosc
from signing_helpers import signers, write_key
from store_helpers import all_files, arrays_of, depth_maps, files_of, frame_list, make_store, open_writer, write_all

from tiekd_cache.errors import ConfigError, StoreError, TrustError
from tiekd_cache.openssh import Signers, SigningKey
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.sharing import copy_store
from tiekd_cache.statistics import read_statistics
from tiekd_cache.store import open_store, sign_store, signing, verify_store
from tiekd_cache.store.cache import CachedObjects
from tiekd_cache.store.chunks import NotAsSigned, with_crc
from tiekd_cache.store.frames import SignedShards
from tiekd_cache.store.images import images_summary
from tiekd_cache.store.object_path import ObjectPath, StorePlace, as_path
from tiekd_cache.store.objects import FolderObjects
from tiekd_cache.store.record import DoneRecord
from tiekd_cache.store.signature import FILE, Manifest, StoreSignature, require_signed
from tiekd_cache.store.signing import stale_note
from tiekd_cache.store_choice import choose_store
from tiekd_cache.store_frames import StoreFrames
from tiekd_cache.teacher_stores import open_stores, stores_record

SOURCE = MemoryFrames(6)
SHARD_1 = "residual/c/1/0/0"
RECORD_1 = "done/00001.json"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return write_key(tmp_path_factory.mktemp("keys") / "ann")


@pytest.fixture(scope="module")
def trust(key: SigningKey, tmp_path_factory: pytest.TempPathFactory) -> Signers:
    """Who trusts Ann."""
    return signers(tmp_path_factory.mktemp("trust") / "allowed_signers", ann=key)


@pytest.fixture(scope="module")
def made(store_with_images: Path, key: SigningKey, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed store with images and statistics: six frames, shards of two."""
    path = Path(shutil.copytree(store_with_images, tmp_path_factory.mktemp("signed") / "a.zarr"))
    sign_store(path, key)
    return path


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(made, tmp_path / "a.zarr"))


@pytest.fixture
def plain(key: SigningKey, tmp_path: Path) -> Path:
    """A signed store of responses alone: ten frames, shards of four."""
    make_store(tmp_path / "plain.zarr")
    sign_store(tmp_path / "plain.zarr", key)
    return tmp_path / "plain.zarr"


def read_all(place: StorePlace, trust: Signers | None) -> None:
    """Read everything that a store holds."""
    store = open_store(place, trust=trust)
    store.read(store.frame_ids, threads=4)
    for frame_id in store:
        if store.has_image(frame_id):
            store.image(frame_id)
            store.intrinsics(frame_id)


def refused(place: Path, trust: Signers, message: str) -> None:
    """Opening says so in one line."""
    with pytest.raises(StoreError, match=message) as caught:
        open_store(place, allow_partial=True, trust=trust)
    assert "\n" not in str(caught.value)


def test_a_signed_store_is_trusted_and_reads_as_before(made: Path, trust: Signers, key: SigningKey) -> None:
    store = open_store(made, trust=trust)
    assert store.signed is not None
    assert (store.signed.signer, store.signed.key) == ("ann@lab", key.public.fingerprint)
    assert store.read(store.frame_ids).tobytes() == open_store(made).read(store.frame_ids).tobytes()
    assert store.image(store.frame_ids[3]).tobytes() == SOURCE.load(SOURCE.frame_ids[3]).image.tobytes()
    assert len(read_statistics(made, trust).shards) == 3
    assert images_summary(made, trust) == images_summary(made)
    report = verify_store(made, trust=trust)
    assert (report.problems, report.notes) == ((), ())
    assert verify_store(made).notes == (), "the signature belongs to the store"


def test_the_signature_names_every_file_but_the_shards_which_their_records_name(made: Path) -> None:
    data = (made / FILE).read_bytes()
    files = StoreSignature.from_bytes(data).manifest.files
    present = {file.relative_to(made).as_posix() for file in all_files(made)}
    shards = {name for name in present if name.startswith(("residual/c/", "images/image/c/"))}
    assert set(files) == present - shards - {FILE}
    assert len(shards) == 6
    assert StoreSignature.from_bytes(data).to_bytes() == data


def test_a_store_with_a_signature_is_a_zarr_store_as_before(plain: Path) -> None:
    signed = arrays_of(plain)
    (plain / FILE).unlink()
    assert signed == arrays_of(plain)


def test_every_file_is_verified_to_be_spelled_as_signed(made: Path, trust: Signers) -> None:
    """JSON says the same with a blank more: only the signature knows."""
    objects = MemoryObjects.of(made)
    names = [name for name in objects.content if name.endswith(".json")]
    assert len(names) == 4 + 3 + 3 + 3 + 3
    for name in names:
        objects.content[name] += b" "
        report = verify_store(as_path(ObjectPath(objects)), trust=trust)
        assert [problem for problem in report.problems if name in problem and "signed" in problem], name
        assert verify_store(as_path(ObjectPath(objects))).whole
        objects.content[name] = objects.content[name][:-1]


def test_bytes_that_mean_nothing_are_signed_too(plain: Path, trust: Signers) -> None:
    """Digests of frames that the last shard does not have, with a checksum that agrees."""
    file = plain / "digest" / "c" / "2"
    data = bytearray(file.read_bytes()[:-4])
    data[-1] ^= 1
    file.write_bytes(with_crc(bytes(data)))
    assert verify_store(plain).whole
    assert [problem for problem in verify_store(plain, trust=trust).problems if "digest/c/2" in problem]


@given(data=st.data())
def test_any_changed_byte_is_refused(made: Path, trust: Signers, data: st.DataObject) -> None:
    objects = MemoryObjects.of(made)
    name = data.draw(st.sampled_from(sorted(name for name, content in objects.content.items() if content)))
    content = bytearray(objects.content[name])
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    objects.content[name] = bytes(content)
    try:
        report = verify_store(as_path(ObjectPath(objects)), trust=trust)
    except StoreError:
        return  # the signature does not hold, or the store is none any more
    assert not report.whole, f"{name} at {place}"


def test_any_changed_byte_of_the_signature_is_refused_at_opening(made: Path, trust: Signers) -> None:
    objects = MemoryObjects.of(made)
    whole = objects.content[FILE]
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        objects.content[FILE] = bytes(content)
        with pytest.raises(TrustError, match=r"does not hold|is signed with the key"):
            require_signed(as_path(ObjectPath(objects)), trust)


@pytest.mark.parametrize(
    "name", ["zarr.json", "done/00002.json", "frame_id/c/0", "images/zarr.json", "images/done/00001.json"]
)
def test_edits_that_are_consistent_in_themselves_are_refused_before_use(path: Path, trust: Signers, name: str) -> None:
    """What a reader without trust takes: another spelling, no digest of which is wrong."""
    if name == "frame_id/c/0":
        from numcodecs.vlen import VLenUTF8
        from numcodecs.zstd import Zstd

        ids = np.array(SOURCE.frame_ids, dtype=object)
        (path / name).write_bytes(with_crc(Zstd(level=9).encode(VLenUTF8().encode(ids))))
    else:
        document = json.loads((path / name).read_bytes())
        (path / name).write_text(json.dumps(document, indent=3))
    read_all(path, None)
    with pytest.raises(StoreError, match=r"not the one that was signed"):
        read_all(path, trust)
    if not name.startswith("images"):
        refused(path, trust, r"not the one that was signed: it was changed since, or is another store's")
    assert not verify_store(path, trust=trust).whole


def test_a_shard_changed_with_its_record_and_digests_is_refused(plain: Path, trust: Signers, tmp_path: Path) -> None:
    write_all(open_writer(tmp_path / "other.zarr"), depth_maps(10, seed=5))
    for name in (SHARD_1, RECORD_1, "digest/c/1"):
        shutil.copy(tmp_path / "other.zarr" / name, plain / name)
    assert verify_store(plain).whole, "whoever asks for no signature sees nothing"
    refused(plain, trust, rf"not the one that was signed.*{RECORD_1}.*copy the store again from whoever signed it")
    report = verify_store(plain, trust=trust)
    assert [problem for problem in report.problems if RECORD_1 in problem]
    assert report.frames_checked == 6, "the other shards are whole"


def recompressed(store: Path, shard: str) -> bytes:
    """A shard with the same responses in other bytes, under the same record: crc32c and digests agree."""
    from tiekd_cache.store import chunks
    from tiekd_cache.store.catalogue import open_catalogue
    from tiekd_cache.store.shard_file import ShardFile

    layout = open_catalogue(store).layout
    number = int(shard.split("/")[2])
    file, residual = ShardFile(layout, number), np.empty(layout.native_size, np.uint16)
    other = Blosc(cname="zstd", clevel=9, shuffle=Blosc.NOSHUFFLE)
    made = []
    for place in range(len(layout.positions(number))):
        file.residual(place, residual)
        made.append(with_crc(other.encode(residual)))
    return chunks.pack_shard(made, layout.shard_frames)


def test_a_frame_is_compared_by_sha256_before_it_is_used(plain: Path, trust: Signers) -> None:
    """crc32c finds accidents; whoever means it makes bytes that agree. They are not those that were signed."""
    frame_ids = frame_list(10)
    (plain / SHARD_1).write_bytes(recompressed(plain, SHARD_1))
    assert open_store(plain)[frame_ids[5]].shape == open_store(plain).schema.image_size
    store = open_store(plain, trust=trust)
    assert store[frame_ids[0]].tobytes() == open_store(plain)[frame_ids[0]].tobytes()
    with pytest.raises(
        StoreError, match=rf"the shard is not the one that was signed: .*{SHARD_1}, frame {frame_ids[5]}"
    ):
        store[frame_ids[5]]


def test_an_image_is_compared_by_sha256_before_it_is_used(path: Path, trust: Signers) -> None:
    objects = MemoryObjects.of(path)
    name = "images/intrinsics/c/1/0/0"
    matrices = np.frombuffer(objects.content[name][:-4], "<f8").copy()
    matrices[0] *= 2
    objects.content[name] = with_crc(matrices.tobytes())
    frame_id = SOURCE.frame_ids[2]
    assert open_store(objects).intrinsics(frame_id)[0, 0] == pytest.approx(2 * 721.5377)
    with pytest.raises(StoreError, match="not the one that was signed"):
        open_store(objects, trust=trust).intrinsics(frame_id)
    objects = MemoryObjects.of(path)
    shard = "images/image/c/1/0/0/0"
    data = bytearray(objects.content[shard])
    record = DoneRecord.from_bytes(objects.content["images/done/00001.json"])
    assert record.file_bytes == len(data)
    objects.content[shard] = bytes(data) + bytes(data)  # index at the end, offsets still valid: frames agree
    assert open_store(objects).image(frame_id).tobytes() == SOURCE.load(frame_id).image.tobytes()
    with pytest.raises(StoreError, match="the shard is not the one that was signed"):
        open_store(objects, trust=trust).image(frame_id)


def test_a_shard_is_read_whole_once_and_each_chunk_compared_from_then_on(plain: Path) -> None:
    from tiekd_cache.store.catalogue import open_catalogue
    from tiekd_cache.store.shard_file import ShardFile

    catalogue = open_catalogue(plain)
    file, reads = ShardFile(catalogue.layout, 0), []

    def whole() -> bytes:
        reads.append(1)
        return file.read_all()

    shards = SignedShards(catalogue.layout, catalogue.record)
    for place in range(4):
        shards.check(0, place, file.chunk(place), whole)
    with pytest.raises(NotAsSigned):
        shards.check(0, 0, file.chunk(1), whole)
    assert len(reads) == 1


def test_a_store_that_is_not_signed_is_refused(path: Path, trust: Signers) -> None:
    (path / FILE).unlink()
    refused(path, trust, r"is not signed: it has no file signature")
    with pytest.raises(TrustError):
        verify_store(path, trust=trust)
    with pytest.raises(StoreError, match="There is no store at"):
        open_store(path.parent / "nowhere.zarr", trust=trust)


def test_a_store_signed_by_somebody_else_is_refused(path: Path, trust: Signers, tmp_path: Path) -> None:
    ben = write_key(tmp_path / "ben")
    sign_store(path, ben)
    refused(path, trust, rf"signed with the key {ben.public.fingerprint.replace('+', '[+]')}, which .* does not trust")
    read_all(path, signers(tmp_path / "both", ben=ben))


def test_the_signature_of_another_store_is_refused(plain: Path, path: Path, trust: Signers) -> None:
    for source, target in ((plain, path), (path, plain)):
        backup = (target / FILE).read_bytes()
        shutil.copy(source / FILE, target / FILE)
        refused(target, trust, r"zarr\.json")
        (target / FILE).write_bytes(backup)
    open_store(plain, trust=trust)


def test_the_signature_of_the_same_answers_made_again_is_refused(plain: Path, trust: Signers, tmp_path: Path) -> None:
    """One fingerprint, the same responses, another maker: somebody else answers for it."""
    write_all(open_writer(tmp_path / "b.zarr", created_by={"maker": "eve"}), depth_maps(10))
    shutil.copy(plain / FILE, tmp_path / "b.zarr" / FILE)
    assert open_store(tmp_path / "b.zarr").schema.fingerprint == open_store(plain).schema.fingerprint
    refused(tmp_path / "b.zarr", trust, "not the one that was signed")


def test_shards_added_after_signing_are_refused_until_it_is_signed_again(
    tmp_path: Path, trust: Signers, key: SigningKey
) -> None:
    writer = open_writer(tmp_path / "a.zarr")
    with writer.claim(0):
        writer.write_shard(0, depth_maps(10)[:4])
    report = sign_store(tmp_path / "a.zarr", key)
    assert (report.frames, report.store_frames, report.images) == (4, 10, 0)
    assert len(open_store(tmp_path / "a.zarr", allow_partial=True, trust=trust)) == 4
    with pytest.raises(StoreError, match="is not finished"):
        open_store(tmp_path / "a.zarr", trust=trust)
    assert stale_note(tmp_path / "a.zarr") is None
    write_all(writer, depth_maps(10))
    refused(tmp_path / "a.zarr", trust, r"has 2 finished shards \(the first: done/00001\.json\) that ann@lab has not")
    with pytest.raises(TrustError):
        verify_store(tmp_path / "a.zarr", trust=trust)
    assert "has changed since (digest/c/1)" in str(stale_note(tmp_path / "a.zarr")) or "done/00001" in str(
        stale_note(tmp_path / "a.zarr")
    )
    sign_store(tmp_path / "a.zarr", key)
    assert stale_note(tmp_path / "a.zarr") is None
    read_all(tmp_path / "a.zarr", trust)


def test_a_signature_in_a_bucket_that_no_longer_holds_is_said(
    plain: Path, trust: Signers, key: SigningKey, tmp_path: Path
) -> None:
    kept = {name: (plain / name).read_bytes() for name in (RECORD_1, "digest/c/1")}
    (plain / RECORD_1).unlink()
    sign_store(plain, key)
    bucket = MemoryObjects.of(plain)
    assert stale_note(bucket) is None
    bucket.content |= kept
    assert "until it is signed again: pull it to a folder, sign it there and push it" in str(stale_note(bucket))
    copy_store(bucket, FolderObjects(tmp_path / "b.zarr"))
    sign_store(tmp_path / "b.zarr", key)
    assert copy_store(FolderObjects(tmp_path / "b.zarr"), bucket).notes == ()
    assert stale_note(bucket) is None
    assert len(open_store(bucket, trust=trust)) == 10
    bucket.content[FILE] = b"signed, Ann"
    assert "cannot be read: it is no SSH signature" in str(stale_note(bucket))


def test_images_added_after_signing_are_refused_where_they_are_asked_for(
    tmp_path: Path, trust: Signers, key: SigningKey
) -> None:
    path = tmp_path / "a.zarr"
    config = PrecomputeConfig(shard_frames=2, batch_size=2)
    precompute(FormulaTeacher(), SOURCE, path, config)
    sign_store(path, key)
    precompute(FormulaTeacher(), SOURCE, path, replace(config, with_images=True))
    store = open_store(path, trust=trust)
    assert store[store.frame_ids[0]].any()
    with pytest.raises(StoreError, match=r"none of those that were signed .*images/zarr\.json"):
        store.image(store.frame_ids[0])
    with pytest.raises(StoreError, match="none of those that were signed"):
        images_summary(path, trust)
    assert [problem for problem in verify_store(path, trust=trust).problems if "images" in problem]


def test_a_shard_of_images_added_after_signing_is_refused(path: Path, trust: Signers, key: SigningKey) -> None:
    kept = (path / "images/done/00002.json").read_bytes()
    (path / "images/done/00002.json").unlink()
    assert sign_store(path, key).images == 4
    (path / "images/done/00002.json").write_bytes(kept)
    message = r"1 finished shards \(the first: images/done/00002\.json\) that ann@lab has not signed"
    with pytest.raises(TrustError, match=message):
        open_store(path, trust=trust).image(SOURCE.frame_ids[0])
    report = verify_store(path, trust=trust)
    assert [problem for problem in report.problems if "images/done/00002.json" in problem]


def test_a_part_of_a_signed_store_is_as_good(plain: Path, trust: Signers) -> None:
    for name in (SHARD_1, RECORD_1):
        (plain / name).unlink()
    assert len(open_store(plain, allow_partial=True, trust=trust)) == 6
    report = verify_store(plain, trust=trust)
    assert report.whole
    assert [note for note in report.notes if note.startswith("1 of the shards that were signed are not here")]


def test_statistics_that_were_changed_are_refused(path: Path, trust: Signers) -> None:
    file = path / "statistics" / "00001.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()), indent=2))
    assert len(read_statistics(path).shards) == 3
    with pytest.raises(StoreError, match=r"not the one that was signed.*statistics/00001\.json"):
        read_statistics(path, trust)
    file.unlink()
    assert read_statistics(path, trust).notes == ("no statistics for 1 of 3 finished shards",)


def test_a_store_that_is_not_whole_is_not_signed(plain: Path, key: SigningKey) -> None:
    before = (plain / FILE).read_bytes()
    data = bytearray((plain / SHARD_1).read_bytes())
    data[10] ^= 1
    (plain / SHARD_1).write_bytes(data)
    with pytest.raises(StoreError, match=rf"not whole and was not signed: .*{SHARD_1}"):
        sign_store(plain, key)
    assert (plain / FILE).read_bytes() == before


def test_more_than_a_signature_can_name_is_refused_before_the_store_is_read(
    plain: Path, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    signature = (plain / FILE).read_bytes()
    monkeypatch.setattr(signing, "SMALL_BYTES", len(signature))
    sign_store(plain, key)
    monkeypatch.setattr(signing, "SMALL_BYTES", len(signature) - 1)
    monkeypatch.setattr(signing, "verify_store", None)
    with pytest.raises(StoreError, match=f"would have {len(signature)} bytes, more than the {len(signature) - 1} "):
        sign_store(plain, key)


def test_only_stores_in_folders_are_signed(plain: Path, key: SigningKey, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a URL: this works on a folder"):
        sign_store("s3://team/stores/a.zarr", key)
    with pytest.raises(StoreError, match="There is no store at"):
        sign_store(tmp_path / "nowhere.zarr", key)


@pytest.mark.parametrize("added", ["done/00002.json", "images/done/00002.json"])
def test_a_store_that_grows_while_it_is_signed_is_not_signed_and_its_signer_told_to_do_it_again(
    path: Path, key: SigningKey, monkeypatch: pytest.MonkeyPatch, added: str
) -> None:
    before, record = (path / FILE).read_bytes(), (path / added).read_bytes()
    (path / added).unlink()

    def grow(*arguments: object, **options: object) -> object:
        (path / added).write_bytes(record)
        return verify_store(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("tiekd_cache.store.signing.verify_store", grow)
    with pytest.raises(StoreError, match=rf"grew while it was signed \({added}\).*again") as caught:
        sign_store(path, key)
    assert not isinstance(caught.value, TrustError), "which tells readers what to do"
    assert (path / FILE).read_bytes() == before


@pytest.mark.parametrize("place", ["zip", "bucket", "web server", "cache"])
def test_stores_elsewhere_are_trusted_and_refused_alike(made: Path, tmp_path: Path, trust: Signers, place: str) -> None:
    def at(folder: Path, number: int) -> StorePlace:
        if place == "zip":
            file = tmp_path / f"{number}.zip"
            with zipfile.ZipFile(file, "w") as archive:
                for name, data in files_of(folder).items():
                    archive.writestr(f"a.zarr/{name}", data)
            return file
        if place == "cache":
            return CachedObjects(FolderObjects(folder), tmp_path / "cache" / str(number))
        return MemoryObjects.of(folder, listable=place == "bucket")

    read_all(at(made, 0), trust)
    changes: list[tuple[str, Callable[[bytes], bytes | None], str]] = [
        (FILE, lambda data: None, "is not signed"),
        (FILE, lambda data: data.replace(b"ABCDEF", b"", 1) + b"x", "does not hold"),
        ("zarr.json", lambda data: data + b"\n", r"not the one that was signed.*zarr\.json"),
        (RECORD_1, lambda data: data + b"\n", rf"not the one that was signed.*{RECORD_1}"),
        (SHARD_1, lambda data: recompressed(made, SHARD_1), rf"not the one that was signed.*{SHARD_1}"),
    ]
    for number, (name, change, message) in enumerate(changes, 1):
        broken = shutil.copytree(made, tmp_path / str(number) / "a.zarr")
        changed = change((made / name).read_bytes())
        (broken / name).unlink() if changed is None else (broken / name).write_bytes(changed)
        with pytest.raises(StoreError, match=message) as caught:
            read_all(at(broken, number), trust)
        assert "disk may be faulty" not in str(caught.value), "nothing is wrong with a cache"
        assert name == FILE or "copy the store again from whoever signed it" in str(caught.value)


def test_a_cache_that_holds_the_same_answers_by_somebody_else_is_no_trouble(
    plain: Path, trust: Signers, tmp_path: Path
) -> None:
    other = tmp_path / "other.zarr"
    write_all(open_writer(other), depth_maps(10))
    for shard in range(3):
        file = other / f"residual/c/{shard}/0/0"
        file.write_bytes(recompressed(other, f"residual/c/{shard}/0/0"))
        record_file = other / f"done/{shard:05d}.json"
        record = DoneRecord.from_bytes(record_file.read_bytes())
        import hashlib

        data = file.read_bytes()
        changed = replace(record, file_bytes=len(data), file_sha256=hashlib.sha256(data).hexdigest())
        record_file.write_bytes(changed.to_bytes())
    assert verify_store(other).whole
    cache = tmp_path / "cache"
    read_all(CachedObjects(FolderObjects(other), cache), None)
    read_all(CachedObjects(FolderObjects(plain), cache), trust)
    read_all(CachedObjects(FolderObjects(plain), cache), trust)


def test_a_cache_alone_stands_in_for_a_signed_store_that_does_not_answer(
    plain: Path, trust: Signers, tmp_path: Path
) -> None:
    far = DistantObjects(plain)
    read_all(CachedObjects(far, tmp_path / "cache"), trust)
    far.down = True
    read_all(CachedObjects(far, tmp_path / "cache"), trust)


def test_a_trusted_store_is_pickled_with_what_was_signed(plain: Path, trust: Signers, tmp_path: Path) -> None:
    store = open_store(plain, trust=trust)
    copied = pickle.dumps(store)
    assert pickle.loads(copied)[store.frame_ids[0]].tobytes() == store[store.frame_ids[0]].tobytes()
    (plain / FILE).unlink()  # a worker is held to what was found trusted before, and needs no file to compare with
    assert pickle.loads(copied).signed == store.signed
    (plain / SHARD_1).write_bytes(recompressed(plain, SHARD_1))
    with pytest.raises(StoreError, match="not the one that was signed"):
        pickle.loads(copied)[store.frame_ids[5]]


def test_the_stores_of_a_run_are_all_asked_and_recorded_with_their_signer(
    path: Path, trust: Signers, tmp_path: Path
) -> None:
    [store] = open_stores([path], SOURCE, trust=trust)
    signed = store.signed
    assert signed is not None
    assert stores_record([store])["stores"][0]["signed"] == signed.to_json()
    assert "signed" not in stores_record(open_stores([path], SOURCE))["stores"][0]
    assert StoreFrames.open(path, trust=trust).frame_ids == tuple(SOURCE.frame_ids)
    other = shutil.copytree(path, tmp_path / "b.zarr")
    (other / FILE).unlink()
    for ask in (lambda: open_stores([path, other], SOURCE, trust=trust), lambda: StoreFrames.open(other, trust=trust)):
        with pytest.raises(TrustError, match=r"b\.zarr is not signed"):
            ask()


def test_of_copies_in_a_catalogue_the_one_is_taken_that_holds_what_was_asked_for(
    made: Path, trust: Signers, tmp_path: Path
) -> None:
    def copy(name: str, *without: str) -> str:
        return str(shutil.copytree(made, tmp_path / name, ignore=shutil.ignore_patterns(*without)))

    plain, signed = copy("a.zarr", "images", FILE), copy("d.zarr")
    images = copy("b.zarr", FILE)
    copy("c.zarr", "00002.json")  # signed, with images, but not finished
    choose = partial(choose_store, tmp_path, teacher=None)
    assert [choose(), choose(images=True), choose(trust=trust)] == [plain, images, signed]
    shutil.rmtree(signed)
    assert choose(images=True, trust=trust) == images  # whoever opens it says that it is not signed


def test_zarr_python_cannot_be_held_to_a_signature(plain: Path, trust: Signers) -> None:
    with pytest.raises(ConfigError, match="zarr-python compares nothing with a signature"):
        open_store(plain, reader="zarr", trust=trust)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: b"[]", "is not of the format"),
        (lambda text: b"{", "is no JSON"),
        (lambda text: text.replace(b"signature/1", b"signature/2"), "is not of the format"),
        (lambda text: text.replace(b'"files"', b'"other"'), "lacks digests"),
        (lambda text: text.replace(b'"zarr.json": "', b'"zarr.json": "z'), "lacks digests"),
        (lambda text: text.replace(b"+00:00", b"\\u001b[31m"), "does not say when"),
    ],
)
def test_what_is_signed_must_be_a_manifest(
    path: Path, trust: Signers, key: SigningKey, change: Callable[[bytes], bytes], message: str
) -> None:
    from tiekd_cache.openssh import sshsig

    text = change(StoreSignature.from_bytes((path / FILE).read_bytes()).message)
    (path / FILE).write_bytes(text + sshsig.sign(text, key, "tiekd-cache"))
    refused(path, trust, rf"signature of store .* does not hold: .*{message}")


def test_a_signature_too_large_to_be_one_is_not_read(path: Path, trust: Signers) -> None:
    class Huge(MemoryObjects):
        def size(self, key: str) -> int:
            return 1 << 40 if key == FILE else super().size(key)

    objects = Huge()
    objects.content = MemoryObjects.of(path).content
    with pytest.raises(TrustError, match="1099511627776 bytes"):
        open_store(objects, trust=trust)


def test_a_manifest_is_written_and_read_back() -> None:
    manifest = Manifest.now({"zarr.json": "1" * 64, "done/00000.json": "2" * 64})
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
