"""A store is read alike from threads, forked and spawned processes, and wherever it is unpickled."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from store_helpers import (
    NATIVE_SIZE,
    frame_list,
    make_store,
)
from torch.utils.data import DataLoader, Dataset

from tiekd_cache.errors import StoreError
from tiekd_cache.store import ResponseStore, frames, open_store

FRAMES = frame_list(10)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store of ten frames in three shards; read only."""
    path = tmp_path_factory.mktemp("stores") / "whole.zarr"
    make_store(path)
    return path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The same store, to be damaged."""
    path = tmp_path / "copy.zarr"
    shutil.copytree(whole, path)
    return path


def test_pickles_by_path_whatever_the_working_directory(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(whole.parent)
    store = open_store(whole.name)
    expected = store[FRAMES[0]]
    data = pickle.dumps(store)
    assert len(data) < 1000, "the frame list and open files must not travel"
    monkeypatch.chdir(tmp_path)
    again: ResponseStore = pickle.loads(data)
    assert list(again) == FRAMES
    assert np.array_equal(again[FRAMES[0]], expected)


def test_a_pickled_store_does_not_open_another_one(copy: Path, tmp_path: Path) -> None:
    data = pickle.dumps(open_store(copy))
    shutil.rmtree(copy)
    make_store(copy, max_depth=100.0, clamp=None)
    with pytest.raises(StoreError, match="was replaced by another"):
        len(pickle.loads(data))


def test_threads_share_a_store(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_OPEN_SHARDS", 1)  # every other read opens a file and closes another's
    expected = {frame_id: open_store(whole)[frame_id] for frame_id in FRAMES}
    store = open_store(whole)
    order = [FRAMES[i % 10] for i in np.random.default_rng(0).permutation(400)]
    with ThreadPoolExecutor(8) as pool:
        for frame_id, response in zip(order, pool.map(store.__getitem__, order), strict=True):
            assert np.array_equal(response, expected[frame_id])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_while_a_thread_reads_does_not_wait_for_that_thread(whole: Path) -> None:
    store: Any = open_store(whole)
    assert store[FRAMES[0]].shape == NATIVE_SIZE
    child = multiprocessing.get_context("fork").Process(target=store.__getitem__, args=(FRAMES[0],))
    with store._process.frames._lock:  # held for ever in the child, where no thread releases it
        child.start()
        child.join(120)
    exitcode = child.exitcode
    child.kill()
    assert exitcode == 0


def num_open_files() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


def test_few_files_stay_open(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_OPEN_SHARDS", 2)
    gc.collect()  # else what other tests left could close its files in between
    before = num_open_files()
    store = open_store(whole)
    for frame_id in FRAMES * 3:
        assert store[frame_id].shape == NATIVE_SIZE
    assert num_open_files() == before + 2
    del store
    assert num_open_files() == before


class Responses(Dataset[torch.Tensor]):
    """Every response of a store, as a training set sees it."""

    def __init__(self, store: ResponseStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.store[self.store.frame_ids[index]])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("method", "workers", "reader"),
    [("fork", 2, "local"), ("fork", 2, "zarr"), pytest.param("spawn", 1, "local", marks=pytest.mark.slow)],
)
def test_dataloader_workers_read_right(whole: Path, method: str, workers: int, reader: Any) -> None:
    store = open_store(whole, reader=reader)
    expected = torch.stack([torch.from_numpy(store[frame_id]) for frame_id in FRAMES])  # open files before the fork
    loader = DataLoader(
        Responses(store),
        batch_size=3,
        num_workers=workers,
        multiprocessing_context=multiprocessing.get_context(method),
    )
    assert torch.equal(torch.cat(list(loader)), expected)
    assert np.array_equal(store[FRAMES[2]], expected[2].numpy()), "the parent reads on"
