"""Frames and cached responses, made into training samples: the point where stage two begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from tiekd_cache.data.frame import Frame, FrameSource
from tiekd_cache.data.normalize import normalize
from tiekd_cache.data.transforms import TrainTransform
from tiekd_cache.distill_config import TeachersConfig
from tiekd_cache.errors import ConfigError, ShapeError
from tiekd_cache.interrupt import ignore_interrupts
from tiekd_cache.store import ResponseStore
from tiekd_cache.store.codec import Depth
from tiekd_cache.store_frames import StoreFrames

Position = tuple[int, int]
"""(epoch, index of the frame): names a sample, its augmentation included."""

REQUESTS = 16
"""That a loader process has under way at a time where a store is read over a network."""


@dataclass(frozen=True)
class Sample:
    """One training sample; a batch has the same fields with a leading dimension.

    Attributes:
        frame_ids: which frames these are.
        image: [3,h,w] float32, ImageNet-normalised.
        teacher_depth: [T,h,w] float32, metres, 0 = missing; T teachers, 1 where one is drawn for each sample.
        gt_depth: [1,h,w] float32, metres, 0 = missing.
        valid_mask: [T,h,w] bool, where a teacher has an answer.
    """

    frame_ids: tuple[str, ...]
    image: torch.Tensor
    teacher_depth: torch.Tensor
    gt_depth: torch.Tensor
    valid_mask: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """B samples as the loader makes them: only what cannot be had from the rest, in a quarter of the bytes.

    Attributes:
        frame_ids: which frames these are.
        image: [B,h,w,3] uint8 RGB.
        teacher_depth: [B,T,h,w] float32, metres, 0 = missing.
        gt_depth: [B,1,h,w] float32, metres, 0 = missing; None where it was not asked for.
    """

    frame_ids: tuple[str, ...]
    image: torch.Tensor
    teacher_depth: torch.Tensor
    gt_depth: torch.Tensor | None = None

    def to(self, device: torch.device) -> Sample:
        """What a training step takes, on a device: there the image is normalised and the mask made.

        On a GPU, value/255 may differ from the CPU's in the last bit.
        """
        teacher_depth = self.teacher_depth.to(device, non_blocking=True)
        if self.gt_depth is None:
            batch, _, height, width = teacher_depth.shape
            gt_depth = teacher_depth.new_zeros((batch, 1, height, width))
        else:
            gt_depth = self.gt_depth.to(device, non_blocking=True)
        image = normalize(self.image.to(device, non_blocking=True))
        return Sample(self.frame_ids, image, teacher_depth, gt_depth, teacher_depth > 0)

    def pin_memory(self) -> Batch:
        """The same in page-locked memory; called by the DataLoader."""
        gt_depth = None if self.gt_depth is None else self.gt_depth.pin_memory()
        return Batch(self.frame_ids, self.image.pin_memory(), self.teacher_depth.pin_memory(), gt_depth)


class ResponseDataset(Dataset[Sample]):
    """Samples by (epoch, index); a DataLoader gets whole batches of them.

    A sample depends on the seed, the epoch and the index alone: not on the number of workers, nor on what
    was drawn before, nor on its batch. That is what makes a resumed run equal an undisturbed one.

    Args:
        source: images (and ground truth) of the frames.
        stores: the teachers' responses; each must hold every frame of the source.
        transform: augmentation and crop.
        seed: of all augmentation.
        with_gt: read ground truth, too; without it `gt_depth` is zero everywhere.
        mix: `average` gives the responses of all stores, T = their number; `sample` those of one, drawn for each
            sample by a generator of its own, so that the augmentation is that of a single store.
        weights: how often `sample` draws each store, relative to the others; empty = equally often.
    Raises:
        ConfigError: the weights are not as many as the stores; or ground truth is asked for and no frame has any.
    """

    def __init__(
        self,
        source: FrameSource,
        stores: Sequence[ResponseStore],
        transform: TrainTransform,
        seed: int,
        with_gt: bool = False,
        mix: str = "average",
        weights: Sequence[float] = (),
    ) -> None:
        self.source, self.stores, self.transform, self.seed = source, list(stores), transform, seed
        self.with_gt, self.mix, self.weights = with_gt, mix, tuple(weights)
        if with_gt and not any(map(source.has_gt, source.frame_ids)):
            raise ConfigError(
                f"The loss needs ground truth, and none of the {len(source.frame_ids)} frames of {source.split} has any"
                " here (images out of a store have none). Name the data set with --kitti, or another --loss."
            )
        shares = TeachersConfig(mix, self.weights).shares(len(self.stores))
        self._bounds = np.cumsum(shares)[:-1]
        self._responses: Depth = np.empty((0, *source.image_size), np.float32)

    def __len__(self) -> int:
        return len(self.source.frame_ids)

    def __getitem__(self, position: Position) -> Sample:
        batch = self.__getitems__([position]).to(torch.device("cpu"))
        parts = (batch.image, batch.teacher_depth, batch.gt_depth, batch.valid_mask)
        return Sample(batch.frame_ids, *(part[0] for part in parts))

    def __getitems__(self, positions: Sequence[Position]) -> Batch:
        """The samples of several positions as one batch, each written once, where it stays."""
        count, size = len(positions), self.transform.crop
        teachers = 1 if self.mix == "sample" else len(self.stores)
        # numpy asks for huge pages, torch does not: a quarter of the time to touch so much fresh memory
        image = np.empty((count, *size, 3), np.uint8)
        teacher_depth = np.empty((count, teachers, *size), np.float32)
        gt_depth = np.zeros((count, 1, *size), np.float32) if self.with_gt else None
        frame_ids = tuple(self.source.frame_ids[index] for _, index in positions)
        asked = [self._asked(epoch, index) for epoch, index in positions]
        places = []
        for i, ((epoch, index), frame) in enumerate(zip(positions, self._frames(frame_ids), strict=True)):
            shown = (frame.image.shape[0], frame.image.shape[1])
            for number in asked[i]:
                _check_size(self.stores[number], frame.frame_id, shown)
            place = self.transform.place(shown, np.random.default_rng([self.seed, epoch, index]))
            place.image(frame.image, image[i])
            if gt_depth is not None and frame.gt_depth is not None:
                place.depth(frame.gt_depth, gt_depth[i, 0])
            places.append(place)
        for number, store in enumerate(self.stores):
            wanted = [(i, numbers.index(number)) for i, numbers in enumerate(asked) if number in numbers]
            threads = REQUESTS if store.over_network else 1
            responses = store.read([frame_ids[i] for i, _ in wanted], threads=threads, out=self._room(len(wanted)))
            for (i, t), response in zip(wanted, responses, strict=True):
                places[i].depth(response, teacher_depth[i, t])
        on_host = None if gt_depth is None else torch.from_numpy(gt_depth)
        return Batch(frame_ids, torch.from_numpy(image), torch.from_numpy(teacher_depth), on_host)

    def _asked(self, epoch: int, index: int) -> list[int]:
        """The numbers of the stores whose responses a sample has."""
        if self.mix != "sample":
            return list(range(len(self.stores)))
        drawn = np.random.default_rng([self.seed, epoch, index, 1]).random()
        return [int(np.searchsorted(self._bounds, drawn, side="right"))]

    def _frames(self, frame_ids: Sequence[str]) -> Iterator[Frame]:
        """The frames, with ground truth where it is wanted and there; from afar many at a time."""

        def load(frame_id: str) -> Frame:
            return self.source.load(frame_id, with_gt=self.with_gt and self.source.has_gt(frame_id))

        if not (isinstance(self.source, StoreFrames) and self.source.over_network):
            yield from map(load, frame_ids)
            return
        with ThreadPoolExecutor(REQUESTS) as pool:
            yield from pool.map(load, frame_ids)

    def _room(self, count: int) -> Depth:
        """[count,H,W] to read responses into, the same memory each time."""
        if len(self._responses) < count:
            self._responses = np.empty((count, *self.source.image_size), np.float32)
        return self._responses[:count]


def collate(batch: Any) -> Batch:
    """A batch as `ResponseDataset.__getitems__` made it: nothing is left to be put together."""
    assert isinstance(batch, Batch)
    return batch


def start_worker(worker: int) -> None:
    """For loader processes: Ctrl-C is their parent's affair, and OpenCV starts no threads of its own in each."""
    ignore_interrupts(worker)
    cv2.setNumThreads(0)


def _check_size(store: ResponseStore, frame_id: str, shown: tuple[int, int]) -> None:
    if store.schema.image_size != shown:
        raise ShapeError(
            f"The response to {frame_id} is {store.schema.image_size} but its image is {shown} "
            f"(store {store.info.path}): make the store again from these images."
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
