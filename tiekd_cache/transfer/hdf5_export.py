"""A store becomes one HDF5 file: the stored integers, their digests and all attributes, so that nothing is lost.

codes       uint16 [N,h,w], a chunk a frame: depth = code * step metres; `invalid_code` = missing
frame_id    string [N]
digest      uint32 [N], crc32c of each frame's codes (little-endian, C order), as in the store
attributes  string: the store's attributes as JSON
statistics  string [shards]: the statistics of each shard as JSON, empty where there are none
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tiekd_cache.errors import StoreError
from tiekd_cache.progress import ProgressFactory, progress_bar
from tiekd_cache.statistics import ShardStatistics
from tiekd_cache.store import ResponseStore, open_store
from tiekd_cache.store.catalogue import Catalogue, damaged, local_path, open_catalogue
from tiekd_cache.store.chunks import Damage
from tiekd_cache.store.codec import MISSING_CODE, Codes, frame_digest, quantise
from tiekd_cache.store.durable import clear_errors
from tiekd_cache.store.layout import statistics_file
from tiekd_cache.store.schema import StoreSchema
from tiekd_cache.transfer.export_folder import ExportReport
from tiekd_cache.transfer.patient_file import PatientFile
from tiekd_cache.whole_file import whole_file

FORMAT = "tiekd-cache-hdf5/1"

_GZIP_LEVEL = 1  # level 4 takes thrice as long for 3 % of the bytes


def export_hdf5(store_path: str | Path, out: str | Path, *, progress: ProgressFactory = progress_bar) -> ExportReport:
    """Writes a finished store as one file, which appears under its name when it is whole.

    Returns:
        the report; `made` is 0 where the file of this store was there already.
    Raises:
        StoreError: the store is not finished or damaged, something else is at `out`, or it cannot be written.
    """
    store = open_store(store_path)
    out = local_path(out)
    if out.exists():
        if _fingerprint_of(out) != store.schema.fingerprint:
            raise StoreError(f"{out} exists and holds something else: nothing was touched; choose another --out.")
        return ExportReport(out, len(store), 0)
    with clear_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as raw:
            target = PatientFile(raw.fileno())
            with h5py.File(target, "w") as file:
                _write(file, store, progress, target)
            target.check()
    return ExportReport(out, len(store), len(store))


def codes_of(store: ResponseStore, frame_id: str) -> Codes:
    """[h,w] uint16: the integers that the store holds of a frame."""
    schema = store.schema
    # The maximum may have been rounded up to the next step; brought back to it, it rounds to the same code.
    depth = np.minimum(store.native(frame_id), np.float32(schema.max_depth))
    return quantise(depth, schema.step, schema.min_depth, schema.max_depth)


def _write(file: Any, store: ResponseStore, progress: ProgressFactory, target: PatientFile) -> None:
    schema, frame_ids = store.schema, store.frame_ids
    height, width = schema.native_size
    text = h5py.string_dtype("utf-8")
    file.create_dataset("attributes", data=json.dumps(schema.to_attributes(), ensure_ascii=False), dtype=text)
    file.create_dataset("frame_id", data=list(frame_ids), dtype=text)
    file.create_dataset("statistics", data=_statistics(store), dtype=text)
    codes = file.create_dataset(
        "codes",
        shape=(len(frame_ids), height, width),
        dtype="<u2",
        chunks=(1, height, width),
        shuffle=True,
        compression="gzip",
        compression_opts=_GZIP_LEVEL,
        fletcher32=True,
    )
    digests = np.empty(len(frame_ids), np.uint32)
    with progress(len(frame_ids), "export hdf5", "frame") as bar:
        for place, frame_id in enumerate(frame_ids):
            found = codes_of(store, frame_id)
            digests[place] = frame_digest(found)
            codes[place] = found
            target.check()
            bar.update(1)
    file.create_dataset("digest", data=digests, dtype="<u4")
    _describe(file, store, schema)


def _describe(file: Any, store: ResponseStore, schema: StoreSchema) -> None:
    """Attributes of the file for a reader who knows nothing of us."""
    file.attrs["format"] = FORMAT
    file.attrs["fingerprint"] = schema.fingerprint
    file.attrs["shard_frames"] = store.info.shard_frames
    file.attrs["unit"] = "m"
    file.attrs["step"] = schema.step
    file.attrs["min_depth"] = schema.min_depth
    file.attrs["invalid_code"] = MISSING_CODE
    file.attrs["teacher"] = schema.teacher["name"]


def _statistics(store: ResponseStore) -> list[str]:
    catalogue = open_catalogue(store.info.path, store.signed)
    return [_text_of(statistics_file(store.info.path, shard), catalogue) for shard in range(store.info.num_shards)]


def _text_of(file: Path, store: Catalogue) -> str:
    """The statistics of a shard, nothing where it has none; raises DamagedStoreError where importing would fail."""
    try:
        data = store.read_optional(file)
        if data is None:
            return ""
        ShardStatistics.from_bytes(data)
    except (Damage, ValueError) as error:
        raise damaged(store.path, file, error) from error
    return data.decode()


def _fingerprint_of(path: Path) -> str | None:
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs.get("fingerprint"))
    except OSError:
        return None  # no HDF5 file
