"""Objects by key: folders, zip files, and what a key may be."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tiekd_cache.errors import ConfigError, StoreError
from tiekd_cache.store.objects import FolderObjects, MissingObject, RemoteError, open_objects


def test_what_is_put_is_got_in_whole_and_in_part(tmp_path: Path) -> None:
    objects = open_objects(tmp_path / "new" / "place")
    assert objects.list() == []
    assert objects.put("done/00000.json", b"0123456789")
    assert objects.put("zarr.json", b"{}")
    assert objects.get("done/00000.json") == b"0123456789"
    assert objects.get_range("done/00000.json", 3, 4) == b"3456"
    assert objects.size("done/00000.json") == 10
    assert objects.list() == [("done/00000.json", 10), ("zarr.json", 2)]
    assert objects.list("done") == objects.list("done/") == [("done/00000.json", 10)]
    assert objects.list("absent") == []
    assert objects.put("zarr.json", b"other")
    assert objects.get("zarr.json") == b"other"
    objects.delete("zarr.json")
    objects.delete("zarr.json")
    objects.delete("absent/zarr.json")
    assert [key for key, _ in objects.list()] == ["done/00000.json"]


def test_of_many_that_put_if_absent_one_wins_and_its_bytes_stay(tmp_path: Path) -> None:
    objects = FolderObjects(tmp_path)
    won: list[int] = []

    def put(number: int) -> None:
        if objects.put("a/record", b"%d" % number, if_absent=True):
            won.append(number)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert objects.get("a/record") == b"%d" % won[0]
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["record"]  # nothing is left aside
    assert not objects.put("a/record", b"late", if_absent=True)


def test_without_hard_links_put_if_absent_still_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    objects = FolderObjects(tmp_path)
    assert objects.put("record", b"first", if_absent=True)
    assert not objects.put("record", b"second", if_absent=True)
    assert objects.get("record") == b"first"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_not_there_is_said_and_never_filled_in(tmp_path: Path) -> None:
    objects = FolderObjects(tmp_path)
    objects.put("shard", b"12345")
    for read in (objects.get, objects.size, lambda key: objects.get_range(key, 0, 1)):
        for key in ("absent", "absent/too", "shard/below"):
            with pytest.raises(MissingObject, match=key):
                read(key)
    with pytest.raises(RemoteError, match="3 of 4 bytes at 2"):
        objects.get_range("shard", 2, 4)


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../other", "a/../b", "a//b", "./a", "a/", "a\\b", "a\0b"])
def test_no_key_leads_out_of_the_place(tmp_path: Path, key: str) -> None:
    objects = FolderObjects(tmp_path / "place")
    for act in (objects.get, objects.size, objects.delete, lambda key: objects.put(key, b"")):
        with pytest.raises(StoreError, match="is no name of a part of a store"):
            act(key)
    assert list(tmp_path.iterdir()) == []


def test_links_out_of_the_place_are_refused_and_not_listed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "outside").mkdir()
    place = tmp_path / "place"
    place.mkdir()
    (place / "link").symlink_to(tmp_path / "secret")
    (place / "done").symlink_to(tmp_path / "outside")
    objects = FolderObjects(place)
    with pytest.raises(StoreError, match="leads out of"):
        objects.get("link")
    with pytest.raises(StoreError, match="leads out of"):
        objects.put("done/00000.json", b"")
    assert objects.list() == []
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_link_to_the_whole_place_is_followed(tmp_path: Path) -> None:
    FolderObjects(tmp_path / "real").put("zarr.json", b"{}")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert FolderObjects(tmp_path / "link").get("zarr.json") == b"{}"


def test_another_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="ftp://"):
        open_objects("ftp://host/store")
    with pytest.raises(ConfigError, match="download it"):
        open_objects("https://host/store.zip")
