"""One of several processes that do the same work: which one am I, and which shards do I try first?

`torchrun` says it in RANK, WORLD_SIZE and LOCAL_RANK; a job array by a range of shards. Nobody talks to anybody.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tiekd_cache.errors import ConfigError

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class Launch:
    """A process's place among those that a launcher started together.

    Attributes:
        rank: its number among all, from 0.
        world_size: how many they are.
        local_rank: its number among those of this machine, from 0; None where no launcher started it.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int | None = None

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] = os.environ) -> Launch:
        """As `torchrun` sets it; a process on its own where any of the three variables is not set.

        Raises:
            ConfigError: they make no sense.
        """
        said = {name: variables[name] for name in _VARIABLES if name in variables}
        if len(said) < len(_VARIABLES):
            return cls()
        try:
            rank, world_size, local_rank = (int(said[name]) for name in _VARIABLES)
        except ValueError:
            rank, world_size, local_rank = -1, 0, -1
        if not (0 <= rank < world_size and 0 <= local_rank < world_size):
            shown = ", ".join(f"{name}={value}" for name, value in said.items())
            raise ConfigError(
                f"{shown}: these must be 0 <= RANK, LOCAL_RANK < WORLD_SIZE. Unset them, or use torchrun."
            )
        return cls(rank, world_size, local_rank)

    def device(self, name: str) -> str:
        """`auto` and `cuda` become this process's own GPU where a launcher started it and the machine has GPUs."""
        if self.local_rank is None or name not in ("auto", "cuda"):
            return name
        import torch

        return f"cuda:{self.local_rank}" if torch.cuda.is_available() else name

    def order(self, shards: range) -> list[int]:
        """All shards, its own contiguous share first; so the processes meet only when they help each other."""
        start = self.rank * len(shards) // self.world_size
        return [*shards[start:], *shards[:start]]


@dataclass(frozen=True)
class ShardRange:
    """Some of a store's shards: `first` to `end - 1`, or part `part` of `parts` equal ones, from 0."""

    text: str
    first: int | None = None
    end: int | None = None
    part: int = 0
    parts: int = 1

    @classmethod
    def parse(cls, text: str) -> ShardRange:
        """`A:B`, either may be left out, or `I/N`.

        Raises:
            ConfigError: it is something else, or empty.
        """
        if found := re.fullmatch(r"(\d*):(\d*)", text):
            first, end = (int(number) if number else None for number in found.groups())
            if end is None or (first or 0) < end:
                return cls(text, first=first, end=end)
        elif found := re.fullmatch(r"(\d+)/(\d+)", text):
            part, parts = (int(number) for number in found.groups())
            if part < parts:
                return cls(text, part=part, parts=parts)
        raise ConfigError(
            f'Shard range "{text}": say A:B for the shards A to B-1, or I/N for the I-th of N parts, I from 0 to N-1.'
        )

    def of(self, num_shards: int) -> range:
        """The shards of a store with so many.

        Raises:
            ConfigError: it begins beyond the last one.
        """
        if self.parts > 1:
            return range(self.part * num_shards // self.parts, (self.part + 1) * num_shards // self.parts)
        if (self.first or 0) >= num_shards:
            raise ConfigError(f"Shard range {self.text} is beyond the store: it has {num_shards} shards, from 0.")
        return range(num_shards)[self.first : self.end]
