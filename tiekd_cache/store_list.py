"""A catalogue: the stores in a folder or bucket, what each one says of itself, and the one that is meant.

A listing reads one file of each store, its attributes, and the names and sizes of the rest; no response is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiekd_cache.errors import ConfigError, StoreError
from tiekd_cache.foreign import parse_json, shown
from tiekd_cache.openssh import Signers
from tiekd_cache.store.cache import has_found
from tiekd_cache.store.catalogue import is_store, layout_of, open_catalogue
from tiekd_cache.store.chunks import Damage
from tiekd_cache.store.layout import Layout
from tiekd_cache.store.object_path import store_path
from tiekd_cache.store.objects import (
    FolderObjects,
    MissingObject,
    Objects,
    RefusedError,
    RemoteError,
    is_remote,
    open_objects,
)
from tiekd_cache.store.schema import FORMAT, StoreSchema
from tiekd_cache.store.signature import require_signed

UNREADABLE = (Damage, ValueError, TypeError, LookupError, ArithmeticError, MemoryError)
"""What reading raises where someone made a store by other means: one such must not hide the others."""

_PARTS = {"residual", "frame_id", "digest", "done"}
_FORMAT_NAME = re.compile(r"tiekd-cache/\d+")
_RECORD = re.compile(r"done/([0-9]{5,10})\.json")


@dataclass(frozen=True)
class ListedStore:
    """A store in a catalogue.

    Attributes:
        place: its path or URL.
        name: its path below the catalogue, with `/`.
        num_bytes: of all its objects.
        schema: its attributes; None where they cannot be read.
        frames_done: frames of finished shards.
        images_done: frames of finished shards of images; 0 where it has none.
        problem: what is wrong with it, in one line; None where nothing is seen to be.
    """

    place: str
    name: str
    num_bytes: int
    schema: StoreSchema | None = None
    frames_done: int = 0
    images_done: int = 0
    problem: str | None = None

    @property
    def finished(self) -> bool:
        """Whether every frame has its response, and nothing is seen to be wrong."""
        return self.problem is None and self.schema is not None and self.frames_done == self.schema.num_frames

    @property
    def maker(self) -> str:
        """Who made it; `-` where it does not say."""
        return self._created("maker")

    @property
    def date(self) -> str:
        """The day on which it was begun, YYYY-MM-DD; `-` where it does not say."""
        return self._created("created_at")[:10]

    @property
    def images(self) -> str:
        """`yes`, `no`, or `some`."""
        whole = self.schema is not None and self.images_done >= self.schema.num_frames
        return "no" if not self.images_done else "yes" if whole else "some"

    def describe(self) -> str:
        """Its place, teacher, data set, frames and fingerprint in a few words, for messages."""
        if self.schema is None:
            return f"{shown(self.place, 300)} (cannot be read)"
        teacher, data = shown(self.schema.teacher["name"]), shown(self.schema.dataset["name"])
        done = f"{self.frames_done}/{self.schema.num_frames} frames"
        wrong = ", damaged" if self.problem else ""
        return f"{shown(self.place, 300)} ({teacher}, {data}, {done}, {self.schema.fingerprint[:12]}{wrong})"

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        schema = self.schema
        return {
            "store": self.place,
            "name": self.name,
            "teacher": schema and schema.teacher["name"],
            "trained": schema and schema.teacher["trained"],
            "dataset": schema and schema.dataset["name"],
            "split": schema and schema.dataset["split"],
            "fingerprint": schema and schema.fingerprint,
            "frames": schema and schema.num_frames,
            "frames_done": self.frames_done,
            "finished": self.finished,
            "bytes": self.num_bytes,
            "maker": self.maker,
            "date": self.date,
            "images": self.images_done,
            "problem": self.problem,
        }

    def _created(self, key: str) -> str:
        found = self.schema.created_by.get(key) if self.schema is not None else None
        return found if isinstance(found, str) and found else "-"


def list_stores(place: str | Path) -> list[ListedStore]:
    """Every store at a place, sorted by name: the place itself, its folders, and theirs.

    What is no store is passed over; a damaged store is listed with what is wrong.

    Args:
        place: a folder or the URL of a bucket, or of a folder in one.
    Raises:
        ConfigError: there is no such folder, or what is there cannot be listed (a plain web server).
        RemoteError: no answer, or no permission to list.
    """
    objects = open_objects(place)
    if not isinstance(objects, FolderObjects):
        return _among(objects)
    if not objects.folder.is_dir():
        raise ConfigError(f"There is no folder {place}: name a folder of stores, or the URL of a bucket with some.")
    around = objects.folder if "://" in str(place) else Path(place).expanduser()
    found = [_local(FolderObjects(folder), around, name) for folder, name in _folders(objects.folder)]
    if not (found and found[0] is not None and found[0].name == "."):
        found += [_zipped(file, around) for file in sorted(objects.folder.glob("[!.]*.zip")) if file.is_file()]
    return sorted((store for store in found if store is not None), key=lambda store: store.name)


def signer_of(place: str | Path, trust: Signers) -> str:
    """The name of who signed a store, which must be one of these; its metadata are compared with what they signed.

    Raises:
        StoreError: it is not signed by any of them, has shards that are not, or metadata that were changed.
    """
    path = store_path(place)
    signed = require_signed(path, trust)
    open_catalogue(path, signed)
    return signed.signer


def is_server_failing(place: str | Path, error: Exception) -> bool:
    """Whether an error is no fault of the store at a place: its server fails, and would for the other stores, too."""
    return is_remote(place) and isinstance(error, RemoteError) and not isinstance(error, RefusedError)


def is_catalogue(place: str | Path, cache: Path | None = None) -> bool:
    """Whether a place is no store but has some: a folder with stores in it, a bucket's URL without attributes.

    Args:
        cache: a cache folder; a URL is not asked where a store was read from it through this cache before.
    Raises:
        ConfigError: no such kind of place.
        StoreError: no answer, or no permission.
    """
    objects = open_objects(place)
    if isinstance(objects, FolderObjects):
        first = next(_folders(objects.folder), None)
        return first is not None and first[1] != "."
    if not is_remote(place) or objects.url.startswith("http"):
        return False
    if cache is not None and has_found(cache, objects.url):
        return False
    try:
        objects.size("zarr.json")
    except MissingObject:
        return True
    return False


def _folders(root: Path) -> Iterator[tuple[Path, str]]:
    """The folders that may be stores with their names: the root, or its folders, or theirs; no store's own parts."""
    if _may_be_store(root):
        yield root, "."
        return
    for folder in _subfolders(root):
        if _may_be_store(folder):
            yield folder, folder.name
            continue
        for inner in _subfolders(folder):
            if _may_be_store(inner):
                yield inner, f"{folder.name}/{inner.name}"


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []  # what may not be looked at is nothing that could be listed


def _may_be_store(folder: Path) -> bool:
    try:
        return is_store(folder)
    except OSError:
        return False


def _local(objects: FolderObjects, around: Path, name: str) -> ListedStore | None:
    place = os.path.normpath(around / name)
    try:
        return _read(objects, "", dict(objects.list()), place, name)
    except StoreError as error:
        return ListedStore(place, name, 0, problem=shown(str(error), 300))


def _zipped(file: Path, around: Path) -> ListedStore | None:
    try:
        objects = open_objects(file)
        return _read(objects, "", dict(objects.list()), os.path.normpath(around / file.name), file.name)
    except StoreError:
        return None  # one of the many zip files that are no stores


def _among(objects: Objects) -> list[ListedStore]:
    """The stores among objects, all of which are listed at once."""
    listing = objects.list()
    keys = [key for key, _ in listing]
    names = ["."] if "zarr.json" in keys else _names(keys)
    sizes: dict[str, dict[str, int]] = {name: {} for name in names}
    for key, size in listing:
        for name in sizes.keys() & {".", *("/".join(key.split("/")[:depth]) for depth in (1, 2))}:
            sizes[name][key if name == "." else key.removeprefix(f"{name}/")] = size
    found = []
    for name in names:
        prefix = "" if name == "." else f"{name}/"
        place = objects.url if name == "." else f"{objects.url}/{name}"
        found.append(_read(objects, prefix, sizes[name], place, name))
    return [store for store in found if store is not None]


def _names(keys: Sequence[str]) -> list[str]:
    """The folders among the keys that may be stores, as `_folders` finds them."""
    parts: dict[str, set[str]] = {}
    for key in keys:
        words = key.split("/")
        for depth in (1, 2):
            if len(words) > depth:
                leaf = "zarr.json" if words[depth:] == ["zarr.json"] else f"{words[depth]}/"
                parts.setdefault("/".join(words[:depth]), set()).add(leaf)
    wanted = {f"{part}/" for part in _PARTS}
    likely = sorted(name for name, has in parts.items() if "zarr.json" in has or wanted <= has)
    return [name for name in likely if name.partition("/")[0] == name or name.partition("/")[0] not in likely]


def _read(objects: Objects, prefix: str, sizes: Mapping[str, int], place: str, name: str) -> ListedStore | None:
    """The store below a prefix, whose keys and their sizes are given; None where that is no store of ours."""
    total = sum(sizes.values())
    ours = all(any(key.startswith(f"{part}/") for key in sizes) for part in _PARTS)
    try:
        group = parse_json(objects.get(f"{prefix}zarr.json"))
    except (StoreError, *UNREADABLE) as error:
        if is_server_failing(place, error):
            raise
        unreadable = shown(f"zarr.json cannot be read ({error})", 300)
        return ListedStore(place, name, total, problem=unreadable) if ours else None
    attributes = group.get("attributes") if isinstance(group, dict) else None
    written = attributes.get("format") if isinstance(attributes, dict) else None
    if not isinstance(attributes, dict) or not isinstance(written, str) or not _FORMAT_NAME.fullmatch(written):
        return ListedStore(place, name, total, problem="zarr.json names no format 'tiekd-cache/…'") if ours else None
    if written != FORMAT:
        return ListedStore(place, name, total, problem=f"format {written}: a newer tiekd-cache reads it")
    try:
        schema = StoreSchema.from_attributes(attributes)
        layout = layout_of(Path(name), group, schema)
    except (StoreError, *UNREADABLE) as error:
        return ListedStore(place, name, total, problem=shown(str(error), 300))
    done = _done(sizes, "", layout)
    images = _done(sizes, "images/", layout)
    lost = [shard for shard in done if f"residual/c/{shard}/0/0" not in sizes]
    problem: str | None = None
    if lost:
        problem = f"{len(lost)} finished shards have no file, the first residual/c/{lost[0]}/0/0"
    elif "frame_id/c/0" not in sizes:
        problem = "the frame list frame_id/c/0 is missing"
    return ListedStore(place, name, total, schema, _frames(done, layout), _frames(images, layout), problem)


def _done(sizes: Mapping[str, int], prefix: str, layout: Layout) -> list[int]:
    found = (_RECORD.fullmatch(key.removeprefix(prefix)) for key in sizes if key.startswith(prefix))
    return sorted(int(match[1]) for match in found if match and int(match[1]) < layout.num_shards)


def _frames(shards: Sequence[int], layout: Layout) -> int:
    whole, last = layout.shard_frames, layout.num_shards - 1  # what is declared may be more than a range can hold
    return sum(whole if shard < last else layout.num_frames - last * whole for shard in shards)
