"""Frames a second by URL, against the local folder: `python benchmarks/remote.py [URL --local FOLDER] [--frames 512]`.

Without a URL: a made-up store on this machine, behind moto's S3 and behind nginx, each where it is installed. That
measures what the protocols and our own code cost; a network comes on top of it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

from tiekd_cache.bench import RepeatedFrames, made_up_store
from tiekd_cache.cli import main
from tiekd_cache.data.kitti import KittiFrames
from tiekd_cache.data.synthetic_kitti import write_synthetic_kitti
from tiekd_cache.store.objects import open_objects

FRAMES = 128


def on_this_machine(arguments: list[str]) -> None:
    """Measure a store of `FRAMES` made-up frames, 352 x 1216, behind each server that there is."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import pytest
    from servers import nginx, s3_server

    with tempfile.TemporaryDirectory(prefix="tiekd-bench-") as name:
        folder = Path(name)
        write_synthetic_kitti(folder / "kitti", train_frames=1, test_frames=1)
        source = KittiFrames.open(folder / "kitti", purpose="train")
        (folder / "stores").mkdir()
        store = folder / "stores" / "made-up.zarr"
        made_up_store(RepeatedFrames(source, FRAMES), store, images=False)
        for start in (s3_server, lambda: nginx(folder / "stores")):
            with contextlib.ExitStack() as running:
                try:
                    server = running.enter_context(start())
                except pytest.skip.Exception as why:
                    print(f"Left out: {why}", file=sys.stderr)
                    continue
                running.enter_context(mock.patch.dict(os.environ, server.environment))
                url = f"{server.url}/{store.name}"
                if url.startswith("s3://"):
                    there, here = open_objects(url), open_objects(store)
                    for key, _ in here.list():
                        there.put(key, here.get(key))
                ways = ["--local", str(store), "--cache-dir", str(folder / f"cache of {url[:4]}")]
                main(["bench", "remote", url, *ways, *arguments], standalone_mode=False)


if __name__ == "__main__":
    given = sys.argv[1:]
    if given and "://" in given[0]:
        main(["bench", "remote", *given])
    else:
        on_this_machine(given)
