"""Student and objective as one module: images and maps in, the loss out, in the precision that is asked for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from tiekd_cache.dataset import Sample
from tiekd_cache.errors import ConfigError, DeviceError, RangeError, TiekdError, first_line
from tiekd_cache.losses.objective import Objective
from tiekd_cache.students import Student


class TrainingModule(nn.Module):
    """One forward pass of training.

    One module, because the head's weights are used by the objective, outside of the student's own forward pass:
    `DistributedDataParallel` averages the gradients of what the wrapped module's forward uses.

    Args:
        student: what learns.
        objective: what it learns.
        rows_cut: rows at the top that do not count.
        precision: of the student up to its features, `float32` or `bf16`; head and losses are float32.
        channels_last: images come in that memory layout, as the weights have.
        compiled: run the student's forward pass through `torch.compile`.
    """

    def __init__(
        self,
        student: Student,
        objective: Objective,
        *,
        rows_cut: int,
        precision: str = "float32",
        channels_last: bool = False,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.student, self.objective = student, objective
        self.rows_cut, self.precision, self.channels_last = rows_cut, precision, channels_last
        self._compiled: Callable[[torch.Tensor], torch.Tensor] | None = None
        if compiled:  # the method, not the module: prediction, at other sizes, stays as it is
            self._compiled = torch.compile(student.forward)
        self._tried = False

    def forward(self, batch: Sample) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(total loss with gradient, its terms by name, detached) of a batch.

        Raises:
            ConfigError: the student's features are of another size than the crop, or BatchNorm has a single value.
            RangeError: a teacher's depth lies outside the bins.
        """
        image = batch.image.contiguous(memory_format=torch.channels_last) if self.channels_last else batch.image
        with torch.autocast(image.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            features = self._features(image)
        if self.student.output == "depth":  # its head is a convolution in float32
            features = features.float()
        if features.shape[-2:] != image.shape[-2:]:
            size, got = ("{}x{}".format(*tensor.shape[-2:]) for tensor in (image, features))
            raise ConfigError(
                f"Student {self.student.name} answers crops of {size} px with {got} px: take a train.crop whose sides "
                "are multiples of 2 (for mobilenetv2 of 4)."
            )
        try:
            result = self.objective(
                features, self.student.head, batch.teacher_depth, batch.valid_mask, batch.gt_depth, self.rows_cut
            )
        except RangeError as error:
            raise RangeError(f"{error} Frames, from sample 0: {', '.join(batch.frame_ids)}.") from None
        return result.total, result.terms

    def _features(self, image: torch.Tensor) -> torch.Tensor:
        if self._compiled is None:
            try:
                features: torch.Tensor = self.student(image)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                batch, _, height, width = image.shape
                raise ConfigError(
                    f"{batch} sample of {height}x{width} px in a forward pass leaves BatchNorm a single value: take a "
                    "larger train.crop, or more samples a pass (train.batch_size, train.accumulate, processes)."
                ) from None
            return features
        try:
            features = self._compiled(image)
        except TiekdError:
            raise
        except Exception as error:  # compilers fail in many ways; whatever it is, the user can do without
            if self._tried:
                raise
            raise ConfigError(
                f"Compiling the student failed ({first_line(error)}): leave train.compile out."
            ) from error
        self._tried = True
        return features


def check_precision(precision: str, device: torch.device) -> None:
    """Raise DeviceError where the device does not compute in the precision."""
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise DeviceError(f'Device {device} does not compute in bf16: use train.precision = "float32".')
