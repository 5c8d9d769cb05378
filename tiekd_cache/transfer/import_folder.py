"""A folder of depth files becomes a store: the files are a teacher's responses, read once, checked, and cached."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tiekd_cache.agreement import FrameAgreement, frame_agreement, median_ratio
from tiekd_cache.data.frame import DepthMap, FrameSource
from tiekd_cache.errors import ConfigError, DataError
from tiekd_cache.filling import Claim, Pieces, fill_store, frames_to_make
from tiekd_cache.foreign import parse_json, read_file, shown
from tiekd_cache.progress import ProgressFactory, progress_bar
from tiekd_cache.statistics import ShardStatistics, read_statistics, shard_statistics
from tiekd_cache.store import StoreSchema, StoreWriter, open_store
from tiekd_cache.store.schema import sha256_of
from tiekd_cache.transfer.export_folder import DESCRIPTION
from tiekd_cache.transfer.file_digests import file_digests
from tiekd_cache.transfer.naming import file_name, find_pattern
from tiekd_cache.transfer.responses import MIN_DEPTH_M, ResponseFiles
from tiekd_cache.transfer.scale import USUAL_SCALES, Scale, unit_error, unit_hint

COMPARED_FRAMES = 16
"""Files that are held against ground truth before anything is written."""

IMPORTED = "imported"
"""Architecture of a teacher that is known by its files only."""

THREADS = 4

Note = Callable[[str], None]


@dataclass(frozen=True)
class ImportConfig:
    """What the user says of the files.

    Attributes:
        teacher: name of the teacher that made them.
        scale: counts per metre; None: what an export says of itself, else 1 for files of floats.
        pattern: how they are named; None tries the usual ways.
        key: array in npz files; None takes the only one.
        max_depth: metres; a depth beyond it stops the import.
        clip: cut depths to `max_depth` instead of stopping.
        nonfinite_is_missing: take NaN and infinity for "no depth" instead of stopping.
        trust_scale: import what the ground truth contradicts.
        skip_missing: go on without frames that have no file.
        flip_average: the files are averages with the mirrored image's answer; recorded, nothing else.
        shard_frames: frames a shard.
    """

    teacher: str
    scale: Scale | None = None
    pattern: str | None = None
    key: str | None = None
    max_depth: float = 80.0
    clip: bool = False
    nonfinite_is_missing: bool = False
    trust_scale: bool = False
    skip_missing: bool = False
    flip_average: bool = False
    shard_frames: int = 64


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes:
        store: where the responses are.
        frames: responses in the finished store.
        made: of these, how many this run read.
        skipped: (frame_id, reason) of frames without a file.
        pattern, scale: how the files are named, and their counts per metre; of an HDF5 file, its name and nothing.
        median_ratio: of depth to ground truth, over the frames compared; None where there was none.
        seconds: wall time.
        warning: one line where the responses disagree with ground truth as a wrong unit would.
    """

    store: Path
    frames: int
    made: int
    skipped: tuple[tuple[str, str], ...]
    pattern: str
    scale: str
    median_ratio: float | None
    seconds: float
    warning: str | None = None


def import_folder(
    folder: Path,
    source: FrameSource,
    store_path: Path,
    config: ImportConfig,
    *,
    progress: ProgressFactory = progress_bar,
    note: Note = lambda text: None,
) -> ImportReport:
    """Makes a store of the files that a folder has for the frames of `source`; resumes where it was stopped.

    Args:
        progress: makes progress bars.
        note: takes sentences for the user: how the files are named, what was cropped, what could not be checked.
    Raises:
        ConfigError: a setting is missing or makes no sense.
        DataError: files are missing, damaged, of another size, or in a unit that the ground truth contradicts.
        RangeError: a depth is NaN, infinite, negative or out of range; names the file.
        StoreError: the store belongs to other files or settings, or cannot be written.
    """
    started = time.monotonic()
    if not source.frame_ids:
        raise DataError(f"{source.split} has no frames: there is nothing to import.")
    if not config.teacher.strip():
        raise ConfigError("The teacher has no name: say whose responses these are with --teacher.")
    pattern = find_pattern(folder, source.frame_ids, config.pattern)
    note(f"Files: {folder / pattern}")
    there, skipped = _split_present(folder, pattern, source, config.skip_missing)
    scale = config.scale if config.scale is not None else _scale_of_export(folder)
    files = ResponseFiles(folder, pattern, source, config.key, scale, config.max_depth, config.clip)
    files = replace(files, nonfinite_is_missing=config.nonfinite_is_missing)
    files = _with_scale(files, there[0])
    agreement = _check_unit(files, there, config, note)
    digests = file_digests([folder / file_name(pattern, frame_id) for frame_id in there], progress)
    schema = _schema(files, there, skipped, digests, config)
    writer = StoreWriter.open(store_path, schema, there, shard_frames=config.shard_frames)
    expected = dict(zip(there, digests, strict=True))
    with (
        progress(len(there), f"import {config.teacher}", "frame", len(there) - frames_to_make(writer)) as bar,
        ThreadPoolExecutor(THREADS) as pool,
    ):

        def read(frame_id: str) -> DepthMap:
            depth = files.read(frame_id, expected[frame_id])
            bar.update(1)
            return depth

        def read_shards(claims: Iterator[Claim]) -> Pieces:
            for claim in claims:
                yield claim, np.stack(list(pool.map(read, claim.frame_ids)))

        def look(shard: int, frame_ids: Sequence[str], depth: DepthMap) -> ShardStatistics:
            return shard_statistics(schema, shard, frame_ids, depth, source)

        made = fill_store(writer, read_shards, look, note=note)
    return ImportReport(
        store=store_path,
        frames=len(open_store(store_path)),
        made=made,
        skipped=tuple(skipped),
        pattern=pattern,
        scale=files.known_scale.text,
        median_ratio=median_ratio(agreement),
        seconds=time.monotonic() - started,
        warning=read_statistics(store_path).unit_warning(schema.teacher),
    )


def _split_present(
    folder: Path, pattern: str, source: FrameSource, skip_missing: bool
) -> tuple[list[str], list[tuple[str, str]]]:
    """(frames with a file, (frame, reason) of the others); raises DataError for these unless they may be skipped."""
    there: list[str] = []
    missing: list[tuple[str, str]] = []
    for frame_id in source.frame_ids:
        name = file_name(pattern, frame_id)
        if (folder / name).is_file():
            there.append(frame_id)
        else:
            missing.append((frame_id, f"no file {name}"))
    if missing and not skip_missing:
        names = ", ".join(file_name(pattern, frame_id) for frame_id, _ in missing[:10])
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise DataError(
            f"{len(missing)} of the {len(source.frame_ids)} frames of {source.split} have no file in {folder}: {names}"
            f"{more}. Add them, use another --split, or go on without these frames with --skip-missing."
        )
    return there, missing


def _scale_of_export(folder: Path) -> Scale | None:
    """The scale that a folder made by `export-store` names."""
    try:
        said = parse_json(read_file(folder / DESCRIPTION))["scale"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / DESCRIPTION} cannot be read ({error}): say the scale with --scale.") from None
    return None if said is None else Scale.parse(shown(str(said)))


def _with_scale(files: ResponseFiles, frame_id: str) -> ResponseFiles:
    """Files of floats are metres where nothing else is said; nothing says what integers are."""
    if files.scale is not None:
        return files
    if files.holds_integers(frame_id):
        raise ConfigError(
            f"{files.path(frame_id)} holds integers, and no file says how many of them a metre has: say --scale"
            f" {USUAL_SCALES[2]} (KITTI), {USUAL_SCALES[3]} (millimetres) or {USUAL_SCALES[4]} (TIE-KD)."
        )
    return replace(files, scale=Scale.parse("1"))


def _check_unit(
    files: ResponseFiles, frame_ids: Sequence[str], config: ImportConfig, note: Note
) -> list[FrameAgreement]:
    """Holds some files against ground truth; raises DataError where they contradict, unless the scale is trusted."""
    source = files.source
    if files.is_cropped(frame_ids[0]):
        note(f"{files.path(frame_ids[0])} has the whole image's size: files like it are cut to {source.crop}.")
    known = [frame_id for frame_id in frame_ids if source.has_gt(frame_id) or source.has_lidar(frame_id)]
    places = np.linspace(0, len(known) - 1, min(COMPARED_FRAMES, len(known))).astype(int)
    agreement: list[FrameAgreement] = []
    for frame_id in [known[place] for place in places]:
        try:
            gt_depth = source.lidar_depth(frame_id)
        except DataError as unread:  # the others may do; the user is told
            note(f"Ground truth of {frame_id} is not compared: {unread}")
            continue
        # A wrong unit may lie anywhere, so the range is checked later.
        depth = files.read_unchecked(frame_id)
        found = None if gt_depth is None else frame_agreement(frame_id, depth, gt_depth, config.max_depth)
        agreement += [] if found is None else [found]
    ratio = median_ratio(agreement)
    scale = files.known_scale
    if ratio is None:
        note(f"No ground truth to hold the unit against: {scale.text} counts per metre is taken on trust.")
        return agreement
    error = unit_error(ratio, len(agreement), scale)
    if error is not None and not config.trust_scale:
        raise DataError(f"{files.folder}: {error}")
    hint = unit_hint(ratio, scale)
    for text in (error, hint if error is None else None):
        if text is not None:
            note(f"Warning: {text}")
    return agreement


def _schema(
    files: ResponseFiles,
    frame_ids: Sequence[str],
    skipped: Sequence[tuple[str, str]],
    digests: Sequence[str],
    config: ImportConfig,
) -> StoreSchema:
    source, scale = files.source, files.known_scale
    kind = Path(files.pattern).suffix.lstrip(".")
    identity = [config.teacher, str(scale.counts_per_metre), config.key, config.nonfinite_is_missing, list(digests)]
    return StoreSchema.build(
        teacher={
            "name": config.teacher,
            "digest": sha256_of(identity),
            "architecture": IMPORTED,
            "weights": f"imported from {kind} files, {scale.text} counts per metre",
            "trained": True,
        },
        input={
            "crop": source.crop,
            "preprocessing": {},
            "flip_average": config.flip_average,
            "image_size": list(source.image_size),
        },
        native_size=source.image_size,
        min_depth=MIN_DEPTH_M,
        max_depth=config.max_depth,
        clamp=(MIN_DEPTH_M, config.max_depth) if config.clip else None,
        dataset={"name": source.name, "split": source.split},
        frame_ids=frame_ids,
        skipped=skipped,
        created_by={"imported_from": str(files.folder), "pattern": files.pattern, "scale": scale.text},
    )
