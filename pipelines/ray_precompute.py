"""Stage one on a Ray cluster: `python pipelines/ray_precompute.py --teacher bts --kitti DIR --store DIR --actors 8`.

Ray Data maps shard numbers to verified shards: every actor loads the teacher once, and is then given shards one at a
time. It takes the options of `tiekd-cache precompute`. The store and the data must be where every machine sees them
under the same path. A lost actor is started again; for a lost driver, give the command again: nothing finished is
redone. Needs `pip install 'tiekd-cache[ray]'`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import ray
import ray.data

from tiekd_cache.cli.common import new_store
from tiekd_cache.cli.source_options import open_source, source_options
from tiekd_cache.cli.teacher_options import TEACHER_HELP, answer_options, speed_options, teacher_options
from tiekd_cache.errors import TiekdError

PLACES = ("TIEKD_KITTI", "TIEKD_CHECKPOINTS")
"""What the driver's environment says of folders, its actors need, too."""


class ShardMaker:
    """Shard number -> verified shard, with the teacher, the data and the store's writer made once.

    Args:
        settings: the command line's, by name, and the folder in which it was given, `cwd`.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        from tiekd_cache.precompute import PrecomputeConfig, open_writer
        from tiekd_cache.teachers import load_teacher

        given = dict(settings)
        os.chdir(given.pop("cwd"))  # paths mean what they mean to the driver
        store = given.pop("store")
        self.source = open_source(given, "train")
        named = {name: given.pop(name) for name in ("weights", "device", "trained_on", "align")}
        self.teacher = load_teacher(given.pop("teacher"), **named)
        self.config = PrecomputeConfig(**given)
        self.writer = open_writer(self.teacher, self.source, store, self.config)
        self.warm = False

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """{"shard": number} -> {"shard": number, "frames": made now, "error": what the user should mend, or ""}."""
        from tiekd_cache.precompute import make_shard, warm_up

        shard = int(row["shard"])
        try:
            if not self.warm:
                warm_up(self.teacher, self.source, self.writer.frames_of(shard), self.config, click.echo)
                self.warm = True
            frames = make_shard(self.writer, self.teacher, self.source, self.config, shard)
        except TiekdError as error:  # as a row: Ray would try again, and bury it in its own report
            return {"shard": shard, "frames": 0, "error": str(error)}
        return {"shard": shard, "frames": frames, "error": ""}


def find_todo(settings: dict[str, Any]) -> list[int]:
    """The shards that are not there yet; raises what is wrong with the settings before anything is handed out."""
    todo: list[int] = ShardMaker(settings).writer.todo()
    return todo


def make_all(settings: dict[str, Any], actors: int, gpus_each: float) -> int:
    """Hands out every missing shard; returns how many frames were made.

    Raises:
        click.ClickException: the settings, the data or the teacher's answers are not as they must be.
    """
    try:
        todo = ray.get(ray.remote(find_todo).options(num_gpus=gpus_each).remote(settings))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, (TiekdError, click.ClickException)):
            raise click.ClickException(str(error.cause)) from error
        raise
    if not todo:
        return 0
    shards = ray.data.from_items([{"shard": shard} for shard in todo], override_num_blocks=len(todo))
    made = shards.map(
        ShardMaker,
        fn_constructor_args=(settings,),
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(todo))),
        num_gpus=gpus_each or None,
    )
    frames = 0
    for row in made.iter_rows():
        if row["error"]:
            raise click.ClickException(row["error"])
        frames += int(row["frames"])
    return frames


@click.command(help=__doc__.split(":")[0] + ". Takes the options of `tiekd-cache precompute`.")
@click.option("--teacher", required=True, help=TEACHER_HELP)
@teacher_options
@click.option("--store", type=new_store, required=True, help="Where to write; every machine sees it.")
@source_options
@answer_options
@speed_options
@click.option("--actors", type=click.IntRange(1), default=1, show_default=True, help="How many load the teacher.")
@click.option("--gpus-each", type=click.FloatRange(0), default=0.0, show_default=True, help="1 for a GPU an actor.")
def main(actors: int, gpus_each: float, **settings: Any) -> None:
    """The command line."""
    variables = {name: os.environ[name] for name in PLACES if name in os.environ}
    ray.init(runtime_env={"env_vars": variables})
    made = make_all({**settings, "cwd": Path.cwd()}, actors, gpus_each)
    click.echo(f"{made} frames made; check them with: tiekd-cache verify {settings['store']}")


if __name__ == "__main__":
    main()
