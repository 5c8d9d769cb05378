"""Objects in a zip file: read by range, checked, and nothing in it is believed."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

import pytest

from tiekd_cache.errors import ConfigError, StoreError
from tiekd_cache.store.objects import MissingObject, OversizedObject, RemoteError, open_objects
from tiekd_cache.store.zip_objects import ZipObjects

SHARD = bytes(range(256)) * 4


def made_zip(path: Path, folder: str = "", compression: int = zipfile.ZIP_STORED) -> Path:
    """A zip file of three objects, below `folder`."""
    with zipfile.ZipFile(path, "w", compression) as opened:
        opened.writestr(f"{folder}zarr.json", b"{}")
        opened.writestr(f"{folder}done/00000.json", b'{"shard": 0}')
        opened.writestr(f"{folder}residual/c/0/0/0", SHARD)
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("folder", ["", "bts.zarr/"])
def test_entries_are_read_whole_and_in_part(tmp_path: Path, folder: str, compression: int) -> None:
    objects = open_objects(made_zip(tmp_path / "bts.zip", folder, compression))
    assert isinstance(objects, ZipObjects)
    for opened in (objects, pickle.loads(pickle.dumps(objects))):
        assert opened.get("residual/c/0/0/0") == SHARD
        assert opened.get_range("residual/c/0/0/0", 250, 300) == SHARD[250:550]
        assert opened.size("residual/c/0/0/0") == len(SHARD)
        assert opened.list() == [("done/00000.json", 12), ("residual/c/0/0/0", 1024), ("zarr.json", 2)]
        assert opened.list("done") == [("done/00000.json", 12)]
    for read in (objects.get, objects.size, lambda key: objects.get_range(key, 0, 1)):
        with pytest.raises(MissingObject, match="There is no done/00001"):
            read("done/00001.json")
    with pytest.raises(RemoteError, match="has 2 bytes, not 2 at 1"):
        objects.get_range("zarr.json", 1, 2)
    with pytest.raises(ConfigError, match="read only"):
        objects.put("zarr.json", b"")
    with pytest.raises(ConfigError, match="read only"):
        objects.delete("zarr.json")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_was_altered_or_cut_off_is_an_error(tmp_path: Path, compression: int) -> None:
    whole = made_zip(tmp_path / "bts.zip", compression=compression).read_bytes()
    place = whole.index(b"residual/c/0/0/0") + 40
    (tmp_path / "altered.zip").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(RemoteError, match="is not as it was put there"):
        ZipObjects(tmp_path / "altered.zip").get("residual/c/0/0/0")
    (tmp_path / "cut.zip").write_bytes(whole[:-30])
    with pytest.raises(RemoteError, match="no zip file that can be read"):
        ZipObjects(tmp_path / "cut.zip")
    with pytest.raises(MissingObject, match="There is no"):
        ZipObjects(tmp_path / "absent.zip")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as opened:
        opened.writestr(name, b"")
    with pytest.raises(StoreError, match="is no name of a part of a store"):
        ZipObjects(tmp_path / "bad.zip")


def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("zarr.json", bytes(8 << 20))
    with pytest.raises(RemoteError, match="declares 8388608 bytes"):
        ZipObjects(tmp_path / "bomb.zip")
    whole = made_zip(tmp_path / "bts.zip").read_bytes()
    entry = whole.rindex(b"PK\1\2")  # the last entry's place in the directory: both sizes are made huge
    lying = whole[: entry + 20] + struct.pack("<2I", 1 << 31, 1 << 31) + whole[entry + 28 :]
    (tmp_path / "lying.zip").write_bytes(lying)
    with pytest.raises(RemoteError, match="declares 2147483648 bytes"):
        ZipObjects(tmp_path / "lying.zip")


def test_an_entry_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as opened:
        opened.writestr("zarr.json", b"{}")
        with pytest.warns(UserWarning, match="Duplicate name"):
            opened.writestr("zarr.json", b"[]")
    with pytest.raises(RemoteError, match="is in it twice"):
        ZipObjects(tmp_path / "twice.zip")


def test_a_directory_that_points_before_the_file_or_names_nothing_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr("zarr.json", b"{}")
    whole = (tmp_path / "a.zip").read_bytes()
    (directory,) = struct.unpack("<I", whole[-6:-2])
    (tmp_path / "before.zip").write_bytes(whole[:-6] + struct.pack("<I", directory + 16) + whole[-2:])
    with pytest.raises(RemoteError, match="cannot be in so small a file"):
        ZipObjects(tmp_path / "before.zip")
    lengths = struct.pack("<3H", 0, 0, len("zarr.json"))  # of name, extra field and comment
    (tmp_path / "nameless.zip").write_bytes(whole[: directory + 28] + lengths + whole[directory + 34 :])
    with pytest.raises(RemoteError, match="no zip file that can be read"):
        ZipObjects(tmp_path / "nameless.zip")


def test_an_entry_larger_than_what_is_asked_for_is_not_read(tmp_path: Path) -> None:
    objects = ZipObjects(made_zip(tmp_path / "bts.zip"))
    assert objects.get("residual/c/0/0/0", len(SHARD)) == SHARD
    with pytest.raises(OversizedObject, match="it has 1024 bytes, and may have 1023"):
        objects.get("residual/c/0/0/0", len(SHARD) - 1)
