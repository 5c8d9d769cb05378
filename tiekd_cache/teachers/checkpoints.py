"""Published checkpoints: where they are found, and how their tensors go into a network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tiekd_cache.errors import CheckpointError
from tiekd_cache.teachers.base import RANGES_M
from tiekd_cache.teachers.layouts import Layout, recognise

_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
_NOT_WEIGHTS = (".py", ".txt", ".md", ".json", ".yaml", ".yml", ".toml", ".log", ".png", ".html", ".sha256", ".csv")
_MAX_LEVELS = 3  # checkpoints/file, checkpoints/folder/file, checkpoints/folder/folder/file


@dataclass(frozen=True)
class WeightsSource:
    """Which files may be a teacher's, and where they are published.

    Attributes:
        begins: a part of the file's path below the checkpoints folder begins with this, in any case.
        prefer: where several files do, those that have this in their path are preferred ("" = no preference).
        avoid: files with this in their path belong to that data set, others to KITTI ("" = no such rule).
        where: where to get the weights, a sentence for the user.
    """

    begins: str
    prefer: str = ""
    avoid: str = ""
    where: str = ""


_BTS_WHERE = (
    "They are published at github.com/cleinc/bts: see its README for the archive bts_eigen_v2_pytorch_{encoder}"
)
_ADABINS_WHERE = "They are published at github.com/shariqfarooq123/AdaBins: see its README for AdaBins_kitti.pt"
_TOOLBOX_WHERE = (
    "They are published at github.com/zhyever/Monocular-Depth-Estimation-Toolbox: see configs/{config} there for KITTI"
)
_SOURCES = {
    "bts": WeightsSource("bts", avoid="nyu", where=_BTS_WHERE.format(encoder="densenet161")),
    "bts-densenet161": WeightsSource("bts", "densenet161", "nyu", _BTS_WHERE.format(encoder="densenet161")),
    "bts-resnet50": WeightsSource("bts", "resnet50", "nyu", _BTS_WHERE.format(encoder="resnet50")),
    "bts-toolbox": WeightsSource("bts", "r50", "nyu", _TOOLBOX_WHERE.format(config="bts")),
    "adabins": WeightsSource("adabins", avoid="nyu", where=_ADABINS_WHERE),
    "adabins-toolbox": WeightsSource("adabins", "efnetb5", "nyu", _TOOLBOX_WHERE.format(config="adabins")),
    "depthformer": WeightsSource("depthformer", avoid="nyu", where=_TOOLBOX_WHERE.format(config="depthformer")),
}


def where_to_get(teacher_name: str) -> str:
    """A sentence that says where a teacher's weights are published."""
    return f"{_SOURCES[teacher_name].where}."


def weights_files(teacher_name: str, checkpoints_dir: Path, trained_on: str = "kitti") -> list[Path]:
    """The files in a folder of checkpoints that may hold a teacher's weights, by their names alone; sorted."""
    source = _SOURCES[teacher_name]
    files = [path for level in range(_MAX_LEVELS) for path in checkpoints_dir.glob("*/" * level + "*")]
    files = [
        path for path in files if path.is_file() and _may_be(path.relative_to(checkpoints_dir), source, trained_on)
    ]
    unpacked = [path for path in files if path.suffix.lower() != ".zip"] or files
    preferred = [path for path in unpacked if source.prefer in str(path.relative_to(checkpoints_dir)).lower()]
    return sorted(preferred or unpacked)


def files_by_teacher(checkpoints_dir: Path) -> dict[str, list[Path]]:
    """For each teacher that needs weights, the files in a folder that are its own by their names, of any data set.

    A file whose name does not say which network of a family it holds is the family's (`bts`, `adabins`).
    """
    said: dict[str, list[Path]] = {name: [] for name in _SOURCES}
    families = [name for name, source in _SOURCES.items() if not source.prefer]
    for family in families:
        for path in sorted({path for data in RANGES_M for path in weights_files(family, checkpoints_dir, data)}):
            text = str(path.relative_to(checkpoints_dir)).lower()
            members = [name for name in _SOURCES if name.startswith(family) and _SOURCES[name].prefer in text]
            said[max(members, key=lambda name: len(_SOURCES[name].prefer))].append(path)
    return said


def _may_be(relative: Path, source: WeightsSource, trained_on: str) -> bool:
    """Whether a path has a weights file's name, the teacher's and the data set's."""
    text = str(relative).lower()
    if relative.name.startswith(".") or (source.avoid and (source.avoid in text) != (source.avoid == trained_on)):
        return False
    name, suffix = relative.name.lower(), relative.suffix.lower()
    if suffix not in (*_SUFFIXES, ".zip") and (not name.startswith("model") or suffix in _NOT_WEIGHTS):
        return False
    return any(part.lower().startswith(source.begins) for part in relative.parts)


def find_weights(teacher_name: str, checkpoints_dir: Path, trained_on: str = "kitti") -> Path:
    """The one file in a folder of checkpoints, or up to two folders below, that holds a teacher's weights.

    Raises:
        CheckpointError: none, saying where to get them; or several, listing them.
    """
    found = weights_files(teacher_name, checkpoints_dir, trained_on)
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(str(path) for path in found[:10]) + (", …" if len(found) > 10 else "")
        raise CheckpointError(
            f"{len(found)} files in {checkpoints_dir} may be the weights of {teacher_name}: {listed}. "
            "Choose one with --weights FILE."
        )
    other = "" if trained_on == "kitti" else f" trained on {trained_on} (which must be part of the file's path)"
    state = "in" if checkpoints_dir.is_dir() else "since there is no folder"
    raise CheckpointError(
        f"No weights for teacher {teacher_name}{other} {state} {checkpoints_dir}. {where_to_get(teacher_name)} "
        f"Put the file, or the unpacked archive, into {checkpoints_dir}, or pass --weights FILE. "
        "An untrained network to try things out: --weights random:0; a teacher that needs no weights: --teacher lidar."
    )


def weights_name(path: Path) -> str:
    """A weights file in words: its name, with its folder's where the name alone says nothing (`…/model`)."""
    named = path.suffix.lower() in _SUFFIXES or not path.is_file()
    return path.name if named else f"{path.resolve().parent.name}/{path.name}"


def fit_state(network: nn.Module, state: Mapping[str, torch.Tensor], layout: Layout, path: Path) -> None:
    """Load a published state dictionary into a network, completely or not at all.

    Args:
        network: its state dictionary's names are those of the layout after renaming. One without storage (on the
            device `meta`) gets the file's tensors themselves.
        state: as read from a file, without prefixes.
        layout: names of the published file, and which of them have no use.
        path: the file, for errors.
    Raises:
        CheckpointError: tensors are missing, left over or of another shape.
    """
    found = recognise(state)
    expected = {key: value for key, value in network.state_dict().items() if not key.endswith(".num_batches_tracked")}
    given = {}
    for key, tensor in state.items():
        for pattern, replacement in layout.renames:
            key = re.sub(pattern, replacement, key)
        if not re.fullmatch(layout.dead, key):
            given[key] = tensor
    problems = [
        _listed("missing", [key for key in expected if key not in given]),
        _listed("not known", [key for key in given if key not in expected]),
        _listed("of another shape", _other_shapes(expected, given)),
    ]
    if any(problems):
        looks = "" if found is None or found.name == layout.name else f" It looks like {found.title}"
        use = (
            f"; load it with --teacher {found.teacher}." if looks and found and found.teacher else "." if looks else ""
        )
        raise CheckpointError(
            f"{path} does not fit {layout.title}: {'; '.join(problem for problem in problems if problem)}.{looks}{use}"
        )
    if next(network.parameters()).is_meta:
        _adopt(network, given)
    else:
        network.load_state_dict(given, strict=False)  # all but step counters: the comparison above was complete


def _adopt(network: nn.Module, given: Mapping[str, torch.Tensor]) -> None:
    """Make the given tensors the network's own, in its types; step counters begin at zero."""
    state = {
        key: given[key].to(tensor.dtype) if key in given else torch.zeros_like(tensor, device="cpu")
        for key, tensor in network.state_dict().items()
    }
    network.load_state_dict(state, assign=True)


def _other_shapes(expected: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> list[str]:
    return [
        f"{key} ({list(given[key].shape)} for {list(tensor.shape)})"
        for key, tensor in expected.items()
        if key in given and given[key].shape != tensor.shape
    ]


def _listed(what: str, keys: Sequence[str]) -> str:
    """`7 missing (a, b, c, …)`, or nothing for no keys."""
    if not keys:
        return ""
    return f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
