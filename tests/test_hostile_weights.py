"""Files of weights are data: what they declare is held against what they have before memory is taken for it."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hostile import in_little_memory

from tiekd_cache.dpm import Bins
from tiekd_cache.errors import CheckpointError
from tiekd_cache.students import build_student, export_student, load_student
from tiekd_cache.students.encoders import build_encoder
from tiekd_cache.students.student_io import FORMAT, student_payload, write_payload
from tiekd_cache.teachers.weights_file import read_state

LARGE = 600 << 20
"""Bytes: more than a child of `in_little_memory` may take."""


def small_payload() -> dict[str, Any]:
    bins = Bins.uniform(1e-3, 80.0, 9)
    return student_payload(build_student("mobilenetv2", pretrained=False, decoder_width=0.03125, bins=bins), {})


def laughing(depth: int = 40) -> list[Any]:
    """A list of two that are one list of two that are one list …: some bytes in a pickle, a terabyte as text."""
    value: list[Any] = ["ha"]
    for _ in range(depth):
        value = [value, value]
    return value


def deflated(path: Path, content: Any) -> None:
    """As torch.save writes it, but for a first tensor of LARGE zeros, which are compressed to nothing."""
    plain = io.BytesIO()
    torch.save(content, plain)
    with zipfile.ZipFile(plain) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in archive.infolist():
            with bomb.open(entry.filename, "w", force_zip64=True) as target:
                target.write(archive.read(entry))
                if entry.filename.endswith("data/0"):
                    for _ in range(LARGE >> 24):
                        target.write(bytes(1 << 24))


def refused(read: Callable[[], Any], words: str) -> None:
    def work() -> None:
        with pytest.raises(CheckpointError, match=words) as caught:
            read()
        assert len(str(caught.value)) < 1000

    in_little_memory(work)


def enlarged(payload: dict[str, Any], key: str) -> dict[str, Any]:
    payload["state_dict"][key] = torch.zeros(1).expand(1 << 20, 1 << 20)
    return payload


PAYLOADS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a tensor of strides 0": (lambda p: enlarged(p, "head.bias"), "declares .* bytes of weights"),
    "a tensor that nobody needs": (lambda p: enlarged(p, "more"), "declares .* bytes of weights"),
    "a sparse tensor": (lambda p: p["state_dict"].update(more=torch.zeros(3).to_sparse()), "no dense tensor"),
    "a tensor without memory": (
        lambda p: p["state_dict"].update(more=torch.zeros(3, device="meta")),
        "no dense tensor",
    ),
    "a number for a tensor": (lambda p: p["state_dict"].update({"head.bias": 3}), "no dense tensor"),
    "numbers for names": (lambda p: p["state_dict"].update({3: torch.zeros(1)}), "no dictionary of tensors"),
    "no weights": (lambda p: p.update(state_dict=[1]), "no dictionary of tensors"),
    "no settings": (lambda p: p.update(settings="resnet18"), "settings are no dictionary"),
    "a format without end": (lambda p: p.update(format=laughing()), r"format: none"),
    "meta without end": (lambda p: p.update(meta=laughing()), "more than 100000 values"),
    "settings without end": (lambda p: p["settings"].update(name=laughing()), "more than 100000 values"),
    "a tensor in the settings": (lambda p: p["settings"].update(name=torch.zeros(1)), "hold a Tensor"),
    "a name of another type": (lambda p: p["settings"].update(name=["resnet18"]), "do not fit its settings"),
    "a decoder as wide as allowed": (lambda p: p["settings"].update(name="resnet50", decoder_width=4.0), "do not fit"),
    "more bins than memory": (lambda p: p["settings"]["bins"].update(num_bins=10**9), "do not fit"),
    "bins beyond any": (lambda p: p["settings"]["bins"].update(num_bins=10**30), "do not fit"),
    "a range beyond any": (lambda p: p["settings"]["bins"].update(max_depth=10**400), "do not fit"),
}


@pytest.mark.parametrize("change", PAYLOADS)
def test_a_students_file_is_refused_before_memory_is_taken(tmp_path: Path, change: str) -> None:
    make, words = PAYLOADS[change]
    payload = small_payload()
    make(payload)
    path = tmp_path / "student.pt"
    torch.save(payload, path)
    refused(lambda: load_student(path), words)
    if "do not fit" not in words:
        refused(lambda: export_student(path, tmp_path / "out.safetensors"), words)
    assert not (tmp_path / "out.safetensors").exists()


def test_compressed_zeros_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deflated(tmp_path / "student.pt", {"format": FORMAT, "state_dict": {"a": torch.zeros(10)}})
    refused(lambda: load_student(tmp_path / "student.pt"), "declares 620")
    refused(lambda: read_state(tmp_path / "student.pt"), "declares 620")
    with zipfile.ZipFile(tmp_path / "bts.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "student.pt", "bts/model")
    refused(lambda: read_state(tmp_path / "bts.zip"), "declares 620")
    monkeypatch.setenv("TIEKD_CHECKPOINTS", str(tmp_path))
    (tmp_path / "student.pt").rename(tmp_path / "resnet18-0123.pth")
    refused(lambda: build_encoder("resnet18.tv_in1k", True), "declares 620")


def test_a_teachers_file_of_odd_things_is_one_short_line(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    for content, words in (
        ({"a": torch.zeros(3).to_sparse()}, "not weights"),
        ({"x" * 10**6: 1}, "not weights"),
        ({(1, 2): torch.zeros(1)}, "with tuple, not weights"),
        (laughing(), "holds a list, not weights"),
    ):
        torch.save(content, path)
        refused(lambda: read_state(path), words)


def test_settings_in_safetensors_that_nest_without_end_are_refused(tmp_path: Path) -> None:
    metadata = {"format": FORMAT, "settings": "[" * 10**5, "meta": "{}"}
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata)
    with pytest.raises(CheckpointError, match="lacks a student's settings"):
        load_student(tmp_path / "a.safetensors")


def test_no_pickle_of_a_student_is_run_whatever_wraps_it(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    payload = {**small_payload(), "more": Runs()}
    torch.save(payload, tmp_path / "a.pt")
    torch.save(payload, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Runs()))
    for name in ("a.pt", "old.pt", "plain.pt"):
        for read in (load_student, read_state):
            with pytest.raises(CheckpointError):
                read(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_the_files_that_are_written_are_read(tmp_path: Path) -> None:
    write_payload(tmp_path / "a.pt", small_payload())
    export_student(tmp_path / "a.pt", tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        load_student(tmp_path / name)
