"""The processes of one training run: how they find each other, and the little that they say to each other."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed

from tiekd_cache.errors import ConfigError, SharedError, TiekdError, first_line
from tiekd_cache.launch import Launch

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others: they pause while the first one validates or saves."""

_LOST = ("gloo", "nccl", "process group", "connection", "peer", "tcpstore", "broken pipe", "store->")


class LostProcessError(SharedError):
    """Another process of the run ended, so this one ends too."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run; a process on its own is answered at once.

    Attributes:
        rank: its number, from 0; the first one writes the run's folder.
        world_size: how many they are.
        device: where it computes.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def mean(self, numbers: torch.Tensor) -> list[float]:
        """[n] float -> their n means over all processes, which all of them get; every process must call it."""
        if self.world_size > 1:
            torch.distributed.all_reduce(numbers)
            numbers = numbers / self.world_size
        values: list[float] = numbers.tolist()
        return values

    def gather(self, value: Any) -> list[Any]:
        """What each process brings, in the order of their ranks; every process must call it."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values


@contextlib.contextmanager
def together(launch: Launch, device: torch.device) -> Iterator[Ranks]:
    """While entered, the processes that one `torchrun` started work on one run; NCCL on GPUs, else gloo.

    Raises:
        LostProcessError: another process ended, or never came.
        ConfigError: the student has weights without a gradient.
    """
    if launch.world_size == 1:
        yield Ranks(device=device)
        return
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        yield Ranks(launch.rank, launch.world_size, device)
    except TiekdError:
        raise
    except (RuntimeError, ValueError) as error:  # gloo raises plain RuntimeError, the rendezvous ValueError too
        text = first_line(error)
        if "finished reduction" in text:  # what DistributedDataParallel says from the second step on
            raise ConfigError(
                "Several processes cannot train this student: some of its weights take no part in the loss. Train it "
                "in one process, or choose another --student."
            ) from None
        if not isinstance(error, torch.distributed.DistError) and not any(word in text.lower() for word in _LOST):
            raise
        raise LostProcessError(
            f"Another of the run's {launch.world_size} processes ended, or cannot be reached ({_reason(text)}): all of "
            "them end. Start them again with --resume; what the last checkpoint holds is kept."
        ) from None
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _reason(text: str) -> str:
    """The library's message without the place in its sources, short."""
    return re.sub(r"^\[[^\]]*\]\s*", "", text)[:100]
