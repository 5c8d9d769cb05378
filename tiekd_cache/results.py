"""Evaluations as files: JSON with everything, CSV with a line an image, and reading either back to compare."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tiekd_cache.data.protocol import range_name
from tiekd_cache.errors import ConfigError, DataError
from tiekd_cache.evaluation import Evaluation, ImageMetrics
from tiekd_cache.foreign import parse_json, read_file
from tiekd_cache.metrics import METRICS
from tiekd_cache.whole_file import whole_file

EVALUATION_FILE = "evaluation.json"
"""Name of the evaluation in a run's folder."""

MOST_RESULT_BYTES = 1 << 30
"""Of an evaluation that is read: a hundred thousand images take a quarter of it."""

LONGEST_FRAME_ID = 4096

CSV_COLUMNS = ("frame_id", "gt_pixels", *METRICS, "teacher_pixels", *(f"teacher_{name}" for name in METRICS))


def summary(result: Evaluation) -> dict[str, Any]:
    """Protocol, means and numbers of images as JSON values; what each image contributes is left out."""
    protocol = result.protocol
    return {
        "dataset": protocol.name,
        "crop": protocol.crop,
        "min_depth": protocol.min_depth,
        "max_depth": protocol.max_depth,
        "first_row": protocol.first_row,
        "flip_average": result.flip_average,
        "store_fingerprint": result.store_fingerprint,
        "ground_truth": result.ground_truth,
        "ground_truth_frames": result.gt_frames,
        "ranges": {range_name(one.bounds): {"frames": one.frames, "metrics": one.metrics} for one in result.ranges},
        "teacher": result.teacher,
        "teacher_frames": result.teacher_frames,
        "seconds": round(result.seconds, 2),
    }


def write_json(path: Path, record: Mapping[str, Any], images: Iterable[ImageMetrics]) -> None:
    """A record with what each image contributes under `images`, a line an image; DataError where it cannot be."""
    lines = ",\n".join(f"    {json.dumps(asdict(image))}" for image in images)
    head = json.dumps(dict(record), indent=2).removesuffix("\n}")
    _write(path, f'{head},\n  "images": [\n{lines}\n  ]\n}}\n')


def write_csv(path: Path, images: Iterable[ImageMetrics]) -> None:
    """The columns `CSV_COLUMNS`, a line an image; empty where there is nothing to compare with.

    Raises:
        DataError: the file cannot be written.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(CSV_COLUMNS)
    for image in images:
        numbers: list[str | int | float] = [image.frame_id]
        for pixels, metrics in ((image.gt_pixels, image.ground_truth), (image.teacher_pixels, image.teacher)):
            numbers += [pixels, *("" if metrics is None else metrics[name] for name in METRICS)]
        rows.writerow(numbers)
    _write(path, text.getvalue())


@dataclass(frozen=True)
class ImageValues:
    """One student's metrics, image by image.

    Attributes:
        name: what the caller called it.
        frame_ids: the images that have the metrics, in the file's order.
        pixels: how many pixels each has; None where the file does not say.
        values: metric -> [N] float64.
        protocol: what the file says of the protocol, by name; empty for CSV files.
    """

    name: str
    frame_ids: tuple[str, ...]
    pixels: tuple[int, ...] | None
    values: dict[str, npt.NDArray[np.float64]]
    protocol: dict[str, Any]


def read_results(path: Path, against: str = "gt", depth_range: str | None = None) -> ImageValues:
    """The per-image metrics of a run folder, an evaluation's JSON, or a CSV file.

    Args:
        against: `gt` or `teacher`.
        depth_range: a range of depth that was evaluated, `20-40`; None for all ground truth. Not with `teacher`.
    Raises:
        ConfigError: the run has no evaluation yet, or nothing against what is asked for.
        DataError: the file is absent, malformed or not an evaluation.
    """
    file = path
    if path.is_dir():
        file = path / EVALUATION_FILE
        if not file.is_file():
            raise ConfigError(f"{path} has no evaluation yet. First: tiekd-cache evaluate --run {path}")
    try:
        text = read_file(file, MOST_RESULT_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read ({error}). Name run folders, evaluation.json or CSV files.") from None
    try:
        protocol, images = _from_csv(text) if file.suffix.lower() == ".csv" else _from_json(text)
        return _chosen(path, protocol, images, against, depth_range)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, csv.Error) as error:
        raise DataError(
            f"{file} is no evaluation with its images ({type(error).__name__}: {error}). Make it again with "
            "`tiekd-cache evaluate`, or its option --csv."
        ) from None


_PROTOCOL = ("dataset", "min_depth", "max_depth", "flip_average")
_OF_GT, _OF_TEACHER = ("crop",), ("first_row", "store_fingerprint")


def _from_json(text: str) -> tuple[dict[str, Any], list[ImageMetrics]]:
    record = parse_json(text)
    images = [ImageMetrics(**row) for row in record["images"]]
    return {name: record[name] for name in (*_PROTOCOL, *_OF_GT, *_OF_TEACHER)}, images


def _from_csv(text: str) -> tuple[dict[str, Any], list[ImageMetrics]]:
    images, rows = [], csv.DictReader(io.StringIO(text), strict=True)
    absent = [name for name in CSV_COLUMNS if name not in (rows.fieldnames or ())]
    if absent:
        raise ValueError(f"it lacks the columns {', '.join(absent)}")
    for row in rows:
        gt, teacher = (
            {name: float(row[prefix + name]) for name in METRICS} if row[prefix + METRICS[0]] else None
            for prefix in ("", "teacher_")
        )
        pixels = int(row["gt_pixels"]), int(row["teacher_pixels"])
        images.append(ImageMetrics(row["frame_id"], pixels[0], gt, {}, pixels[1], teacher))
    return {}, images


def _chosen(
    path: Path, protocol: dict[str, Any], images: list[ImageMetrics], against: str, depth_range: str | None
) -> ImageValues:
    """The images that have the metrics asked for, as arrays."""
    others = _OF_TEACHER if against == "gt" else _OF_GT
    protocol = {name: value for name, value in protocol.items() if name not in others}
    rows, pixels = [], []
    for image in images:
        metrics = image.ground_truth if against == "gt" else image.teacher
        if depth_range is not None:
            metrics = image.ranges.get(depth_range)
        if metrics is not None:
            values = [float(metrics[name]) for name in METRICS]
            if not all(math.isfinite(value) for value in values):
                raise ValueError(f"a metric of {image.frame_id} is not finite")
            if not isinstance(image.frame_id, str) or len(image.frame_id) > LONGEST_FRAME_ID:
                raise ValueError(f"a frame's id is no text of at most {LONGEST_FRAME_ID} characters")
            rows.append((image.frame_id, values))
            pixels.append(image.gt_pixels if against == "gt" else image.teacher_pixels)
    if not rows:
        of_range = f" of {depth_range} m" if depth_range else ""
        what = "its teacher" if against == "teacher" else f"ground truth{of_range}"
        known = sorted({name for image in images for name in image.ranges})
        hint = f" Ranges there: {', '.join(known) or 'none (CSV files have none)'}." if depth_range else ""
        raise ConfigError(f"{path} compares no image with {what}.{hint} Evaluate it so first.")
    if len({frame_id for frame_id, _ in rows}) != len(rows):
        raise ValueError("a frame comes twice")
    numbers = np.array([values for _, values in rows], dtype=np.float64)
    return ImageValues(
        str(path),
        tuple(frame_id for frame_id, _ in rows),
        tuple(pixels) if depth_range is None else None,
        {name: numbers[:, i] for i, name in enumerate(METRICS)},
        protocol,
    )


def _write(path: Path, text: str) -> None:
    try:
        with whole_file(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}). Does its folder exist?") from None
