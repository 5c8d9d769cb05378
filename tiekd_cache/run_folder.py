"""A run's folder: its settings, what it was trained from, its metrics line by line, its checkpoints and pictures.

runs/resnet18-lidar-20260101-120000/
    config.toml      every setting, as resolved
    run.json         store fingerprint, teacher, frames, versions
    metrics.jsonl    a line a step
    validation.jsonl a line a validation
    last.pt          everything needed to go on; best.pt: the weights to use
    tensorboard/     the same numbers for TensorBoard, where asked for
    loss.png pictures.png
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tiekd_cache.config import from_mapping, read_toml, to_toml
from tiekd_cache.distill_config import DistillConfig
from tiekd_cache.errors import ConfigError, DataError
from tiekd_cache.foreign import parse_json, read_file
from tiekd_cache.whole_file import whole_file

MOST_LINES_BYTES = 1 << 30
"""Of metrics.jsonl: some million steps."""


class RunFolder:
    """Paths of a run's files, and their reading and writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.toml"
        self.run_file = path / "run.json"
        self.metrics_file = path / "metrics.jsonl"
        self.validation_file = path / "validation.jsonl"
        self.tensorboard = path / "tensorboard"
        self.last_checkpoint = path / "last.pt"
        self.best_checkpoint = path / "best.pt"
        self.loss_picture = path / "loss.png"
        self.pictures = path / "pictures.png"

    def create(self, config: DistillConfig, run: Mapping[str, Any]) -> None:
        """Make the folder, with the settings and the record of a new run; raises DataError where that fails."""
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.config_file, to_toml(config))
            write_text(self.run_file, json.dumps(run, indent=2) + "\n")
            for stale in (self.metrics_file, self.validation_file, self.best_checkpoint):
                stale.unlink(missing_ok=True)  # of a run that was killed before its first checkpoint

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run's folder; raises ConfigError where there is none."""
        folder = cls(path)
        if not folder.config_file.is_file() or not folder.run_file.is_file():
            raise ConfigError(f"{path} is no run folder (config.toml or run.json is missing). Check --run.")
        return folder

    def config(self) -> DistillConfig:
        """The settings of the run."""
        return from_mapping(DistillConfig, read_toml(self.config_file))

    def run(self) -> dict[str, Any]:
        """What the run was trained from."""
        try:
            run: Any = parse_json(read_file(self.run_file))
            if not _is_record(run):
                raise ValueError("it is no record of a run")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.run_file} cannot be read ({error}). Start a new run.") from None
        return dict(run)

    def update_run(self, **changes: Any) -> None:
        """Add to the record of what the run was trained from, or change it; raises DataError where that fails."""
        with self._writing():
            write_text(self.run_file, json.dumps({**self.run(), **changes}, indent=2) + "\n")

    def is_finished(self) -> bool:
        """Whether the run has come to its end, and best.pt is its result."""
        return self.best_checkpoint.exists() and bool(self.run().get("finished"))

    def append(self, file: Path, record: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl or validation.jsonl; raises DataError where the disk is full or refuses."""
        with self._writing(), open(file, "a", encoding="utf-8", opener=_no_link) as lines:
            lines.write(json.dumps(record) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Every whole line of metrics.jsonl; what follows a torn line, as a kill leaves it, is not counted."""
        return _records(self.metrics_file, "loss")

    def validations(self) -> list[dict[str, Any]]:
        """The same of validation.jsonl."""
        return _records(self.validation_file, "abs_rel")

    def cut_after(self, step: int) -> None:
        """Drop the lines after `step`: a resumed run writes them anew."""
        for file, records in ((self.metrics_file, self.metrics()), (self.validation_file, self.validations())):
            if file.exists():
                kept = [json.dumps(record) + "\n" for record in records if record["step"] <= step]
                with self._writing():
                    write_text(file, "".join(kept))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """While entered, a disk that is full or refuses is a DataError."""
        try:
            yield
        except OSError as error:
            raise DataError(
                f"Cannot write the run folder {self.path}: {error.strerror}. Make room, or choose another --run."
            ) from None


def _is_record(run: Any) -> bool:
    """Whether this is what a run.json says: its stores by place and fingerprint, its data by options."""
    if not isinstance(run, dict):
        return False
    source = run.get("source")
    if isinstance(source, dict) and not all(isinstance(value, (str, int, float)) for value in source.values()):
        return False
    stores = run.get("stores", [run])
    return isinstance(stores, list) and all(
        isinstance(store, dict)
        and isinstance(store.get("fingerprint"), str)
        and isinstance(store.get("store", ""), str)
        for store in [run, *stores]
    )


def _no_link(path: str, flags: int) -> int:
    """Opens a file to append to, which must be one of the run folder and no link to another."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _records(file: Path, name: str) -> list[dict[str, Any]]:
    """The lines up to the first one that is no record of a step with this number."""
    records: list[dict[str, Any]] = []
    if file.exists():
        try:
            lines = read_file(file, MOST_LINES_BYTES).splitlines()
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror}. Start a new run.") from None
        for line in lines:
            try:
                record = parse_json(line)
            except ValueError:
                break
            if not isinstance(record, dict) or type(record.get("step")) is not int:
                break
            if type(record.get(name)) not in (int, float):
                break
            records.append(record)
    return records


def new_run_path(student: str, teacher: str, root: Path = Path("runs")) -> Path:
    """runs/<student>-<teacher>-<time>, not there yet."""
    stem = f"{student}-{teacher}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, count = root / stem, 1
    while path.exists():
        count += 1
        path = root / f"{stem}-{count}"
    return path


def newest_run(root: Path = Path("runs")) -> Path:
    """The run folder that was written last; raises ConfigError where there is none."""
    runs = [path.parent for path in root.glob("*/config.toml")]
    if not runs:
        raise ConfigError(
            f"No run found under {root}/. Train one with `tiekd-cache distill`, or pass --run or --checkpoint."
        )
    return max(runs, key=lambda run: (run / "config.toml").stat().st_mtime)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a kill leaves the old one or the new one, never half of one."""
    with whole_file(path) as file:
        file.write(text.encode())
