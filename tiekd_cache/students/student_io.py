"""Students in files: written so that a kill leaves the old file or the new one, read without running foreign code."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tiekd_cache.dpm import Bins
from tiekd_cache.errors import CheckpointError, ConfigError, first_line
from tiekd_cache.foreign import check_archive, shown
from tiekd_cache.students.meta import made_on_meta
from tiekd_cache.students.payload_check import check_payload
from tiekd_cache.students.safetensors_file import read_safetensors, write_safetensors
from tiekd_cache.students.student import Student, build_student
from tiekd_cache.whole_file import whole_file

FORMAT = "tiekd-student/1"
_KEYS = ("settings", "state_dict", "meta")
_READ_ERRORS = (
    OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, OverflowError,
    pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip


def student_payload(student: Student, meta: Mapping[str, Any]) -> dict[str, Any]:
    """What a student's file holds; a training checkpoint adds keys of its own to it.

    Returns:
        `format`; `settings` (see `Student.settings`); `state_dict`; `meta` as JSON values.
    Raises:
        ConfigError: meta holds something that JSON cannot express.
    """
    try:
        plain_meta = json.loads(json.dumps(dict(meta)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"A student's meta must be JSON values: {error}.") from None
    return {"format": FORMAT, "settings": student.settings(), "state_dict": student.state_dict(), "meta": plain_meta}


def write_payload(path: Path, payload: Mapping[str, Any]) -> None:
    """Write as `whole_file` does; raises CheckpointError, naming the reason, where that fails."""
    try:
        with whole_file(path) as file:
            torch.save(dict(payload), file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise CheckpointError(
            f"Cannot write {path}: {first_line(error)}. The file that was there is unharmed."
        ) from error


def read_payload(path: Path) -> dict[str, Any]:
    """What `write_payload` or `export_student` wrote, tensors on the CPU; no code in the file is run.

    Checksums are verified (a safetensors file has none).

    Raises:
        CheckpointError: the file is absent, truncated, damaged, of a newer format or no student's.
    """
    payload: Any = read_safetensors(path) if path.suffix == ".safetensors" else _read_archive(path)
    payload = payload if isinstance(payload, dict) else {}
    version = payload.get("format")
    if not isinstance(version, str) or version != FORMAT:
        said = shown(version) if isinstance(version, str) else "none"
        raise CheckpointError(
            f"{path} is no student's file of format {FORMAT} (format: {said}). Published TIE-KD weights go "
            "through Student.load_published; a newer format needs a newer tiekd-cache."
        )
    absent = [key for key in _KEYS if key not in payload]
    if absent:
        raise CheckpointError(f"{path} lacks {', '.join(absent)}. Save the student again.")
    try:
        check_payload(payload, path.stat().st_size)
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be a student's file: {error}. Do not use it.") from None
    return dict(payload)


def _read_archive(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(f"No checkpoint at {path}. Check the path; `tiekd-cache distill` makes one.")
    try:
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path} is damaged (checksum of {damaged}). Copy it again, or train again.")
        return torch.load(path, map_location="cpu", weights_only=True)
    except _READ_ERRORS as error:
        raise CheckpointError(
            f"{path} is truncated or no checkpoint of ours ({first_line(error)}). Copy it again, or train again."
        ) from None


def save_student(path: str | Path, student: Student, meta: Mapping[str, Any]) -> None:
    """Write a student to a file, atomically.

    Args:
        path: the file; its folder must be there.
        student: any student.
        meta: where it comes from, as JSON values; goes into the file, is not interpreted.
    Raises:
        CheckpointError: the file cannot be written.
    """
    write_payload(Path(path), student_payload(student, meta))


def export_student(source: Path, target: Path) -> int:
    """Write the student of a training checkpoint or another file by itself; returns the new file's bytes.

    Args:
        target: `.pt`, as `save_student` writes it, or `.safetensors`; `load_student` takes both.
    Raises:
        CheckpointError: `source` is no student's file, or `target` cannot be written.
        ConfigError: another suffix.
    """
    if target.suffix not in (".pt", ".safetensors"):
        raise ConfigError(f"{target}: a student goes into a file that ends in .pt or .safetensors.")
    payload = read_payload(source)
    student = {key: payload[key] for key in ("format", *_KEYS)}
    (write_safetensors if target.suffix == ".safetensors" else write_payload)(target, student)
    return target.stat().st_size


def load_student(path: str | Path, device: str | torch.device = "cpu") -> Student:
    """The student in a file of `save_student` or in a training checkpoint, in evaluation mode.

    Raises:
        CheckpointError: see `read_payload`; or the weights do not fit the settings beside them.
    """
    payload = read_payload(Path(path))
    settings = payload["settings"]

    def build() -> Student:
        return build_student(
            settings["name"],
            pretrained=False,
            bins=Bins.from_json(settings["bins"]),
            decoder_width=settings["decoder_width"],
            decoder=settings.get("decoder", "densedepth"),  # files of the first version name neither
            output=settings.get("output", "dpm"),
        )

    try:
        # Without memory first: settings may name any size, the weights are there.
        made_on_meta(build).load_state_dict(payload["state_dict"], assign=True)
        student = build()
        student.load_state_dict(payload["state_dict"])
    except (ConfigError, AttributeError, KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{path} holds weights that do not fit its settings: {first_line(error)}.") from error
    return student.to(device)
