"""Frames and cached responses, made into training samples: the point where stage two begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from tiekd_cache.data.frame import FrameSource
from tiekd_cache.data.normalize import normalize
from tiekd_cache.data.transforms import TrainTransform
from tiekd_cache.errors import ShapeError
from tiekd_cache.store import ResponseStore

Position = tuple[int, int]
"""(epoch, index of the frame): names a sample, its augmentation included."""


@dataclass(frozen=True)
class Sample:
    """One training sample; a batch has the same fields with a leading dimension.

    Attributes:
        frame_ids: which frames these are.
        image: [3,h,w] float32, ImageNet-normalised.
        teacher_depth: [1,h,w] float32, metres, 0 = missing.
        gt_depth: [1,h,w] float32, metres, 0 = missing.
        valid_mask: [1,h,w] bool, where the teacher has an answer.
    """

    frame_ids: tuple[str, ...]
    image: torch.Tensor
    teacher_depth: torch.Tensor
    gt_depth: torch.Tensor
    valid_mask: torch.Tensor

    def to(self, device: torch.device) -> Sample:
        """The same on another device."""
        return Sample(
            self.frame_ids,
            self.image.to(device, non_blocking=True),
            self.teacher_depth.to(device, non_blocking=True),
            self.gt_depth.to(device, non_blocking=True),
            self.valid_mask.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Sample:
        """The same in page-locked memory; called by the DataLoader."""
        return Sample(
            self.frame_ids,
            self.image.pin_memory(),
            self.teacher_depth.pin_memory(),
            self.gt_depth.pin_memory(),
            self.valid_mask.pin_memory(),
        )


class ResponseDataset(Dataset[Sample]):
    """Samples by (epoch, index).

    A sample depends on the seed, the epoch and the index alone: not on the number of workers, nor on what
    was drawn before. That is what makes a resumed run equal an undisturbed one.

    Args:
        source: images (and ground truth) of the frames.
        store: the teacher's responses; must hold every frame of the source.
        transform: augmentation and crop.
        seed: of all augmentation.
        with_gt: read ground truth, too; without it `gt_depth` is zero everywhere.
    """

    def __init__(
        self, source: FrameSource, store: ResponseStore, transform: TrainTransform, seed: int, with_gt: bool = False
    ) -> None:
        self.source, self.store, self.transform, self.seed, self.with_gt = source, store, transform, seed, with_gt

    def __len__(self) -> int:
        return len(self.source.frame_ids)

    def __getitem__(self, position: Position) -> Sample:
        epoch, index = position
        frame_id = self.source.frame_ids[index]
        teacher_depth = self.store[frame_id]
        frame = self.source.load(frame_id, with_gt=self.with_gt and self.source.has_gt(frame_id))
        if teacher_depth.shape != frame.image.shape[:2]:
            raise ShapeError(
                f"The response to {frame_id} is {teacher_depth.shape} but its image is {frame.image.shape[:2]} "
                f"(store {self.store.info.path}): make the store again from these images."
            )
        rng = np.random.default_rng([self.seed, epoch, index])
        image, teacher_depth, gt_depth = self.transform(frame.image, teacher_depth, frame.gt_depth, rng)
        if gt_depth is None:
            gt_depth = np.zeros_like(teacher_depth)
        teacher = torch.from_numpy(teacher_depth)[None]
        return Sample(
            frame_ids=(frame_id,),
            image=normalize(torch.from_numpy(image)),
            teacher_depth=teacher,
            gt_depth=torch.from_numpy(gt_depth)[None],
            valid_mask=teacher > 0,
        )


def collate(samples: Sequence[Sample]) -> Sample:
    """Samples -> one batch."""
    return Sample(
        tuple(frame_id for sample in samples for frame_id in sample.frame_ids),
        torch.stack([sample.image for sample in samples]),
        torch.stack([sample.teacher_depth for sample in samples]),
        torch.stack([sample.gt_depth for sample in samples]),
        torch.stack([sample.valid_mask for sample in samples]),
    )


class StepBatches(Sampler[list[Position]]):
    """The batches of steps `start` to `stop`, each frame once an epoch, in an order fixed by the seed.

    Batches run over the ends of epochs, so that every step has a full batch and no frame is dropped.
    """

    def __init__(self, num_frames: int, batch_size: int, start: int, stop: int, seed: int) -> None:
        self.num_frames, self.batch_size, self.start, self.stop, self.seed = num_frames, batch_size, start, stop, seed

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[Position]]:
        current_epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self.start, self.stop):
            batch: list[Position] = []
            for k in range(step * self.batch_size, (step + 1) * self.batch_size):
                epoch, place = divmod(k, self.num_frames)
                if epoch != current_epoch:
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.num_frames)
                    current_epoch = epoch
                batch.append((epoch, int(order[place])))
            yield batch
