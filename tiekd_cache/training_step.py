"""One optimisation step: what is drawn in it, its forward and backward passes, and when it must not be taken."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from tiekd_cache.dataset import Position, Sample, StepBatches
from tiekd_cache.errors import RangeError, SharedError
from tiekd_cache.ranks import Ranks
from tiekd_cache.training_parts import TrainingParts


class NotFiniteError(RangeError, SharedError):
    """A loss or a gradient became NaN or infinite."""


class ShareOfBatches(Sampler[list[Position]]):
    """This process's share of each step's samples, in as many pieces as there are forward passes.

    The shares of all processes together, one after the other, are the batch that one process alone would have: how
    many processes there are changes nothing about the order of samples.
    """

    def __init__(self, order: StepBatches, ranks: Ranks, accumulate: int) -> None:
        self.order, self.ranks, self.accumulate = order, ranks, accumulate

    def __len__(self) -> int:
        return len(self.order) * self.accumulate

    def __iter__(self) -> Iterator[list[Position]]:
        for batch in self.order:
            size = len(batch) // (self.ranks.world_size * self.accumulate)
            first = self.ranks.rank * self.accumulate
            for piece in range(first, first + self.accumulate):
                yield batch[piece * size : (piece + 1) * size]


def seed_step(seed: int, step: int, rank: int) -> None:
    """Set torch's random state for a step, for students that draw (dropout, stochastic depth).

    It follows from these three alone, so no checkpoint has to keep it, and a resumed run draws what an undisturbed
    one does.
    """
    [state] = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state) >> 1)  # a signed number of 64 bits


def training_step(
    parts: TrainingParts, batches: Sequence[Sample], step: int, grad_clip: float, ranks: Ranks, stop: bool = False
) -> tuple[dict[str, float], bool]:
    """One step on this process's share of the samples.

    Args:
        batches: the forward passes' samples, as many in each; the loss is the mean of theirs.
        step: its number, from 1.
        stop: this process is asked to stop after it.
    Returns:
        Named losses (means over passes and processes), learning rate and gradient norm before clipping; and whether
        any process is asked to stop.
    Raises:
        NotFiniteError: a loss or the gradient's norm is not finite; weights are as before the step. Names the frames.
    """
    parts.optimiser.zero_grad(set_to_none=True)
    losses: list[torch.Tensor] = []
    names: list[str] = []
    for i, batch in enumerate(batches):
        with parts.gradients_stay_here(i + 1 < len(batches)):
            total, terms = parts.module(batch)
            (total / len(batches)).backward()
        names = ["loss", *(f"l_{name}" for name in terms)]
        losses.append(torch.stack([total.detach(), *terms.values()]).float())
    norm = torch.nn.utils.clip_grad_norm_(parts.student.parameters(), grad_clip)
    asked = losses[0].new_full((1,), float(stop))
    *means, share_asked = ranks.mean(torch.cat([torch.stack(losses).mean(0), asked]))
    _check_finite(means[0], float(norm), losses, batches, ranks)
    lr = float(parts.schedule.get_last_lr()[0])
    parts.optimiser.step()
    parts.schedule.step()
    if parts.average is not None:
        parts.average.update(parts.student, step)
    return {**dict(zip(names, means, strict=True)), "lr": lr, "grad_norm": float(norm)}, share_asked > 0


def _check_finite(
    total: float, norm: float, losses: Sequence[torch.Tensor], batches: Sequence[Sample], ranks: Ranks
) -> None:
    """Every process comes to the same end here, as total and norm are the same in all of them."""
    if math.isfinite(total) and math.isfinite(norm):
        return
    guilty = [batch.frame_ids for loss, batch in zip(losses, batches, strict=True) if not math.isfinite(float(loss[0]))]
    said = [frame_id for share in ranks.gather(guilty) for frames in share for frame_id in frames]
    if not said:
        everything = ranks.gather([batch.frame_ids for batch in batches])
        said = [frame_id for share in everything for frames in share for frame_id in frames]
    what = f"The loss is {total}" if not math.isfinite(total) else f"The gradient's norm is {norm}"
    raise NotFiniteError(
        f"{what} (frames {', '.join(said)}): training cannot go on. Whatever was saved is from before this step. "
        "Look at these frames, or start a new run with a lower optimiser.lr."
    )
