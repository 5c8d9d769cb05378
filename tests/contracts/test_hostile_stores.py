"""A colleague's store is data: whatever it declares costs one line, never our memory, our time or our other files."""

from __future__ import annotations

import base64
import json
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from e2e.command_line import fail, succeed, tiekd
from fakes import FormulaTeacher, MemoryFrames
from hostile import change_attributes, change_record, in_little_memory, replace_shard
from memory_objects import MemoryObjects
from numcodecs.zstd import Zstd
from store_helpers import build_schema, depth_maps, files_of, make_store, open_writer, write_all

from tiekd_cache.errors import StoreError
from tiekd_cache.openssh import sshsig
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.progress import no_progress_bar
from tiekd_cache.sharing import copy_store
from tiekd_cache.statistics import read_statistics
from tiekd_cache.store import StoreWriter, open_store, verify_store
from tiekd_cache.store.chunks import encode_frame_ids, pack_shard, with_crc
from tiekd_cache.store.kernels import kernels
from tiekd_cache.store.layout import MAX_FRAMES, Layout, metadata_bytes
from tiekd_cache.store.objects import FolderObjects
from tiekd_cache.store_list import list_stores

CONFIG = PrecomputeConfig(shard_frames=2, batch_size=2, with_images=True)
SOURCE = MemoryFrames(6)
ESCAPES = "\x1b]0;title\x07\x1b[2J\r\nError: \u202e"
"""Sets a terminal's title, clears it, fakes an error, and turns what follows around."""


@pytest.fixture
def path(store_with_images: Path, tmp_path: Path) -> Path:
    """A copy that a test may turn against its reader."""
    kernels()  # loaded here, so that children need no memory for it
    return shutil.copytree(store_with_images, tmp_path / "a.zarr")


def zstd_zeros(length: int, *, declared: bool) -> bytes:
    """A zstd frame of zeros, four bytes for each 128 KB of them; it says how long it is, or does not (RFC 8878)."""
    sizes = [min(1 << 17, length - at) for at in range(0, length, 1 << 17)]
    blocks = [struct.pack("<I", size << 3 | 2 | (at == len(sizes) - 1))[:3] + b"\0" for at, size in enumerate(sizes)]
    head = b"\x80\x58" + struct.pack("<I", length) if declared else b"\x00\x58"
    return b"\x28\xb5\x2f\xfd" + head + b"".join(blocks)


def read_all(path: Path) -> None:
    store = open_store(path, allow_partial=True)
    store.info.to_json()
    for frame_id in store:
        assert store[frame_id].any()
        if store.has_image(frame_id):
            store.image(frame_id)
            store.intrinsics(frame_id)


def pull(path: Path) -> None:
    copy_store(FolderObjects(path), FolderObjects(path.with_name("pulled.zarr")), progress=no_progress_bar)


def check_refused(path: Path, words: str = "") -> None:
    """Reading ends in one line of ours; looking at all of it says so too; neither takes much memory."""

    def work() -> None:
        with pytest.raises(StoreError, match=words) as caught:
            read_all(path)
        assert "\n" not in str(caught.value)
        report = verify_store(path)
        assert not report.whole
        with pytest.raises(StoreError):
            pull(path)

    in_little_memory(work)


RECORDS = [
    {"digests": "12"},
    {"digests": [1.5, 2]},
    {"digests": [[1], [2]]},
    {"digests": 7},
    {"shard": "0"},
    {"shard": None},
    {"first_frame": float("nan")},
    {"file_bytes": "many"},
    {"file_bytes": 10**400},
    {"file_bytes": 1 << 50},
    {"file_sha256": 5},
    {"fingerprint": ["f"]},
    {"fingerprint": "\ud800"},
    {"version": {"a": [[[]]]}},
]


@pytest.mark.parametrize("changes", RECORDS, ids=lambda changes: str(changes)[:40])
@pytest.mark.parametrize("part", ["", "images/"])
def test_a_done_record_of_other_types_is_damage(path: Path, part: str, changes: dict[str, Any]) -> None:
    change_record(path / part / "done" / "00001.json", "record_digest", **changes)
    if changes == {"file_bytes": 1 << 50}:  # readers of single frames need not know
        assert not verify_store(path).whole
        with pytest.raises(StoreError, match="the done-record says"):
            pull(path)
        return
    with pytest.raises(StoreError, match=r"done/00001\.json"):
        read_all(path)
    assert any("done-record" in problem for problem in verify_store(path).problems)


STATISTICS = [
    {"histogram": [1, 2]},
    {"histogram": ["a"] * 15},
    {"pixels": "many"},
    {"missing": -1},
    {"nearest": None},
    {"farthest": 10**400},
    {"agreement": [{"frame_id": "a", "pixels": 1, "abs_rel": "0", "median_ratio": 1.0}]},
    {"agreement": [{"frame_id": "a", "pixels": 1, "abs_rel": 0.1, "median_ratio": float("inf")}]},
    {"agreement": {"a": 1}},
    {"unreadable": [3]},
    {"more": 1},
]


@pytest.mark.parametrize("changes", STATISTICS, ids=lambda changes: str(changes)[:40])
def test_statistics_of_other_types_do_not_count(path: Path, changes: dict[str, Any]) -> None:
    change_record(path / "statistics" / "00001.json", "statistics_digest", **changes)
    statistics = read_statistics(path)
    assert len(statistics.shards) == 2
    assert any("00001.json are not counted" in note for note in statistics.notes)
    statistics.to_json()


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        ("dataset", {"num_frames": MAX_FRAMES + 1}, "a store of 16777217 frames cannot be"),
        ("dataset", {"num_frames": 10**18}, "frames cannot be"),
        ("dataset", {"num_frames": 10**400}, "a number of 401 digits"),
        ("dataset", {"num_frames": -3}, "frames cannot be"),
        ("depth", {"min": 10**400}, "a number of 401 digits"),
        ("depth", {"step": float("nan")}, "not finite"),
        ("depth", {"clamp": [float("inf"), 1.0]}, "not finite"),
        ("depth", {"native_size": [1, 1 << 26]}, r"native_size' cannot be \[1, 67108864\]"),
        ("input", {"preprocessing": {"mean": float("inf")}}, "not finite"),
        ("teacher", {"name": "\ud800"}, "no Unicode text"),
        ("created_by", {"note": json.loads("[" * 200 + "]" * 200)}, "more than 64 levels"),
        ("dataset", {"split": ["A" * 10**6]}, "split' cannot be"),
    ],
)
def test_attributes_that_cannot_be_are_one_short_line(
    path: Path, section: str, changes: dict[str, Any], words: str
) -> None:
    change_attributes(path, section, **changes)
    with pytest.raises(StoreError, match=words) as caught:
        open_store(path)
    assert len(str(caught.value)) < 1000
    said = fail("info", path, cwd=path.parent)
    assert len(said) < 1000
    listed = succeed("list", path.parent, "--json", cwd=path.parent).json
    assert [store["problem"] is not None for store in listed] == [True]


@pytest.mark.parametrize("shard_frames", [1 << 40, 1 << 21, 0])
def test_shards_that_cannot_be_are_refused(path: Path, shard_frames: int) -> None:
    schema = open_store(path).schema
    for part in ("", "images/"):
        group = json.loads((path / part / "zarr.json").read_bytes())
        text = json.dumps(group).replace('"chunk_shape": [2,', f'"chunk_shape": [{shard_frames},')
        (path / part / "zarr.json").write_text(text)
        with pytest.raises(StoreError, match="make no sense"):
            read_all(path)
        layout = Layout(path, 6, schema.native_size, 2)
        (path / "zarr.json").write_bytes(metadata_bytes(layout.group_metadata(schema)))


def test_a_store_that_could_not_be_opened_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot be made: shards of 1048576 frames make no sense"):
        make_store(tmp_path / "a.zarr", shard_frames=1 << 20)
    large = {"crop": "none", "image_size": (8192, 8192), "flip_average": True, "preprocessing": {}}
    with pytest.raises(StoreError, match=r"more than the 4294967296 that fit into memory: put fewer frames"):
        make_store(tmp_path / "a.zarr", count=40, shard_frames=64, native_size=(8192, 8192), input=large)
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        (encode_frame_ids([""] * 65536, 65536)[0], r"file is missing .*frame_id/c/4"),
        (encode_frame_ids(["a" * 100] * 65536, 65536)[0], r"declares 6815748 bytes.*frame_id/c/2"),
        (with_crc(zstd_zeros(600 << 20, declared=True)), r"declares 629145600 bytes"),
        (with_crc(zstd_zeros(600 << 20, declared=False)), r"does not declare its size"),
        (with_crc(zstd_zeros(99, declared=True) + zstd_zeros(600 << 20, declared=True)), r"cannot be decoded"),
    ],
    ids=["many", "long", "large", "of no declared size", "two in one"],
)
def test_a_frame_list_that_unfolds_from_few_bytes_is_refused(
    path: Path, chunk: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tiekd_cache.store.catalogue.MAX_FRAME_LIST_BYTES", 15 << 20)
    schema = open_store(path).schema
    schema = replace(schema, dataset={**schema.dataset, "num_frames": MAX_FRAMES})
    (path / "zarr.json").write_bytes(metadata_bytes(Layout(path, MAX_FRAMES, (64, 96), 16).group_metadata(schema)))
    for number in range(4):
        (path / "frame_id" / "c" / str(number)).write_bytes(chunk)

    def work() -> None:
        with pytest.raises(StoreError, match=words):
            open_store(path)

    in_little_memory(work)


@pytest.mark.parametrize(
    "chunk",
    [
        zstd_zeros(600 << 20, declared=True),
        zstd_zeros(600 << 20, declared=False),
        zstd_zeros(64 * 96 * 3, declared=True) + zstd_zeros(500 << 20, declared=True),
    ],
    ids=["large", "of no declared size", "two in one"],
)
def test_an_image_that_unfolds_to_more_than_it_is_is_refused(path: Path, chunk: bytes) -> None:
    assert bytes(Zstd().decode(zstd_zeros(300_000, declared=True))) == bytes(300_000)
    data = pack_shard([with_crc(chunk)] * 2, 2)
    replace_shard(path / "images/image/c/1/0/0/0", path / "images/done/00001.json", data)
    check_refused(path, r"images/image/c/1/0/0/0")


@pytest.mark.parametrize(
    "entries",
    [(0, 1 << 62, 0, 9), (2**64 - 1, 2**64 - 1, 1, 1), (2**63, 2**63, 0, 0), (10**6, 8, 0, 0), (0, 30, 0, 30)],
    ids=["long", "absent", "overflow", "beyond", "overlapping"],
)
def test_an_index_that_points_anywhere_is_refused(path: Path, entries: tuple[int, ...]) -> None:
    file = path / "residual/c/1/0/0"
    replace_shard(file, path / "done/00001.json", file.read_bytes()[:-36] + with_crc(struct.pack("<4Q", *entries)))
    check_refused(path, r"residual/c/1/0/0")


def test_a_chunk_longer_than_a_frame_can_be_is_not_read(path: Path) -> None:
    file = path / "residual/c/1/0/0"
    with file.open("r+b") as opened:  # a hole of 4 TB, and an index that names all of it
        opened.seek(1 << 42)
        opened.write(with_crc(struct.pack("<4Q", 0, 1 << 42, 0, 1 << 42)))
    check_refused(path, "declares a chunk of 4398046511104 bytes")


def test_blosc_headers_of_any_content_are_errors_or_the_right_answer(path: Path) -> None:
    rng = np.random.default_rng(0)
    file, record = path / "residual/c/0/0/0", path / "done/00000.json"
    whole, right = file.read_bytes(), open_store(path)[SOURCE.frame_ids[0]]
    (first, length), (second, _) = np.frombuffer(whole[-36:-4], "<u8").reshape(2, 2).tolist()
    refused = 0
    for _ in range(60):
        chunk = bytearray(whole[first : first + length - 4])
        for place in rng.integers(0, 32, 2):
            chunk[place] = int(rng.choice([0, 1, 16, 127, 128, 255]))
        chunk[8:12] = struct.pack("<I", int(rng.choice([0, 16, 48, 1 << 20, 1 << 31, 2**32 - 1])))
        replace_shard(file, record, pack_shard([with_crc(bytes(chunk)), whole[second:-36]], 2))
        try:
            assert np.array_equal(open_store(path)[SOURCE.frame_ids[0]], right)
        except StoreError:
            refused += 1
    assert refused > 50


def sparse(file: Path) -> None:
    os.truncate(file, 1 << 42)


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def device(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


@pytest.mark.parametrize("change", [sparse, pipe, device])
@pytest.mark.parametrize("key", ["zarr.json", "done/00001.json", "frame_id/c/0", "residual/c/1/0/0", "others"])
def test_what_has_no_end_is_neither_read_nor_waited_for(path: Path, key: str, change: Callable[[Path], None]) -> None:
    keys = [key] if key != "others" else ["digest/c/1", "residual/zarr.json", "statistics/00001.json", *IMAGES]
    for each in keys:
        change(path / each)

    def work() -> None:
        report = verify_store(path)
        for each in keys if key != "others" else keys[:4]:  # without attributes images are not looked at
            assert any(each in said for said in report.problems + report.notes), report
        for command in (["info", path], ["list", path.parent], ["pull", path, "pulled.zarr"]):
            assert "Traceback" not in tiekd(*command, cwd=path.parent).err

    in_little_memory(work)


IMAGES = ("images/zarr.json", "images/done/00001.json", "images/intrinsics/c/1/0/0", "images/image/c/1/0/0/0")


def test_images_without_end_are_neither_read_nor_waited_for(path: Path) -> None:
    os.truncate(path / "images/done/00000.json", 1 << 42)
    os.truncate(path / "images/intrinsics/c/1/0/0", 1 << 42)
    pipe(path / "images/image/c/2/0/0/0")
    in_little_memory(lambda: [] if len(verify_store(path).problems) == 3 else pytest.fail("not all were noticed"))


PARTS = ("zarr.json", "done/00001.json", "frame_id/c/0", "residual/c/1/0/0", "residual", "images", "images/done")


@pytest.mark.parametrize("part", PARTS)
def test_a_link_out_of_a_store_is_refused_even_where_it_would_do(path: Path, part: str, tmp_path: Path) -> None:
    (path / part).rename(tmp_path / "moved")
    (path / part).symlink_to(tmp_path / "moved")
    with pytest.raises(StoreError, match="link that leads out"):
        read_all(path)
    if part == "done/00001.json":  # links are not listed: a shard without a record is not there
        pull(path)
        assert len(open_store(path.with_name("pulled.zarr"), allow_partial=True)) == 4
        return
    with pytest.raises(StoreError, match="link that leads out"):
        pull(path)


@pytest.mark.parametrize("part", ["done", "claims", "residual", "digest", "statistics", "images", "images/done"])
def test_writers_and_repair_touch_nothing_that_a_link_leads_to(path: Path, part: str, tmp_path: Path) -> None:
    for folder in ("done", "images/done"):
        (path / folder / "00001.json").unlink()  # to be made again
    (path / part).rename(tmp_path / "victim")
    (path / part).symlink_to(tmp_path / "victim")
    before = files_of(tmp_path / "victim")
    precompute(FormulaTeacher(), SOURCE, tmp_path / "whole.zarr", CONFIG)
    tiekd("verify", path, "--repair", cwd=tmp_path)
    assert "Traceback" not in tiekd("push", tmp_path / "whole.zarr", path, cwd=tmp_path).err
    with pytest.raises(StoreError, match=r"link that leads out|done-records"):
        precompute(FormulaTeacher(), SOURCE, path, CONFIG)
    assert files_of(tmp_path / "victim") == before


def test_a_claim_is_not_written_through_a_link(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "done" / "00001.json").unlink()
    (tmp_path / "a.zarr" / "claims" / "00001.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(StoreError, match=r"00001\.lock"), open_writer(tmp_path / "a.zarr").claim(1):
        pass
    assert not (tmp_path / "victim").exists()


def test_folders_without_end_are_looked_through(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=folder)
        inner = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    assert verify_store(path).whole
    assert [store.problem for store in list_stores(path.parent)] == [None]
    pull(path)
    subprocess.run(["rm", "-r", path / "d"], check=True)  # deeper than shutil.rmtree goes


def test_a_signature_of_a_million_parts_is_none(path: Path) -> None:
    parts = b"SSHSIG\0\0\0\1" + bytes(16 << 20)  # empty texts, four bytes each
    (path / "signature").write_bytes(b"{}" + sshsig.BEGIN + base64.b64encode(parts))

    def work() -> None:
        assert "is no SSH signature" in tiekd("info", path, cwd=path.parent).err

    in_little_memory(work)


def test_a_bucket_of_many_stores_is_listed_in_one_go() -> None:
    objects = MemoryObjects("s3://team/stores")
    objects.content = {f"{i:05d}/zarr.json": b"{}" for i in range(20_000)}
    started = time.process_time()
    with mock.patch("tiekd_cache.store_list.open_objects", return_value=objects):
        assert list_stores("s3://team/stores") == []
    assert time.process_time() - started < 20  # each with each took minutes


def test_control_characters_in_a_store_never_reach_the_terminal(tmp_path: Path) -> None:
    ids = [f"drive/\x1b]0;title\x07\x1b[2J\u202e/{i:010d}" for i in range(4)]
    teacher = {"name": ESCAPES, "digest": "0" * 64, "architecture": ESCAPES, "weights": ESCAPES, "trained": False}
    dataset = {"name": ESCAPES, "split": ESCAPES}
    skipped = [(f"{ids[0]}{ESCAPES}", ESCAPES)]
    schema = build_schema(ids, teacher=teacher, dataset=dataset, skipped=skipped, created_by={"maker": ESCAPES})
    path = tmp_path / "a.zarr"
    write_all(StoreWriter.open(path, schema, ids, shard_frames=2), depth_maps(4))
    damage = path / "residual/c/1/0/0"
    damage.write_bytes(damage.read_bytes()[:-1])
    (path / "done" / os.fsdecode(b"\xff\x1b[2J.json")).touch()
    (tmp_path / "ids.txt").write_text(f"unknown{ESCAPES.splitlines()[0]}")
    for command in (
        ["info", path],
        ["verify", path],
        ["list", tmp_path],
        ["pull", path, "b.zarr"],
        ["pull", path, "c.zarr", "--frames", "ids.txt"],
        ["export-store", path, "--to", "npz", "--out", "npz"],
        ["export-store", path, "--to", "hdf5", "--out", "a.h5"],
        ["distill", "--store", path],
        ["doctor"],
    ):
        outcome = tiekd(*command, cwd=tmp_path)
        for line in (outcome.out + outcome.err).splitlines():
            assert line.isprintable(), (command, line)
