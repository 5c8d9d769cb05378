"""Pushers in processes of their own: killed at any moment, or several at once. Nothing is lost, nothing wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from store_helpers import build_schema, depth_maps, files_of, frame_list, make_store, start_helper

from tiekd_cache.store import StoreWriter, open_store, verify_store


def run_helper(call: str) -> str:
    helper = start_helper(call, "sharing_helpers")
    printed, _ = helper.communicate(timeout=300)
    assert helper.returncode == 0
    return printed


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_a_pusher_killed_at_random_loses_nothing(tmp_path: Path, kills: int) -> None:
    source, target = tmp_path / "a.zarr", tmp_path / "there" / "a.zarr"
    make_store(source, shard_frames=2)
    printed = run_helper(f"push_killed_at_random(Path({str(source)!r}), Path({str(target)!r}), {kills}, {kills})")
    assert json.loads(printed)["hit"] == kills
    found = {name: data for name, data in files_of(target).items() if not name.startswith("claims/")}
    assert found == files_of(source), "dead pushers left something"
    assert verify_store(target).problems == ()


@pytest.mark.slow
def test_pushers_of_overlapping_parts_end_with_the_whole(tmp_path: Path) -> None:
    frame_ids, depth = frame_list(40), depth_maps(40)
    parts = []
    for name, shards in (("one", range(12)), ("two", range(6, 20)), ("three", range(3, 17))):
        writer = StoreWriter.open(tmp_path / name, build_schema(frame_ids), frame_ids, shard_frames=2)
        for shard in shards:
            writer.write_shard(shard, depth[2 * shard : 2 * shard + 2])
        parts.append(tmp_path / name)
    make_store(tmp_path / "whole", count=40, shard_frames=2)
    whole = open_store(tmp_path / "whole")
    for attempt in range(5):
        target = tmp_path / f"target{attempt}"
        places = ", ".join(f"Path({str(part)!r})" for part in parts)
        run_helper(f"push_together([{places}], Path({str(target)!r}))")
        report = verify_store(target)
        assert (report.problems, report.frames_checked) == ((), 40)
        store = open_store(target)
        assert store.read(frame_ids).tobytes() == whole.read(frame_ids).tobytes()
        shutil.rmtree(target)
