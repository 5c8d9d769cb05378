"""The running average of a student's weights over the steps of its training: often better than the last ones."""

from __future__ import annotations

import copy

import torch

from tiekd_cache.students import Student


class WeightAverage:
    """An exponential moving average (EMA) of everything in a student's state: weights and BatchNorm's statistics.

    Attributes:
        student: a student of its own that holds the average, in evaluation mode.
        decay: share of the old average that a step keeps, once the run is long enough.
    """

    def __init__(self, student: Student, decay: float) -> None:
        self.student = copy.deepcopy(student).eval().requires_grad_(False)
        self.decay = decay

    def decay_at(self, step: int) -> float:
        """The share kept in step `step` (from 1): (1 + step) / (10 + step) at first, so that the start is forgotten."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, student: Student, step: int) -> None:
        """Take the weights that step `step` has left into the average; counters are copied."""
        weight = 1 - self.decay_at(step)
        new = student.state_dict()
        for name, average in self.student.state_dict().items():
            if average.is_floating_point():
                average.lerp_(new[name], weight)
            else:
                average.copy_(new[name])
