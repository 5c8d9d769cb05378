"""Numbers of a run for TensorBoard, beside the JSON lines; its package is needed only where it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiekd_cache.errors import ConfigError

_PLACES = ("step", "epoch", "frames")


class ScalarLog:
    """A folder of TensorBoard events.

    Args:
        folder: where they go.
        done: steps done before; what was written after them, before a kill, is hidden.
    Raises:
        ConfigError: the package is not installed.
    """

    def __init__(self, folder: Path, done: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                f"TensorBoard is asked for but cannot be imported ({error}): pip install 'tiekd-cache[tensorboard]', "
                "or leave train.tensorboard out."
            ) from None
        self._writer: Any = SummaryWriter(str(folder), purge_step=done + 1)

    def add(self, group: str, record: Mapping[str, Any]) -> None:
        """Every number of a record, as `group/name` at its `step`."""
        for name, value in record.items():
            if name not in _PLACES and isinstance(value, (int, float)):
                self._writer.add_scalar(f"{group}/{name}", value, int(record["step"]))

    def close(self) -> None:
        """Write what is still in memory."""
        self._writer.close()
