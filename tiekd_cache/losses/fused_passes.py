"""The passes of the fused head over a [K, pixels] tile that are no matrix products: torch's, or numba's in one sweep.

numba is loaded at the first tile in float32 on the CPU, not on import; without it, and for every other device and
dtype, torch does the same. The two agree but for rounding.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import torch


class Passes(Protocol):
    """What is done to a tile; all tensors are of one dtype and device, [pixels] ones contiguous."""

    def moments(self, logits: torch.Tensor, centers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(log of the sum of exp(logits), mean of the centres under their softmax), each [pixels].

        Args:
            logits: [K, pixels], contiguous; stay as they are.
            centers: [K] metres.
        """

    def slope(
        self, log_probability: torch.Tensor, centers: torch.Tensor, everywhere: torch.Tensor, of_depth: torch.Tensor
    ) -> torch.Tensor:
        """[K, pixels], in place: exp(log_probability) * (everywhere + centers * of_depth).

        Args:
            log_probability: [K, pixels], contiguous, at most 0 but for rounding.
            centers: [K] metres.
            everywhere, of_depth: [pixels].
        """


class TorchPasses:
    """The definition, for any device and dtype."""

    def moments(self, logits: torch.Tensor, centers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See Passes."""
        highest = logits.amax(0)
        sums = torch.stack([torch.ones_like(centers), centers])
        total, weighted = (sums @ (logits - highest).exp_()).unbind()
        return highest + total.log(), weighted / total

    def slope(
        self, log_probability: torch.Tensor, centers: torch.Tensor, everywhere: torch.Tensor, of_depth: torch.Tensor
    ) -> torch.Tensor:
        """See Passes."""
        return log_probability.exp_().mul_(torch.addcmul(everywhere, centers[:, None], of_depth))


class NumbaPasses:
    """float32 on the CPU: a tile is read once or twice instead of once an operation, and no second one is held."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled

    def moments(self, logits: torch.Tensor, centers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See Passes."""
        highest, total, weighted = torch.empty(3, logits.shape[1]).unbind()
        self._compiled.moments(*(x.numpy() for x in (logits, centers, highest, total, weighted)))
        return total.log().add_(highest), weighted / total

    def slope(
        self, log_probability: torch.Tensor, centers: torch.Tensor, everywhere: torch.Tensor, of_depth: torch.Tensor
    ) -> torch.Tensor:
        """See Passes."""
        self._compiled.slope(*(x.numpy() for x in (log_probability, centers, everywhere, of_depth)))
        return log_probability


def passes_for(dtype: torch.dtype, device: torch.device) -> Passes:
    """The faster ones where they can be had."""
    return _on_cpu() if dtype == torch.float32 and device.type == "cpu" else TorchPasses()


@cache
def _on_cpu() -> Passes:
    try:
        from tiekd_cache.losses import fused_compiled
    except ImportError:
        return TorchPasses()
    return NumbaPasses(fused_compiled)
