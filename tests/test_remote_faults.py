"""Whatever a web server does, a store behind it gives the right answer or one clear error, soon, and never zeros."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from remote_helpers import bucket_of, check_error, failing
from remote_reader import answers
from servers import nginx
from store_helpers import make_store

from tiekd_cache.store.objects import open_objects

pytestmark = [pytest.mark.slow, pytest.mark.timeout(170)]

LIMIT_S = 60.0
"""Of waiting for a server; a process may take as long again to start on a machine that is busy."""

ROOT = Path(__file__).parents[1]
READ = [sys.executable, str(ROOT / "tests" / "remote_reader.py")]
INFO = [sys.executable, "-m", "tiekd_cache", "info", "--json"]
VERIFY = [sys.executable, "-m", "tiekd_cache", "verify"]

FAULTS: dict[str, dict[str, Any]] = {
    "404": {"kind": "404"},
    "403": {"kind": "403"},
    "500": {"kind": "500"},
    "503": {"kind": "503"},
    "less": {"kind": "less"},
    "short": {"kind": "short"},
    "reset": {"kind": "reset"},
    "never": {"kind": "never"},
    "slow": {"kind": "slow", "rate": 2.0},
}
PASSING: dict[str, dict[str, Any]] = {
    "500 twice": {"kind": "500", "times": 2},
    "503 twice": {"kind": "503", "times": 2},
    "reset twice": {"kind": "reset", "times": 2},
    "short twice": {"kind": "short", "times": 2},
    "a little slow": {"kind": "slow", "rate": 20_000.0},
    "never, once": {"kind": "never", "times": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store `a.zarr`: ten frames in three shards."""
    folder = tmp_path_factory.mktemp("served")
    make_store(folder / "a.zarr")
    return folder


@pytest.fixture(scope="module")
def right(folder: Path) -> dict[str, str]:
    """What the store answers when it is read from the folder."""
    return answers(str(folder / "a.zarr"))


def run(command: list[str], *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, ended by force after the time that it has."""
    process = subprocess.run(
        [*command, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * LIMIT_S,
    )
    assert "Traceback" not in process.stderr, process.stderr
    return process


def read(url: str, *positions: int, **environment: str) -> dict[str, Any]:
    """What reading all frames, or those at `positions`, comes to: answers until an error, and the error or None."""
    process = run(READ, url, *map(str, positions), **environment)
    assert process.returncode == 0, process.stderr
    said: dict[str, Any] = json.loads(process.stdout)
    assert said["seconds"] <= LIMIT_S, said
    return said


def command_error(process: subprocess.CompletedProcess[str]) -> str:
    """The one error that a command ended with."""
    assert process.returncode == 1, f"{process.stdout}\n{process.stderr}"
    lines = [line for line in process.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, process.stderr
    return lines[0]


def side_by_side(*checks: Callable[[], None]) -> None:
    """All checks at the same time, each mostly waiting; raises the first failure."""
    with ThreadPoolExecutor(len(checks)) as pool:
        for done in [pool.submit(check) for check in checks]:
            done.result()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_is_one_error_soon(folder: Path, right: dict[str, str], fault: str) -> None:
    def reading(part: str) -> None:
        with failing(folder, part, FAULTS[fault]) as url:
            said = read(url)
        assert said["answers"] == {}
        check_error(said["error"], url)

    def reading_around_one_shard() -> None:
        with failing(folder, "*/residual/c/1/*", FAULTS[fault]) as url:
            said = read(url, 0, 8, 9, 3, 5)
        ids = list(right)
        assert said["answers"] == {ids[i]: right[ids[i]] for i in (0, 8, 9, 3)}
        check_error(said["error"], url)
        assert "residual/c/1" in said["error"] or ids[5] in said["error"]

    def info() -> None:
        with failing(folder, "*", FAULTS[fault]) as url:
            check_error(command_error(run(INFO, url)), url)

    def verify() -> None:
        with failing(folder, "*/residual/c/*", FAULTS[fault]) as url:
            process = run(VERIFY, url)
        assert process.returncode == 1, process.stdout
        assert "residual/c" in process.stdout + process.stderr

    parts = ("*", "*/frame_id/*", "*/done/*", "*/residual/c/*")
    side_by_side(*(partial(reading, part) for part in parts), reading_around_one_shard, info, verify)


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_changes_nothing(folder: Path, right: dict[str, str], fault: str) -> None:
    def reading(part: str) -> None:
        with failing(folder, part, PASSING[fault]) as url:
            said = read(url)
        assert (said["answers"], said["error"]) == (right, None)

    def info() -> None:
        with failing(folder, "*", PASSING[fault]) as url:
            process = run(INFO, url)
        assert process.returncode == 0, process.stderr
        assert json.loads(process.stdout)["frames_done"] == len(right)

    def verify() -> None:
        with failing(folder, "*/residual/*", PASSING[fault]) as url:
            process = run(VERIFY, url)
        assert process.returncode == 0, process.stderr

    side_by_side(partial(reading, "*"), partial(reading, "*/residual/c/*"), info, verify)


def test_a_server_that_ignores_ranges_gives_no_wrong_answer(folder: Path, right: dict[str, str]) -> None:
    with failing(folder, "*", {"kind": "no range"}) as url:
        said = read(url)
        assert said["answers"] == right or "Range" in said["error"]
        process = run(VERIFY, url)
        assert process.returncode == 0 or "Range" in process.stdout + process.stderr


def test_nginx_gives_what_the_folder_gives(folder: Path, right: dict[str, str]) -> None:
    with nginx(folder) as server:
        assert read(f"{server.url}/a.zarr")["answers"] == right
        assert run(VERIFY, f"{server.url}/a.zarr").returncode == 0
        check_error(read(f"{server.url}/b.zarr")["error"], f"{server.url}/b.zarr")
    check_error(read(f"{server.url}/a.zarr")["error"], f"{server.url}/a.zarr")


def test_s3_gives_what_the_folder_gives(folder: Path, right: dict[str, str]) -> None:
    with bucket_of(folder) as bucket:
        url = f"{bucket}/a.zarr"
        assert read(url)["answers"] == right
        assert run(VERIFY, url).returncode == 0
        open_objects(url).delete("residual/c/1/0/0")
        check_error(read(url)["error"], url)
        check_error(read(url, AWS_ENDPOINT_URL="http://127.0.0.1:9")["error"], url)
        check_error(command_error(run(INFO, f"{bucket}/b.zarr")), f"{bucket}/b.zarr")
