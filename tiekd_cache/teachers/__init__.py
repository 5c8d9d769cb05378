"""Networks, and one method without weights, that give metric depth for a frame: what gets cached."""

from __future__ import annotations

import re
from pathlib import Path

from tiekd_cache.data.places import default_checkpoints_dir
from tiekd_cache.device import resolve_device
from tiekd_cache.errors import CheckpointError, ConfigError
from tiekd_cache.teachers.adabins import load_adabins
from tiekd_cache.teachers.base import RANGES_M, Resize, Teacher, TeacherDepth
from tiekd_cache.teachers.bts import load_bts
from tiekd_cache.teachers.checkpoints import find_weights
from tiekd_cache.teachers.custom import installed_teachers, load_custom, load_installed
from tiekd_cache.teachers.depthformer import load_depthformer
from tiekd_cache.teachers.hub import PREFIX, load_huggingface
from tiekd_cache.teachers.lidar import LidarTeacher, load_lidar

__all__ = [
    "NETWORKS",
    "PREFIX",
    "TEACHERS",
    "LidarTeacher",
    "Resize",
    "Teacher",
    "TeacherDepth",
    "find_weights",
    "installed_teachers",
    "load_teacher",
]

_NETWORKS = {
    "bts": load_bts,
    "bts-densenet161": load_bts,
    "bts-resnet50": load_bts,
    "bts-toolbox": load_bts,
    "adabins": load_adabins,
    "adabins-toolbox": load_adabins,
    "depthformer": load_depthformer,
}
NETWORKS = tuple(_NETWORKS)  # the teachers that need weights
TEACHERS = (*NETWORKS, "lidar")


def load_teacher(
    name: str,
    *,
    weights: str | Path | None = None,
    device: str = "cpu",
    trained_on: str = "kitti",
    align: str | None = None,
) -> Teacher:
    """A teacher, ready to predict.

    Args:
        name: one of `TEACHERS`; `hf:ORG/NAME` or `hf:./FOLDER`, a depth model of the Hugging Face hub;
            `package.module:factory`, a teacher of the user's own, whose code this runs; or the name of an installed
            entry point of the group `tiekd_cache.teachers`.
        weights: a checkpoint as published; `random:SEED` for an untrained network, the same for the same seed;
            None looks for the one that fits in the checkpoints folder ($TIEKD_CHECKPOINTS, else `checkpoints`).
        device: `cpu`, `cuda`, `cuda:N` or `auto`.
        trained_on: `kitti` or `nyu`: the data set whose depth range (80 m, 10 m) the weights were trained for. The
            files do not say it. Of an aligned teacher: the range that its maps are cut to.
        align: `gt` fits a relative `hf:` model to each frame's sparse ground truth; None takes metres as they come.
    Raises:
        ConfigError: no teacher, or no data set, has this name; a teacher that cannot be aligned, or must be.
        CheckpointError: no weights, several, unsafe ones or those of another network.
        DeviceError: this machine does not have the device.
    """
    if trained_on not in RANGES_M:
        raise ConfigError(f'Weights trained on "{trained_on}": known are {", ".join(RANGES_M)}.')
    if align not in (None, "gt"):
        raise ConfigError(f'Alignment "{align}": known is gt, the sparse ground truth of each frame.')
    where = resolve_device(device)
    if name.startswith(PREFIX):
        return load_huggingface(name, weights, where, align, RANGES_M[trained_on][1])
    if align is not None:
        raise ConfigError(f"Teacher {name} cannot be aligned: --align {align} is for relative models, hf:…")
    if ":" in name:
        return load_custom(name, weights, where)
    if name == "lidar":
        return load_lidar(weights)
    if name in _NETWORKS:
        chosen = find_weights(name, default_checkpoints_dir(), trained_on) if weights is None else weights
        return _NETWORKS[name](name, _file_or_seed(chosen), where, trained_on)
    if name in installed_teachers():
        return load_installed(name, weights, where)
    raise ConfigError(
        f'Unknown teacher "{name}". Teachers are {", ".join([*TEACHERS, *installed_teachers()])}; hf:ORG/NAME or '
        "hf:./FOLDER, a Hugging Face depth model; and package.module:factory, one of your own."
    )


def _file_or_seed(weights: str | Path) -> Path | int:
    """A path, or the seed of `random:SEED`."""
    if isinstance(weights, Path) or not re.match(r"random(:|$)", weights):
        return Path(weights)
    seed = re.fullmatch(r"random:(\d{1,18})", weights)
    if seed is None:
        raise CheckpointError(
            f'Weights "{weights}": random weights need a seed, a whole number. Say in full --weights random:0.'
        )
    return int(seed.group(1))
