"""Stage one on a Ray cluster: `python pipelines/ray_precompute.py --teacher bts --kitti DIR --store DIR --actors 8`.

Every actor loads the teacher once, and is then given shard numbers, a few at a time. The store and the data must be
where every machine sees them. A killed actor is started again; a killed driver is, too: nothing finished is redone.
Needs `pip install 'tiekd-cache[ray]'`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import ray
from ray.util import ActorPool


class ShardMaker:
    """An actor: the teacher, the data and the store's writer, made when they are first needed."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self._parts: tuple[Any, ...] | None = None

    def parts(self) -> tuple[Any, ...]:
        """(writer, teacher, source, config) for `make_shard`; an error in making them reaches whoever asked."""
        if self._parts is None:
            self._parts = self._make_parts()
        return self._parts

    def _make_parts(self) -> tuple[Any, ...]:
        from tiekd_cache.data.kitti import KittiFrames
        from tiekd_cache.precompute import PrecomputeConfig, open_writer
        from tiekd_cache.teachers import load_teacher

        given = self.settings
        teacher = load_teacher(given["teacher"], weights=given["weights"], device=given["device"])
        source = KittiFrames.open(Path(given["kitti"]), given["split"], purpose="train")
        config = PrecomputeConfig(
            batch_size=given["batch_size"], precision=given["precision"], shard_frames=given["shard_frames"]
        )
        return open_writer(teacher, source, Path(given["store"]), config), teacher, source, config

    def todo(self) -> list[int]:
        """The shards that are not there yet."""
        missing: list[int] = self.parts()[0].todo()
        return missing

    def make(self, shard: int) -> int:
        """Makes a shard; returns how many frames it made."""
        from tiekd_cache.precompute import make_shard

        return make_shard(*self.parts(), shard)


def make_all(settings: dict[str, Any], actors: int, gpus_each: float) -> int:
    """Hands out every missing shard; returns how many frames were made."""
    options = {"num_gpus": gpus_each, "max_restarts": 3, "max_task_retries": 3}
    makers = [ray.remote(ShardMaker).options(**options).remote(settings) for _ in range(actors)]
    todo = ray.get(makers[0].todo.remote())
    return sum(ActorPool(makers).map_unordered(lambda maker, shard: maker.make.remote(shard), todo))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--weights")
    parser.add_argument("--kitti", required=True)
    parser.add_argument("--split")
    parser.add_argument("--store", required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--shard-frames", type=int, default=64)
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--gpus-each", type=float, default=0.0, help="1 for a GPU an actor")
    settings = vars(parser.parse_args())
    for name in ("kitti", "split", "store", "weights"):  # actors have other working directories
        path = settings[name]
        if path is not None and path != "all" and not path.startswith("random:"):
            settings[name] = str(Path(path).absolute())
    actors, gpus_each = settings.pop("actors"), settings.pop("gpus_each")
    try:
        made = make_all(settings, actors, gpus_each)
    except ray.exceptions.RayTaskError as error:
        sys.exit(f"Error: {error.cause}")
    print(f"{made} frames made; check them with: tiekd-cache verify {settings['store']}")


if __name__ == "__main__":
    main()
