"""A catalogue: which stores there are, what is wrong with some, which one is meant, and the page that shows them."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from store_helpers import build_schema, frame_list, make_store

from tiekd_cache.errors import ConfigError, RangeError, StoreError
from tiekd_cache.foreign import SMALL_BYTES
from tiekd_cache.pictures import depth_thumbnail
from tiekd_cache.store import StoreWriter, open_store
from tiekd_cache.store.layout import Layout, metadata_bytes
from tiekd_cache.store.objects import FolderObjects, RefusedError, RemoteError
from tiekd_cache.store_choice import choose_store, find_same
from tiekd_cache.store_list import ListedStore, is_catalogue, list_stores
from tiekd_cache.store_page import cells, size_text, store_page, write_page

EVIL = "<script>alert(1)</script> \"'&amp; ü深度 \x1b[31m\u202e"


def teacher(name: str) -> dict[str, Any]:
    return {"name": name, "digest": "1" * 64, "architecture": name, "weights": "none", "trained": True}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue as people keep one: stores, one of them deeper, one unfinished, and what is none."""
    root = tmp_path_factory.mktemp("catalogue")
    make_store(root / "bts.zarr", teacher=teacher("bts"))
    make_store(root / "team" / "adabins.zarr", count=5, teacher=teacher("adabins"))
    make_store(root / "rooms.zarr", count=3, teacher=teacher("bts"), dataset={"name": "nyu", "split": "labelled"})
    ids = frame_list(6)
    begun = StoreWriter.open(root / "begun.zarr", build_schema(ids, teacher=teacher("lidar")), ids, shard_frames=4)
    with begun.claim(0):
        begun.write_shard(0, open_store(root / "bts.zarr").read(frame_list(4)))
    (root / "notes").mkdir()
    (root / "notes" / "zarr.json").write_text('{"zarr_format": 3, "attributes": {"format": "another/1"}}')
    (root / "notes" / "deeper" / "still").mkdir(parents=True)
    shutil.copytree(root / "bts.zarr", root / "notes" / "deeper" / "still" / "too-deep.zarr")
    (root / "plain.txt").write_text("no folder")
    return root


@pytest.fixture
def catalogue(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(made, tmp_path / "catalogue"))


class Bucket:
    """The files of a folder, listed and read as a bucket's objects are, all of them below one URL."""

    url = "s3://team/stores"

    def __init__(self, folder: Path) -> None:
        self._objects = FolderObjects(folder)
        self.read: list[str] = []
        self.fails: Exception | None = None

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        return self._objects.list(prefix)

    def get(self, key: str, at_most: int = SMALL_BYTES) -> bytes:
        self.read.append(key)
        if self.fails is not None:
            raise self.fails
        return self._objects.get(key, at_most)


def test_stores_are_found_two_deep_with_what_they_say_of_themselves(made: Path) -> None:
    stores = {store.name: store for store in list_stores(made)}
    assert sorted(stores) == ["begun.zarr", "bts.zarr", "rooms.zarr", "team/adabins.zarr"]
    bts = stores["bts.zarr"]
    assert bts.place == str(made / "bts.zarr")
    assert bts.num_bytes == sum(file.stat().st_size for file in (made / "bts.zarr").rglob("*") if file.is_file())
    opened = open_store(made / "bts.zarr").info
    shown = bts.to_json()
    assert shown["fingerprint"] == opened.schema.fingerprint
    assert (shown["teacher"], shown["dataset"], shown["split"]) == ("bts", "kitti", "splits/eigen_train.txt")
    assert (shown["frames"], shown["frames_done"], shown["finished"], shown["images"]) == (10, 10, True, 0)
    assert shown["maker"] == opened.schema.created_by["maker"]
    assert shown["date"] == time.strftime("%Y-%m-%d", time.gmtime())
    begun = stores["begun.zarr"]
    assert (begun.frames_done, begun.finished, begun.problem) == (4, False, None)
    assert cells(begun)[3] == "4/6"
    json.dumps([store.to_json() for store in stores.values()])


def test_a_bucket_is_listed_once_and_only_attributes_are_read(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket(made)
    monkeypatch.setattr("tiekd_cache.store_list.open_objects", lambda place: bucket)
    found = list_stores("s3://team/stores")
    here = list_stores_of_folder(made, monkeypatch)
    assert [(s.name, s.num_bytes, s.frames_done, s.schema) for s in found] == here
    assert found[1].place == "s3://team/stores/bts.zarr"
    assert {key.rpartition("/")[2] for key in bucket.read} == {"zarr.json"}


def list_stores_of_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.undo()
    return [(s.name, s.num_bytes, s.frames_done, s.schema) for s in list_stores(folder)]


def test_a_store_itself_a_zip_file_and_a_link_are_listed_and_nothing_is_an_error(made: Path, tmp_path: Path) -> None:
    assert [store.name for store in list_stores(made / "bts.zarr")] == ["."]
    assert list_stores(tmp_path) == []
    shutil.make_archive(str(tmp_path / "packed"), "zip", made, "bts.zarr")
    (tmp_path / "other.zip").write_bytes(b"no zip")
    (tmp_path / "linked.zarr").symlink_to(made / "bts.zarr")
    found = list_stores(tmp_path)
    assert [(store.name, store.finished) for store in found] == [("linked.zarr", True), ("packed.zip", True)]
    with pytest.raises(ConfigError, match=r"no folder .*nowhere"):
        list_stores(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="cannot be listed"):
        list_stores("http://127.0.0.1:1/stores")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda store: (store / "zarr.json").write_text("{"), "zarr.json cannot be read"),
        (lambda store: (store / "zarr.json").write_text("[" * 100_000), "zarr.json cannot be read"),
        (lambda store: (store / "zarr.json").unlink(), "There is no"),
        (lambda store: edit(store, '"adabins"', '"other"'), "fingerprint does not match"),
        (lambda store: edit(store, '"adabins"', '"\\ud800"'), "surrogates not allowed"),
        (lambda store: edit(store, "tiekd-cache/1", "tiekd-cache/2"), "a newer tiekd-cache reads it"),
        (lambda store: edit(store, "tiekd-cache/1", "none"), "names no format"),
        (lambda store: (store / "residual/c/1/0/0").unlink(), "1 finished shards have no file"),
        (lambda store: (store / "frame_id/c/0").unlink(), "frame list"),
    ],
)
def test_a_damaged_store_is_listed_with_what_is_wrong(catalogue: Path, damage: Any, says: str) -> None:
    damage(catalogue / "team" / "adabins.zarr")
    found = list_stores(catalogue)
    assert len(found) == 4
    store = found[-1]
    assert store.problem is not None
    assert says in store.problem
    assert "\n" not in store.problem
    assert not store.finished
    wrong = "cannot be read" if store.schema is None else "damaged"
    assert wrong in store.describe()
    with pytest.raises(ConfigError, match=wrong):
        choose_store(catalogue, teacher="adabins")
    assert 'class="problem"' in store_page("here", found, thumbnails=1)


def edit(store: Path, old: str, new: str) -> None:
    file = store / "zarr.json"
    file.write_text(file.read_text().replace(old, new))


def test_attributes_too_large_to_be_any_are_not_read(catalogue: Path) -> None:
    for store in list_stores(catalogue):
        os.truncate(catalogue / store.name / "zarr.json", 1 << 40)  # takes no room on the disk
    problems = [store.problem for store in list_stores(catalogue)]
    assert len(problems) == 4
    assert all(problem is not None and "more than the 67108864 bytes" in problem for problem in problems)


def test_the_store_that_is_meant(catalogue: Path) -> None:
    assert choose_store(catalogue, teacher="bts", dataset="kitti") == str(catalogue / "bts.zarr")
    assert choose_store(catalogue, teacher="adabins") == str(catalogue / "team" / "adabins.zarr")
    with pytest.raises(ConfigError, match="2 stores of teacher 'bts' in") as several:
        choose_store(catalogue, teacher="bts")
    assert "bts.zarr (bts, kitti, 10/10 frames, " in str(several.value)
    assert "rooms.zarr (bts, nyu, 3/3 frames, " in str(several.value)
    with pytest.raises(ConfigError, match=r"No store of teacher 'dpt' for kitti in .*it has .*begun.zarr"):
        choose_store(catalogue, teacher="dpt", dataset="kitti")
    with pytest.raises(ConfigError, match=r"No finished store of teacher 'lidar'.*4/6.*--allow-partial"):
        choose_store(catalogue, teacher="lidar")
    assert choose_store(catalogue, teacher="lidar", allow_partial=True) == str(catalogue / "begun.zarr")
    shutil.copytree(catalogue / "bts.zarr", catalogue / "copy.zarr")  # the same answers: no question which
    assert choose_store(catalogue, teacher="bts", dataset="kitti") == str(catalogue / "bts.zarr")
    with pytest.raises(ConfigError, match="no store at all"):
        choose_store(catalogue / "notes" / "deeper" / "still" / "too-deep.zarr" / "done", teacher="bts")
    assert is_catalogue(catalogue)
    assert not is_catalogue(catalogue / "bts.zarr")
    assert not is_catalogue(catalogue / "nowhere")


def test_the_same_answers_are_found_by_fingerprint(catalogue: Path) -> None:
    fingerprint = open_store(catalogue / "bts.zarr").schema.fingerprint
    found = find_same(catalogue, fingerprint, "elsewhere.zarr")
    assert found is not None
    assert found.name == "bts.zarr"
    assert find_same(catalogue, fingerprint, catalogue / "bts.zarr") is None  # one's own
    assert find_same(catalogue, "0" * 64, "elsewhere.zarr") is None
    begun = open_store(catalogue / "begun.zarr", allow_partial=True).schema.fingerprint
    assert find_same(catalogue, begun, "elsewhere.zarr") is None
    (catalogue / "rooms.zarr" / "zarr.json").write_text("{")
    found = find_same(catalogue, fingerprint, "elsewhere.zarr")
    assert found is not None
    assert found.name == "bts.zarr"
    with pytest.raises(StoreError, match=r"rooms\.zarr: zarr\.json cannot be read"):
        find_same(catalogue, "0" * 64, "elsewhere.zarr")


class Page(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def evil_catalogue(root: Path) -> list[ListedStore]:
    """One store, whose every name is an attack."""
    ids = [f"{EVIL}{i}" for i in range(5)]
    schema = build_schema(
        ids,
        teacher=teacher(EVIL) | {"architecture": EVIL, "weights": EVIL},
        dataset={"name": EVIL, "split": EVIL},
        created_by={"maker": EVIL, "created_at": "<b>now</b>"},
    )
    writer = StoreWriter.open(root / "<img src=x onerror=alert(1)>.zarr", schema, ids, shard_frames=5)
    with writer.claim(0):
        writer.write_shard(0, np.full((5, 12, 20), 20.0, np.float32))
    return list_stores(root)


def test_the_page_holds_text_and_pictures_and_runs_nothing(tmp_path: Path) -> None:
    stores = evil_catalogue(tmp_path / "stores")
    write_page(tmp_path / "new" / "index.html", lambda: store_page("stores", stores))
    text = (tmp_path / "new" / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    kinds = {name for name, _ in page.elements}
    assert not kinds & {"script", "iframe", "link", "object", "b"}
    assert all(not name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "<script>alert(1)</script> \"'&amp; ü深度 \\x1b[31m\\u202e" in page.text
    images = [attributes for name, attributes in page.elements if name == "img"]
    assert len(images) == 3
    for image in images:
        kind, _, data = str(image["src"]).partition(",")
        assert kind == "data:image/png;base64"
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert picture.shape == (int(str(image["height"])), int(str(image["width"])), 3)
    references = [str(value) for _, a in page.elements for key, value in a.items() if key in ("src", "href")]
    assert all(value.startswith(("data:", "#")) for value in references)
    assert not re.search(r"https?:", text)


def test_pictures_are_limited_and_one_that_cannot_be_read_says_so(
    catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = list_stores(catalogue)
    assert store_page("here", stores, thumbnails=0).count("<img") == 0
    assert store_page("here", stores, thumbnails=50).count("<img") == 10 + 5 + 3 + 4
    monkeypatch.setattr("tiekd_cache.store_page.MOST_THUMBNAILS", 7)
    assert store_page("here", stores, thumbnails=5).count("<img") == 7
    file = catalogue / "rooms.zarr" / "residual" / "c" / "0" / "0" / "0"
    file.write_bytes(b"x" * file.stat().st_size)
    page = store_page("here", list_stores(catalogue), thumbnails=2)
    assert "No picture: Store " in page


def test_a_page_that_cannot_be_written_is_one_line_before_it_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"Cannot write .*index\.html"):
        write_page(tmp_path / "file" / "index.html", lambda: pytest.fail("made"))
    (tmp_path / f"{'x' * 250}").write_text("")  # a name that leaves no room for that of what is written aside
    with pytest.raises(StoreError, match="Cannot write"):
        write_page(tmp_path / f"{'x' * 250}", lambda: pytest.fail("made"))


def test_a_server_that_fails_is_asked_for_no_other_store_and_no_other_picture(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Bucket(made)
    monkeypatch.setattr("tiekd_cache.store_list.open_objects", lambda place: bucket)
    stores = list_stores(bucket.url)
    bucket.read.clear()
    bucket.fails = RemoteError("the server answers 500")
    with pytest.raises(RemoteError, match="500"):
        list_stores(bucket.url)
    assert bucket.read == ["begun.zarr/zarr.json"]
    opened: list[str] = []

    def open_store(place: str, **_: Any) -> None:
        opened.append(place)
        raise RemoteError("no answer")

    monkeypatch.setattr("tiekd_cache.store_page.open_store", open_store)
    with pytest.raises(RemoteError, match="no answer"):
        store_page(bucket.url, stores)
    assert opened == [stores[0].place]


def test_a_store_that_may_not_be_read_is_listed_and_might_be_the_one_that_is_looked_for(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Bucket(made)
    monkeypatch.setattr("tiekd_cache.store_list.open_objects", lambda place: bucket)
    bucket.fails = RefusedError("access is refused (403)")
    assert ["refused" in str(store.problem) for store in list_stores(bucket.url)] == [True] * 4
    with pytest.raises(StoreError, match=r"s3://team/stores/begun\.zarr: .*refused.*, and 3 other stores"):
        find_same(bucket.url, "0" * 64, "elsewhere.zarr")


def test_a_thumbnail_has_the_maps_proportions_and_black_for_what_is_missing() -> None:
    depth = np.full((50, 100), 4.0, np.float32)
    depth[:25] = 0
    made = depth_thumbnail(depth, 10.0, width_px=40)
    picture = cv2.imdecode(np.frombuffer(made.png, np.uint8), cv2.IMREAD_COLOR)
    assert (made.height, made.width) == (20, 40) == picture.shape[:2]
    assert not picture[:10].any()
    assert picture[10:].any(axis=2).all()
    depth_thumbnail(depth, 0.5)  # a range that ends before the colours' usual nearest depth
    assert depth_thumbnail(np.ones((3000, 2), np.float32), 80.0).height == 720
    with pytest.raises(RangeError, match="must be > 0"):
        depth_thumbnail(depth, 0.0)


def test_sizes_are_shown_in_the_unit_that_reads_best() -> None:
    assert [size_text(n) for n in (0, 999, 1500, 999_999, 26_400_000_000)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "1 MB",
        "26.4 GB",
    ]


@pytest.mark.parametrize(("frames", "shard_frames"), [(10**30, 10**30), (10**30, 4), (10**8, 4), (10, 10**8)])
def test_a_store_that_declares_too_much_does_not_hide_the_others(
    catalogue: Path, frames: int, shard_frames: int
) -> None:
    schema = open_store(catalogue / "bts.zarr").schema
    schema = replace(schema, dataset={**schema.dataset, "num_frames": frames})
    layout = Layout(catalogue, frames, schema.native_size, shard_frames)
    (catalogue / "bts.zarr" / "zarr.json").write_bytes(metadata_bytes(layout.group_metadata(schema)))
    stores = list_stores(catalogue)
    assert [store.problem is None for store in stores] == [True, False, True, True]
    assert store_page("here", stores, thumbnails=1).count("<img") == 3
