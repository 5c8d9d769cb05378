"""A store becomes a folder of one file a frame: 16-bit PNG or npz, named by frame id, with a description beside."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import cv2
import numpy as np

from tiekd_cache.data.frame import DepthMap
from tiekd_cache.errors import RangeError, StoreError
from tiekd_cache.foreign import parse_json, read_file, shown
from tiekd_cache.progress import ProgressFactory, progress_bar
from tiekd_cache.store import ResponseStore, open_store
from tiekd_cache.store.catalogue import local_path
from tiekd_cache.store.durable import clear_errors, make_folders, write_file
from tiekd_cache.store.layout import metadata_bytes
from tiekd_cache.store.schema import JsonObject
from tiekd_cache.transfer.scale import Scale

FolderKind = Literal["png16", "npz"]

DESCRIPTION = "tiekd-cache-export.json"
"""Beside the files: what they are, their scale, and all attributes of the store."""

FORMAT = "tiekd-cache-export/1"

_SUFFIX: dict[FolderKind, str] = {"png16": "png", "npz": "npz"}
_MAX_COUNT = 65535
_THREADS = 4
_LONGEST_NAME = 240
"""Bytes of a file's name before its suffix, with room for the names of unfinished files."""
_DECIDES = ("format", "kind", "scale", "fingerprint")


@dataclass(frozen=True)
class ExportReport:
    """What an export did: where it is, how many frames it holds, how many of them this run wrote."""

    out: Path
    frames: int
    made: int


def export_folder(
    store_path: str | Path,
    out: str | Path,
    kind: FolderKind,
    scale: Scale | None = None,
    *,
    progress: ProgressFactory = progress_bar,
) -> ExportReport:
    """Writes `<out>/<frame id>.png` (or .npz) for each frame of a finished store; skips those that are there.

    Args:
        kind: "png16": rint(metres * scale), 0 = missing; "npz": array `depth`, float32 metres.
        scale: counts per metre of the PNGs; 256 where None.
    Raises:
        StoreError: the store is not finished or damaged, something else is at `out`, or it cannot be written.
        RangeError: a depth does not fit 16 bits; names the frame.
    """
    store = open_store(store_path)
    out = local_path(out)
    scale = Scale.parse("256") if scale is None else scale
    _begin(out, store, kind, scale)
    files = {frame_id: out / f"{relative_path(store, frame_id)}.{_SUFFIX[kind]}" for frame_id in store.frame_ids}
    todo = [frame_id for frame_id, file in files.items() if not file.is_file()]
    making = threading.Lock()

    def write(frame_id: str) -> None:
        data = _png(store[frame_id], scale, frame_id) if kind == "png16" else _npz(store[frame_id])
        with making:
            make_folders(files[frame_id].parent, out)
        write_file(files[frame_id], data)

    with (
        progress(len(files), f"export {kind}", "frame", len(files) - len(todo)) as bar,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        try:
            for _ in pool.map(write, todo):
                bar.update(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return ExportReport(out, len(files), len(todo))


def relative_path(store: ResponseStore, frame_id: str) -> PurePosixPath:
    """A frame id as a path below the export's folder.

    Raises:
        StoreError: it would lead out of there.
    """
    path = PurePosixPath(frame_id)
    odd = path.is_absolute() or "\\" in frame_id or ".." in path.parts or not frame_id.isprintable()
    if odd or str(path) != frame_id or any(len(part.encode()) > _LONGEST_NAME for part in path.parts):
        raise StoreError(
            f"Frame id {shown(frame_id)!r} of {store.info.path} is no path below a folder: export it as hdf5."
        )
    return path


def _begin(out: Path, store: ResponseStore, kind: FolderKind, scale: Scale) -> None:
    """Makes the folder and its description, or checks those that are there."""
    described = _description(store, kind, scale)
    file = out / DESCRIPTION
    if file.is_file():
        try:
            found = parse_json(read_file(file))
            other = [name for name in _DECIDES if found[name] != described[name]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{file} cannot be read ({error}): choose another --out.") from None
        if other:
            said = ", ".join(f"{name} {found[name]}, now {described[name]}" for name in other)
            raise StoreError(f"{out} holds another export ({said}): nothing was touched; choose another --out.")
        return
    with clear_errors(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise StoreError(f"{out} exists and is no export of ours: nothing was touched; choose another --out.")
        out.mkdir(parents=True, exist_ok=True)
    write_file(file, metadata_bytes(described))


def _description(store: ResponseStore, kind: FolderKind, scale: Scale) -> JsonObject:
    attributes = store.schema.to_attributes()
    return {
        "format": FORMAT,
        "kind": kind,
        "files": f"{{frame_id}}.{_SUFFIX[kind]}",
        "scale": scale.text if kind == "png16" else "1",
        "unit": "counts per metre" if kind == "png16" else "m",
        "invalid": 0,
        "frames": len(store),
        "fingerprint": attributes["fingerprint"],
        "attributes": attributes,
    }


def _png(depth: DepthMap, scale: Scale, frame_id: str) -> bytes:
    counts = scale.counts(depth)
    if counts.max(initial=0) > _MAX_COUNT:
        fitting = [text for text in ("65535/80", "256", "100") if Scale.parse(text).counts(depth).max() <= _MAX_COUNT]
        raise RangeError(
            f"Depth {float(depth.max()):.2f} m of frame {frame_id} does not fit 16 bits with --scale {scale.text}:"
            f" that ends at {_MAX_COUNT / float(scale.counts_per_metre):.2f} m. Take --scale"
            f" {' or '.join(fitting) or '1'}."
        )
    done, data = cv2.imencode(".png", counts.astype(np.uint16))
    if not done:
        raise StoreError(f"Frame {frame_id} cannot be encoded as PNG ({list(depth.shape)} pixels): export it as npz.")
    return bytes(data)


def _npz(depth: DepthMap) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, depth=depth)
    return buffer.getvalue()
