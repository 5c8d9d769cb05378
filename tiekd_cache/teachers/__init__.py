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
from tiekd_cache.teachers.lidar import LidarTeacher, load_lidar

__all__ = ["NETWORKS", "TEACHERS", "LidarTeacher", "Resize", "Teacher", "TeacherDepth", "find_weights", "load_teacher"]

_NETWORKS = {
    "bts": load_bts,
    "bts-densenet161": load_bts,
    "bts-resnet50": load_bts,
    "bts-toolbox": load_bts,
    "adabins": load_adabins,
    "adabins-toolbox": load_adabins,
}
NETWORKS = tuple(_NETWORKS)  # the teachers that need weights
TEACHERS = (*NETWORKS, "lidar")


def load_teacher(
    name: str, *, weights: str | Path | None = None, device: str = "cpu", trained_on: str = "kitti"
) -> Teacher:
    """A teacher, ready to predict.

    Args:
        name: one of `TEACHERS`.
        weights: a checkpoint as published; `random:SEED` for an untrained network, the same for the same seed;
            None looks for the one that fits in the checkpoints folder ($TIEKD_CHECKPOINTS, else `checkpoints`).
        device: `cpu`, `cuda`, `cuda:N` or `auto`.
        trained_on: `kitti` or `nyu`: the data set whose depth range (80 m, 10 m) the weights were trained for. The
            files do not say it.
    Raises:
        ConfigError: no teacher, or no data set, has this name.
        CheckpointError: no weights, several, unsafe ones or those of another network.
        DeviceError: this machine does not have the device.
    """
    if name not in TEACHERS:
        raise ConfigError(f'Unknown teacher "{name}". Teachers are {", ".join(TEACHERS)}.')
    if trained_on not in RANGES_M:
        raise ConfigError(f'Weights trained on "{trained_on}": known are {", ".join(RANGES_M)}.')
    where = resolve_device(device)
    if name == "lidar":
        return load_lidar(weights)
    if weights is None:
        weights = find_weights(name, default_checkpoints_dir(), trained_on)
    return _NETWORKS[name](name, _file_or_seed(weights), where, trained_on)


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
