"""A store read as objects, without any server: whole, incomplete, unlistable, altered; and requests side by side."""

from __future__ import annotations

import json
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from store_helpers import frame_list, make_store

from tiekd_cache.cli import main
from tiekd_cache.distill import start_of_workers
from tiekd_cache.errors import ConfigError, FrameNotFoundError, StoreError
from tiekd_cache.foreign import SMALL_BYTES
from tiekd_cache.store import open_store, verify_store
from tiekd_cache.store.catalogue import DamagedStoreError
from tiekd_cache.store.objects import FolderObjects, MissingObject, RemoteError, is_remote, store_place
from tiekd_cache.store.remote_client import aws_profile

FRAMES = frame_list(10)


class MemoryObjects:
    """Objects in a dictionary; `listable` false is a plain web server."""

    def __init__(self, folder: Path, listable: bool = True) -> None:
        source = FolderObjects(folder)
        self.url = "https://example.org/stores/a.zarr"
        self.data = {key: source.get(key) for key, _ in source.list()}
        self.listable = listable
        self.asked: list[str] = []
        self.before_range: Callable[[], object] = lambda: None

    def get(self, key: str, at_most: int = SMALL_BYTES) -> bytes:
        self.asked.append(key)
        if key not in self.data:
            raise MissingObject(f"There is no {self.url}/{key}")
        return self.data[key]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self.before_range()
        data = self.get(key)[start : start + length]
        if len(data) != length:
            raise RemoteError(f"{self.url}/{key} is truncated")
        return data

    def size(self, key: str) -> int:
        return len(self.get(key))

    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        if not self.listable:
            raise ConfigError(f"{self.url} cannot be listed")
        return sorted((key, len(data)) for key, data in self.data.items() if key.startswith(f"{prefix}/"[not prefix :]))

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        raise ConfigError("read only")

    def delete(self, key: str) -> None:
        raise ConfigError("read only")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("objects") / "a.zarr"
    make_store(path)
    return path


@pytest.fixture(params=[True, False], ids=["listed", "asked one by one"])
def objects(folder: Path, request: pytest.FixtureRequest) -> MemoryObjects:
    return MemoryObjects(folder, request.param)


def test_the_same_store_is_read(objects: MemoryObjects, folder: Path) -> None:
    local, store = open_store(folder), open_store(objects)
    assert store.frame_ids == local.frame_ids
    assert store.schema == local.schema
    assert np.array_equal(store.read(FRAMES, threads=3), local.read(FRAMES))
    assert store.info.num_bytes == local.info.num_bytes > 0
    assert (store.info.to_json() | {"path": ""}) == (local.info.to_json() | {"path": ""})
    assert str(store.info.path) == objects.url
    assert verify_store(objects).whole
    assert verify_store(objects).frames_checked == 10


def test_a_frame_is_one_request_when_its_shard_is_known(objects: MemoryObjects) -> None:
    store = open_store(objects)
    store[FRAMES[4]]
    before = len(objects.asked)
    store[FRAMES[5]], store[FRAMES[6]]
    assert objects.asked[before:] == ["residual/c/1/0/0"] * 2


def test_threads_have_that_many_requests_under_way(folder: Path) -> None:
    objects = MemoryObjects(folder)
    store = open_store(objects)
    store.read(FRAMES)  # the indices of all shards
    barrier = threading.Barrier(4)
    objects.before_range = lambda: barrier.wait(120)
    assert store.read(FRAMES[:4], threads=4).shape[0] == 4  # a barrier that is not full breaks


def test_what_has_no_record_does_not_exist(objects: MemoryObjects) -> None:
    del objects.data["done/00001.json"]
    with pytest.raises(StoreError, match="not finished: it holds 6 of 10 frames"):
        open_store(objects)
    store = open_store(objects, allow_partial=True)
    assert list(store) == [*FRAMES[:4], *FRAMES[8:]]
    with pytest.raises(FrameNotFoundError):
        store[FRAMES[5]]


def alter(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("key", ["residual/c/1/0/0", "done/00001.json", "frame_id/c/0", "zarr.json"])
@pytest.mark.parametrize("change", [None, alter, lambda data: data[: len(data) // 2]], ids=["absent", "altered", "cut"])
def test_what_is_missing_or_altered_is_an_error_and_never_zeros(
    objects: MemoryObjects, folder: Path, key: str, change: Callable[[bytes], bytes] | None
) -> None:
    local, whole = open_store(folder), open_store(objects)  # opened before it breaks
    if change is None:
        del objects.data[key]
    else:
        objects.data[key] = change(objects.data[key])
    errors = []
    for read in (lambda frame_id: whole[frame_id], lambda frame_id: open_store(objects)[frame_id]):
        for frame_id in FRAMES:
            try:
                assert np.array_equal(read(frame_id), local[frame_id])
            except StoreError as error:
                errors.append(str(error))
    assert errors
    assert all("\n" not in text and objects.url in text for text in errors)


def test_verify_says_all_that_is_wrong_and_repairs_nothing_behind_a_web_server(objects: MemoryObjects) -> None:
    del objects.data["residual/c/0/0/0"]
    objects.data["residual/c/1/0/0"] = objects.data["residual/c/1/0/0"][:-50]
    report = verify_store(objects)
    assert report.frames_checked == 2
    assert any("residual/c/0/0/0: file is missing" in problem for problem in report.problems)
    assert any("residual/c/1/0/0" in problem and "the done-record says" in problem for problem in report.problems)
    with pytest.raises(ConfigError, match="--repair works on a store in a folder"):
        verify_store(objects, repair=True)
    objects.data["done/stranger"] = b"x"
    notes = verify_store(objects).notes
    assert any("done/stranger: belongs to no part" in note for note in notes) == objects.listable


def test_damage_says_what_to_do_with_a_copy(folder: Path) -> None:
    objects = MemoryObjects(folder)
    objects.data["residual/c/0/0/0"] = alter(objects.data["residual/c/0/0/0"])
    store = open_store(objects)
    with pytest.raises(DamagedStoreError, match="tell whoever made it, or take another copy"):
        store.read(FRAMES[:4])


def test_no_store_is_said(folder: Path) -> None:
    objects = MemoryObjects(folder)
    objects.data.clear()
    with pytest.raises(StoreError, match=r"no store at https://example\.org"):
        open_store(objects)


def test_a_zip_file_is_a_store_everywhere(folder: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "a"), "zip", folder.parent, folder.name)
    local, store = open_store(folder), open_store(archive)
    assert np.array_equal(pickle.loads(pickle.dumps(store)).read(FRAMES), local.read(FRAMES))
    assert not store.over_network
    result = CliRunner().invoke(main, ["info", archive, "--json"])
    assert json.loads(result.stdout)["frames_done"] == 10
    assert CliRunner().invoke(main, ["verify", archive]).exit_code == 0
    out = ["export-store", archive, "--to", "hdf5", "--out", str(tmp_path / "a.h5")]
    assert CliRunner().invoke(main, out).exit_code == 0


def test_workers_of_stores_over_a_network_are_spawned_and_kept(folder: Path) -> None:
    local, remote = open_store(folder), open_store(MemoryObjects(folder))
    assert start_of_workers([local, local], 2) == {}
    assert start_of_workers([local, remote], 0) == {}
    assert start_of_workers([local, remote], 2) == {"multiprocessing_context": "spawn", "persistent_workers": True}


def test_urls_stay_text() -> None:
    assert store_place("s3://bucket/a.zarr") == "s3://bucket/a.zarr"
    assert store_place("stores/a.zarr") == Path("stores/a.zarr")
    assert not is_remote(Path("s3:/bucket"))
    assert not is_remote("http")


def test_a_scheme_in_capitals_is_the_same_and_file_is_a_folder(folder: Path) -> None:
    assert store_place("S3://bucket/A.zarr") == "s3://bucket/A.zarr"
    assert is_remote("HTTPS://example.org/a.zarr")
    assert store_place("FILE:///data/a.zarr") == Path("/data/a.zarr")
    for command in ("info", "verify"):
        result = CliRunner().invoke(main, [command, f"file://{folder}", "--json"])
        assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["precompute", "--teacher", "no such teacher", "--store", "URL"],
        ["precompute", "--teacher", "no such teacher", "--catalogue", "URL"],
        ["import", "maps", "--teacher", "mine", "--store", "URL"],
        ["distill", "--student", "resnet18", "--store", "URL"],
        ["list", "URL"],
        ["info", "URL"],
        ["run", "recipe.toml", "--set", "teacher.store=URL"],
    ],
)
def test_a_url_of_another_kind_is_refused_before_any_work(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").touch()
    result = CliRunner().invoke(main, [word.replace("URL", "hdfs://team/a.zarr") for word in command])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.stderr
    assert "hdfs:// is no place for a store" in result.stderr
    assert "s3://, gs://, az://, http://, https://" in result.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["recipe.toml"]


def test_the_profile_in_aws_files_is_used_where_the_environment_has_no_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id=a\naws_secret_access_key=b\n[team]\n")
    (tmp_path / "config").write_text("[profile team]\nregion = eu-west-1\naws_access_key_id = c\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert aws_profile() == {"access_key_id": "a", "secret_access_key": "b"}
    monkeypatch.setenv("AWS_PROFILE", "team")
    assert aws_profile() == {"access_key_id": "c", "region": "eu-west-1"}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "d")
    assert aws_profile() == {}


@pytest.mark.parametrize(
    ("command", "store", "message"),
    [
        (["import", "maps", "--teacher", "mine"], "s3://bucket/a.zarr", "stores are made in folders"),
        (["precompute", "--teacher", "lidar"], "https://example.org/a.zarr", "a web server only shows stores"),
        (["precompute", "--teacher", "lidar"], "a.zip", "a zip file can only be read"),
        (["precompute", "--teacher", "lidar"], "s3://bucket/a.zip", "a zip file can only be read"),
    ],
)
def test_a_store_is_not_made_where_it_cannot_be(
    command: list[str], store: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a Path of a URL would be a folder named `s3:`
    result = CliRunner().invoke(main, [*command, "--store", store])
    assert result.exit_code == 2
    assert [message in line for line in result.stderr.splitlines() if line.startswith("Error: ")] == [True]
    assert list(tmp_path.iterdir()) == []
