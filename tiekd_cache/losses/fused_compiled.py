"""The arithmetic of a tile of the fused head by compiled loops: float32 on a CPU, where numba can be had.

Plain torch does some sixty small operations a tile, each with its own pass over memory; here everything between two
matrix products is one call. The products stay torch's.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tiekd_cache.machine_code import load_compiled

if TYPE_CHECKING:
    from tiekd_cache.losses.fused_tiles import Head

_PADDING = 16
"""Floats between two rows of the buffer, which else would all lie a power of two apart and evict each other."""


@cache
def compiled_loops() -> Any | None:
    """The module `fused_loops`; None where numba cannot be had (`load_compiled`)."""
    modules = load_compiled("tiekd_cache.losses.fused_loops")
    return None if modules is None else modules[0]


class CompiledTiles:
    """As `TorchTiles`."""

    def __init__(self, head: Head) -> None:
        self._loops: Any = compiled_loops()
        target = head.target
        self._matrix, self._bias = head.matrix, head.bias[:, None]
        self._buffer = torch.empty(len(head.matrix), head.tile_pixels + _PADDING)
        self._head = (
            head.centers.numpy(),
            np.float32(target.sigma),
            np.float32(target.sigma_share),
            target.form == "released",
        )

    def terms(
        self,
        features: torch.Tensor,
        teacher_depth: torch.Tensor,
        weights: torch.Tensor,
        kl: torch.Tensor,
        student_depth: torch.Tensor,
        log_norm: torch.Tensor,
    ) -> None:
        """As `TorchTiles`."""
        highest = self._logits(features).amax(0)
        teachers = _rows(teacher_depth), _rows(weights)
        maps = [x.numpy() for x in (kl, student_depth, log_norm)]
        self._loops.terms(self._buffer.numpy(), highest.numpy(), *self._head, *teachers, *maps)

    def slopes(
        self,
        features: torch.Tensor,
        teacher_depth: torch.Tensor,
        weights: torch.Tensor,
        grad_kl: torch.Tensor,
        grad_depth: torch.Tensor,
        student_depth: torch.Tensor,
        log_norm: torch.Tensor,
    ) -> torch.Tensor:
        """As `TorchTiles`."""
        slopes = self._logits(features)
        teachers = _rows(teacher_depth), _rows(weights)
        maps = [x.contiguous().numpy() for x in (grad_kl, grad_depth, student_depth, log_norm)]
        self._loops.slopes(self._buffer.numpy(), *self._head, *teachers, *maps)  # in place
        return slopes

    def _logits(self, features: torch.Tensor) -> torch.Tensor:
        """[K,n], the buffer's first n columns."""
        return torch.addmm(self._bias, self._matrix, features, out=self._buffer[:, : features.shape[1]])


def _rows(x: torch.Tensor) -> Any:
    """[T,n] float32, contiguous."""
    return x.to(torch.float32).contiguous().numpy()
