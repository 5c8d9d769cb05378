"""Reading many frames at once gives what reading each alone gives, in the order asked for, or nothing at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from store_helpers import (
    IMAGE_SIZE,
    NATIVE_SIZE,
    build_schema,
    depth_maps,
    frame_list,
    half_resolution_schema,
    make_store,
    write_all,
)

from tiekd_cache.errors import FrameNotFoundError, StoreError
from tiekd_cache.store import StoreWriter, open_store

FRAMES = frame_list(10)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store of ten frames in three shards; read only."""
    path = tmp_path_factory.mktemp("stores") / "whole.zarr"
    make_store(path)
    return path


@pytest.mark.parametrize("threads", [1, 3, 50])
@pytest.mark.parametrize("order", [[9, 0, 4, 4, 3, 8, 1], [5], list(range(10))])
def test_a_batch_is_its_frames_in_the_order_asked_for(whole: Path, order: list[int], threads: int) -> None:
    store = open_store(whole)
    frame_ids = [FRAMES[i] for i in order]
    batch = store.read(frame_ids, threads=threads)
    assert batch.dtype == np.float32
    assert batch.shape == (len(order), *NATIVE_SIZE)
    for depth, frame_id in zip(batch, frame_ids, strict=True):
        assert np.array_equal(depth, store[frame_id])


def test_a_batch_of_a_half_resolution_store_is_at_image_size(tmp_path: Path) -> None:
    writer = StoreWriter.open(tmp_path / "a.zarr", half_resolution_schema(FRAMES), FRAMES, shard_frames=4)
    write_all(writer, depth_maps(10))
    store = open_store(tmp_path / "a.zarr")
    batch = store.read(FRAMES[::-1], threads=2)
    assert batch.shape == (10, *IMAGE_SIZE)
    assert np.array_equal(batch, np.stack([store[frame_id] for frame_id in FRAMES[::-1]]))


def test_an_empty_batch_is_empty(whole: Path) -> None:
    assert open_store(whole).read([]).shape == (0, *NATIVE_SIZE)


def test_frames_are_read_as_they_lie_in_the_files(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(whole)
    read: list[int] = []
    monkeypatch.setattr(type(store), "_read_into", lambda self, position, depth: read.append(position))
    store.read([FRAMES[i] for i in (9, 0, 4, 8, 1)])
    assert read == [0, 1, 4, 8, 9]


@pytest.mark.parametrize("threads", [1, 2])
def test_one_bad_frame_is_an_error_that_names_it(tmp_path: Path, threads: int) -> None:
    make_store(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "residual" / "c" / "1" / "0" / "0").write_bytes(b"")
    store = open_store(tmp_path / "a.zarr")
    with pytest.raises(FrameNotFoundError, match="elsewhere"):
        store.read([FRAMES[0], "elsewhere"], threads=threads)
    with pytest.raises(StoreError, match=f"frame {FRAMES[5]}"):
        store.read([FRAMES[0], FRAMES[5], FRAMES[9]], threads=threads)
    assert store.read([FRAMES[0], FRAMES[9]], threads=threads).shape == (2, *NATIVE_SIZE)


def test_a_frame_that_is_not_finished_is_named(tmp_path: Path) -> None:
    writer = StoreWriter.open(tmp_path / "a.zarr", build_schema(FRAMES), FRAMES, shard_frames=4)
    writer.write_shard(0, depth_maps(4))
    store = open_store(tmp_path / "a.zarr", allow_partial=True)
    with pytest.raises(FrameNotFoundError, match="its shard 1 was not finished"):
        store.read([FRAMES[0], FRAMES[5]])
