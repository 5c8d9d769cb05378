"""An HDF5 file that `export-store` wrote becomes the store that it was: same fingerprint, same integers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tiekd_cache.data.frame import DepthMap
from tiekd_cache.data.hdf5_dataset import own_dataset, read_entry
from tiekd_cache.errors import DataError, StoreError, TiekdError
from tiekd_cache.filling import Claim, Pieces, fill_store, frames_to_make
from tiekd_cache.foreign import parse_json
from tiekd_cache.progress import ProgressFactory, progress_bar
from tiekd_cache.statistics import ShardStatistics, read_statistics
from tiekd_cache.store import StoreSchema, StoreWriter, open_store
from tiekd_cache.store.chunks import MAX_FRAME_LIST_BYTES
from tiekd_cache.store.codec import dequantise, frame_digest
from tiekd_cache.transfer.hdf5_export import FORMAT
from tiekd_cache.transfer.import_folder import ImportReport

_TEXTS_AT_ONCE = 64


def import_hdf5(
    path: Path,
    store_path: Path,
    *,
    progress: ProgressFactory = progress_bar,
    note: Callable[[str], None] = lambda text: None,
) -> ImportReport:
    """Restores a store from its HDF5 file; every frame is compared with its digest. Resumes where it was stopped.

    Raises:
        DataError: the file is missing, damaged or none of ours; names the frame.
        StoreError: another store is at `store_path`, or it cannot be written.
    """
    started = time.monotonic()
    with _clear_errors(path), h5py.File(path, "r") as file:
        schema, frame_ids, digests, shard_frames = _read_head(path, file)
        writer = StoreWriter.open(store_path, schema, frame_ids, shard_frames=shard_frames)
        # A store that was begun with other shards keeps them; the file's statistics are not theirs.
        same_shards = open_store(store_path, allow_partial=True).info.shard_frames == shard_frames
        places = {frame_id: place for place, frame_id in enumerate(frame_ids)}
        with progress(len(frame_ids), "import hdf5", "frame", len(frame_ids) - frames_to_make(writer)) as bar:

            def read_shards(claims: Iterator[Claim]) -> Pieces:
                for claim in claims:
                    for frame_id in claim.frame_ids:
                        place = places[frame_id]
                        yield claim, _read_frame(path, file, schema, place, frame_id, digests[place])[None]

            def look(shard: int, shard_ids: Sequence[str], depth: DepthMap) -> ShardStatistics | None:
                return _read_statistics(path, file, schema, shard) if same_shards else None

            made = fill_store(writer, read_shards, look, advance=bar.update, note=note)
    statistics = read_statistics(store_path)
    return ImportReport(
        store=store_path,
        frames=len(open_store(store_path)),
        made=made,
        skipped=(),
        pattern=path.name,
        scale="",
        median_ratio=statistics.median_ratio,
        seconds=time.monotonic() - started,
        warning=statistics.unit_warning(schema.teacher),
    )


def _read_head(path: Path, file: Any) -> tuple[StoreSchema, list[str], list[int], int]:
    """(schema, frame ids, digests, frames a shard) of a file."""
    found = file.attrs.get("format")
    if found != FORMAT:
        raise DataError(
            f"{path} has format {found!r}; this version reads {FORMAT!r}, as `tiekd-cache export-store --to hdf5`"
            " writes it. Depth maps of others: write them as npy or 16-bit PNG into a folder and import that."
        )
    try:
        schema = StoreSchema.from_attributes(parse_json(_texts(file, "attributes")[()]))
    except StoreError as error:
        raise DataError(f"{path} is damaged: {error}. Export it again, or copy it again.") from error
    codes = own_dataset(file, "codes", compressed=True)
    texts, digests = _texts(file, "frame_id"), own_dataset(file, "digest")
    expected = [(schema.num_frames, *schema.native_size), (schema.num_frames,), (schema.num_frames,)]
    if [one.shape for one in (codes, texts, digests)] != expected or (codes.dtype, digests.dtype) != ("<u2", "<u4"):
        raise DataError(
            f"{path} is damaged: codes {codes.dtype} {list(codes.shape)}, {texts.size} frame ids and {digests.size}"
            f" digests are not those of {schema.num_frames} frames. Export it again, or copy it again."
        )
    return schema, _frame_ids(texts), [int(digest) for digest in digests[:]], int(file.attrs["shard_frames"])


def _texts(file: Any, name: str) -> Any:
    """A dataset of texts of any length, as the file's writer makes them; raises ValueError for another."""
    found = own_dataset(file, name)
    kind = h5py.check_string_dtype(found.dtype)
    if kind is None or kind.length is not None:
        raise ValueError(f"'{name}' holds no texts")
    return found.asstr()


def _frame_ids(texts: Any) -> list[str]:
    """The frame ids, some at a time: a small file may name one long text a million times."""
    frame_ids: list[str] = []
    left = MAX_FRAME_LIST_BYTES
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        some = [str(text) for text in texts[start : start + _TEXTS_AT_ONCE]]
        left -= sum(map(len, some))
        if left < 0:
            raise ValueError(f"its frame ids have more than {MAX_FRAME_LIST_BYTES} characters")
        frame_ids += some
    return frame_ids


def _read_frame(path: Path, file: Any, schema: StoreSchema, place: int, frame_id: str, digest: int) -> DepthMap:
    codes = read_entry(file["codes"], place)
    if frame_digest(codes) != digest:
        raise DataError(f"{path} is damaged: frame {frame_id} does not have its digest. Export it again, or copy it.")
    # The maximum may have been rounded up to the next step; brought back below it, it gets the same code again.
    return np.minimum(dequantise(codes, schema.step, schema.min_depth), np.float32(schema.max_depth))


def _read_statistics(path: Path, file: Any, schema: StoreSchema, shard: int) -> ShardStatistics | None:
    text = _texts(file, "statistics")[shard]
    if not text:
        return None
    statistics = ShardStatistics.from_bytes(text)
    if (statistics.fingerprint, statistics.shard) != (schema.fingerprint, shard):
        raise DataError(f"{path} is damaged: the statistics of shard {shard} are another's. Export it again.")
    return statistics


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    """What h5py says of a file that is missing, truncated or damaged, as one DataError."""
    try:
        yield
    except TiekdError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: check the path.") from None
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
        said = " ".join(str(error).split())
        raise DataError(
            f"{path} cannot be read as a store's HDF5 file ({said}). Export it again, or copy it."
        ) from error
