"""What data, weights and devices are found, what is missing, and what to do about it; downloads nothing."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from tiekd_cache.data.kitti_inventory import DataReport, look_at_data
from tiekd_cache.data.places import default_checkpoints_dir, default_kitti_root
from tiekd_cache.foreign import parse_json, read_file
from tiekd_cache.teachers.cards import CARDS
from tiekd_cache.teachers.checkpoints import files_by_teacher, where_to_get
from tiekd_cache.timm_compat import timm_module
from tiekd_cache.version import __version__

_PACKAGES = ("torch", "timm", "zarr", "numcodecs", "numpy", "scipy", "h5py", "cv2")
_WEIGHT_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".zip")
_MOST_FILES = 100


@dataclass(frozen=True)
class CudaDevice:
    """One GPU."""

    name: str
    memory_bytes: int


@dataclass(frozen=True)
class Devices:
    """What there is to compute on."""

    cpu_cores: int
    cuda: tuple[CudaDevice, ...]
    mps: bool


@dataclass(frozen=True)
class FileReport:
    """A file and its size."""

    path: str
    size_bytes: int


@dataclass(frozen=True)
class TeacherWeights:
    """A published network, the files that may be its weights by their names, and where they are published."""

    teacher: str
    network: str
    files: tuple[str, ...]
    where: str


@dataclass(frozen=True)
class WeightsReport:
    """Weights files below the checkpoints folder, whose they are, and cached ImageNet weights."""

    folder: str
    files: tuple[FileReport, ...]
    teachers: tuple[TeacherWeights, ...]
    imagenet: tuple[FileReport, ...]


@dataclass(frozen=True)
class StoreReport:
    """A store of responses: its teacher and number of frames; `error` where it cannot be read."""

    path: str
    teacher: str | None = None
    frames: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class Report:
    """Everything that `diagnose` found; `problems` names what is missing or wrong and what to do."""

    versions: dict[str, str]
    devices: Devices
    data: DataReport
    weights: WeightsReport
    stores: tuple[StoreReport, ...]
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        values["data"]["num_drives"] = self.data.num_drives
        return values

    def lines(self) -> list[str]:
        """The report as text for a terminal."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        found = [f"Versions: {versions}", f"Devices: {_devices_text(self.devices)}"]
        found += [*self.data.lines(), *_weights_lines(self.weights), *_store_lines(self.stores)]
        if not self.problems:
            return [*found, "No problems found."]
        return [*found, f"{len(self.problems)} to mend:", *(f"  - {problem}" for problem in self.problems)]


def diagnose(kitti_root: Path | None = None, checkpoints: Path | None = None, stores: Path = Path("stores")) -> Report:
    """What is found and what is missing; prints nothing, downloads nothing, decodes no picture.

    Args:
        kitti_root: folder of the data; None for $TIEKD_KITTI or data/kitti.
        checkpoints: folder of weights; None for $TIEKD_CHECKPOINTS or checkpoints.
        stores: folder of stores.
    """
    problems: list[str] = []
    return Report(
        versions=_versions(problems),
        devices=_devices(),
        data=look_at_data(kitti_root if kitti_root is not None else default_kitti_root(), problems),
        weights=_look_at_weights(checkpoints if checkpoints is not None else default_checkpoints_dir(), problems),
        stores=_look_at_stores(stores, problems),
        problems=problems,
    )


def _versions(problems: list[str]) -> dict[str, str]:
    """Versions of the packages that matter, each really imported: an installed package may still be broken."""
    versions = {"tiekd-cache": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            module = timm_module() if name == "timm" else importlib.import_module(name)
        except Exception as error:  # whatever it is, it is what the user's next command would die of
            versions[name] = "cannot be imported"
            problems.append(f"`import {name}` fails ({type(error).__name__}: {error}): {_import_remedy(name)}")
        else:
            versions[name] = str(module.__version__)
    return versions


def _import_remedy(name: str) -> str:
    """What usually helps where a package cannot be imported."""
    if name in ("zarr", "numcodecs"):
        return "install it again; if zfpy 1.0.1.post0 is installed, it is the cause: pip uninstall zfpy."
    return f"install {'opencv-python-headless' if name == 'cv2' else name} again."


def _devices() -> Devices:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cuda = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    gpus = tuple(CudaDevice(str(device.name), int(device.total_memory)) for device in cuda)
    return Devices(cores, gpus, bool(torch.backends.mps.is_available()))


def _look_at_weights(folder: Path, problems: list[str]) -> WeightsReport:
    found = (path for path in folder.rglob("*") if _may_be_weights(path)) if folder.is_dir() else iter(())
    files = [FileReport(str(path), path.stat().st_size) for path in sorted(islice(found, _MOST_FILES))]
    problems += [f"{file.path} is empty (0 bytes): download it again." for file in files if not file.size_bytes]
    teachers = tuple(
        TeacherWeights(name, CARDS[name].network, tuple(map(str, paths)), where_to_get(name))
        for name, paths in files_by_teacher(folder).items()
        if paths or CARDS[name].parameters is not None  # a family without a network of its own is no news
    )
    if not any(teacher.files for teacher in teachers):
        problems.append(
            f"No teacher's weights in {folder}. Put those of one teacher there, its file or its unpacked archive "
            "(`tiekd-cache teachers` says who publishes them). --teacher lidar needs none."
        )
    return WeightsReport(str(folder), tuple(files), teachers, tuple(_cached_imagenet()))


def _may_be_weights(path: Path) -> bool:
    """By name: published BTS archives hold a file called `model`, without a suffix."""
    return (path.suffix.lower() in _WEIGHT_SUFFIXES or path.name == "model") and path.is_file()


def _cached_imagenet() -> Iterator[FileReport]:
    """Files with ImageNet weights of resnet18 in the caches of Hugging Face (timm's source) and torch hub."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    paths = [
        *hub.glob("models--timm--resnet18.*/snapshots/*/*.safetensors"),
        *hub.glob("models--timm--resnet18.*/snapshots/*/*.bin"),
        *(Path(torch.hub.get_dir()) / "checkpoints").glob("resnet18*.pth"),
    ]
    return (FileReport(str(path), path.stat().st_size) for path in sorted(paths) if path.is_file())


def _look_at_stores(folder: Path, problems: list[str]) -> tuple[StoreReport, ...]:
    reports = tuple(_look_at_store(path.parent) for path in sorted(folder.glob("*/zarr.json")))
    problems += [report.error for report in reports if report.error is not None]
    return reports


def _look_at_store(path: Path) -> StoreReport:
    """A store's attributes alone; `tiekd-cache info` and `verify` say more."""
    try:
        attributes = parse_json(read_file(path / "zarr.json"))["attributes"]
        return StoreReport(str(path), str(attributes["teacher"]["name"]), int(attributes["dataset"]["num_frames"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        return StoreReport(str(path), error=f"{path} is no store that can be read ({reason}): make it again.")


def _devices_text(devices: Devices) -> str:
    gpus = [f"{gpu.name} ({gpu.memory_bytes / 2**30:.0f} GiB)" for gpu in devices.cuda]
    others = [*gpus, *(["Apple GPU (MPS)"] if devices.mps else [])]
    return f"{devices.cpu_cores} CPU cores, {', '.join(others) or 'no GPU: everything works, slower'}"


def _weights_lines(weights: WeightsReport) -> list[str]:
    lines = [f"Weights: {len(weights.files)} files in {weights.folder}"]
    lines += [f"  {file.path}  {file.size_bytes / 2**20:.1f} MiB" for file in weights.files]
    for teacher in weights.teachers:
        found = ", ".join(teacher.files) or f"none. {teacher.where}"
        lines.append(f"Weights of teacher {teacher.teacher} ({teacher.network}): {found}")
    if weights.imagenet:
        return [*lines, f"ImageNet weights of resnet18: {', '.join(file.path for file in weights.imagenet)}"]
    return [
        *lines,
        "ImageNet weights of resnet18: not in the cache; distill downloads them when it first needs them, or give "
        "--no-pretrained",
    ]


def _store_lines(stores: tuple[StoreReport, ...]) -> list[str]:
    lines = [f"Stores: {len(stores)}"]
    for store in stores:
        lines.append(
            f"  {store.path}: unreadable"
            if store.error is not None
            else f"  {store.path}: {store.frames} frames of teacher {store.teacher}"
        )
    return lines
