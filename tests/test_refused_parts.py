"""A server that answers 403 for what is not there, as S3 does to whoever may not list: a store without those parts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.command_line import fail, succeed
from fakes import FormulaTeacher, MemoryFrames
from memory_objects import MemoryObjects
from servers import FaultServer
from store_helpers import all_files, depth_maps, frame_list, make_store, open_writer

from tiekd_cache.foreign import SMALL_BYTES
from tiekd_cache.precompute import PrecomputeConfig, precompute
from tiekd_cache.sharing import copy_store
from tiekd_cache.statistics import read_statistics
from tiekd_cache.store import object_path, open_store, verify_store
from tiekd_cache.store.images import has_images
from tiekd_cache.store.objects import FolderObjects, MissingObject, RefusedError

pytest.importorskip("obstore")

ABSENT = ("*/statistics/*", "*/images/*")


@pytest.fixture(autouse=True)
def unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_path, "_SAID", set())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FaultServer]:
    """A server with `a.zarr`, which has neither statistics nor images, and 403 for whatever may be either."""
    make_store(tmp_path / "served" / "a.zarr")
    with FaultServer(tmp_path / "served") as started:
        for part in ABSENT:
            started.fail(part, "403")
        yield started


def test_every_command_reads_a_store_whose_optional_parts_are_refused(server: FaultServer, tmp_path: Path) -> None:
    url = f"{server.url}/a.zarr"
    shown = succeed("info", url, "--json", cwd=tmp_path)
    assert (shown.json["frames_done"], shown.json["images"], shown.json["statistics"]) == (10, None, None)
    assert "no statistics for 3 of 3 finished shards" in shown.err
    assert succeed("verify", url, "--json", cwd=tmp_path).json["frames_checked"] == 10
    succeed("pull", url, "b.zarr", cwd=tmp_path)
    succeed("export-store", url, "--to", "hdf5", "--out", "a.h5", cwd=tmp_path)
    assert not has_images(url)
    own = [file.relative_to(tmp_path / "b.zarr") for file in all_files(tmp_path / "b.zarr")]
    assert own == [file.relative_to(server.folder / "a.zarr") for file in all_files(server.folder / "a.zarr")]


def test_it_is_said_once(server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    url = f"{server.url}/a.zarr"
    with caplog.at_level(logging.WARNING, "tiekd_cache"):
        verify_store(url)
        read_statistics(url)
    said = sorted(record.getMessage().partition(" is refused")[0] for record in caplog.records)
    assert said == [f"{url}: access to its images", f"{url}: access to its statistics"]


@pytest.mark.parametrize("part", ["zarr.json", "frame_id/c/0", "done/00001.json", "residual/c/1/0/0", "digest/c/1"])
def test_what_a_store_cannot_lack_is_never_taken_for_absent(server: FaultServer, tmp_path: Path, part: str) -> None:
    server.fail(f"*.zarr/{part}", "403")
    said = fail("verify", f"{server.url}/a.zarr", cwd=tmp_path)
    assert "access is refused (403)" in said
    assert part in said
    said = fail("pull", f"{server.url}/a.zarr", "b.zarr", cwd=tmp_path)
    assert part in said
    assert not (tmp_path / "b.zarr" / "done" / "00001.json").exists()


def test_a_store_to_which_all_access_is_refused_is_no_store_without_images(server: FaultServer) -> None:
    server.fail("*", "403")
    with pytest.raises(RefusedError):
        has_images(f"{server.url}/a.zarr")


class NoListing(MemoryObjects):
    """A bucket whose objects may be read by whoever has their names: 403 for a list, and for what is not there."""

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        raise RefusedError(f"{self.url}/{prefix} cannot be had: access is refused (403)")

    def size(self, key: str) -> int:
        try:
            return super().size(key)
        except MissingObject:
            raise RefusedError(f"{self.url}/{key} cannot be had: access is refused (403)") from None

    def get(self, key: str, at_most: int = SMALL_BYTES) -> bytes:
        self.size(key)
        return super().get(key, at_most)


def no_listing(folder: Path) -> NoListing:
    objects = NoListing()
    objects.content = MemoryObjects.of(folder).content
    return objects


def test_a_bucket_that_may_not_be_listed_is_read(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr")
    objects = no_listing(tmp_path / "a.zarr")
    store = open_store(objects)
    assert len(store.read(frame_list(10))) == store.info.num_done == 10
    assert store.info.num_bytes == open_store(tmp_path / "a.zarr").info.num_bytes
    assert not store.has_image(frame_list(10)[0])
    copy_store(objects, FolderObjects(tmp_path / "b.zarr"))
    assert verify_store(tmp_path / "b.zarr").whole


def test_images_of_shards_that_are_not_finished_are_absent(tmp_path: Path) -> None:
    config = PrecomputeConfig(shard_frames=2, with_images=True)
    precompute(FormulaTeacher(), MemoryFrames(6), tmp_path / "a.zarr", config)
    (tmp_path / "a.zarr" / "images" / "done" / "00001.json").unlink()
    store = open_store(no_listing(tmp_path / "a.zarr"))
    assert [store.has_image(frame_id) for frame_id in store] == [True, True, False, False, True, True]


def test_a_done_record_that_is_refused_is_an_error_even_of_a_partial_store(tmp_path: Path) -> None:
    open_writer(tmp_path / "a.zarr").write_shard(0, depth_maps(10)[:4])
    with pytest.raises(RefusedError, match=r"done/0000[12]\.json"):
        open_store(no_listing(tmp_path / "a.zarr"), allow_partial=True)
