"""Stores behind servers for tests: a bucket with the files of a folder, a web server that fails, what an error says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from servers import FaultServer, s3_server

from tiekd_cache.store.objects import FolderObjects, open_objects


@contextmanager
def bucket_of(folder: Path) -> Iterator[str]:
    """URL of a bucket with the files of a folder; while entered, the environment holds what it takes to reach it."""
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        objects, files = open_objects(server.url), FolderObjects(folder)
        for key, size in files.list():
            objects.put(key, files.get(key, size))
        yield server.url


@contextmanager
def failing_bucket(folder: Path) -> Iterator[FaultServer]:
    """A server that fails as it is told, with the empty bucket `s3://bucket`; the environment reaches it."""
    (folder / "bucket").mkdir()
    with FaultServer(folder) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "test-key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
        yield server


@contextmanager
def failing(folder: Path, part: str, fault: dict[str, Any]) -> Iterator[str]:
    """URL of the store `a.zarr` behind a server that fails so for files whose path matches `part`."""
    with FaultServer(folder) as server:
        server.fail(part, **fault)
        yield f"{server.url}/a.zarr"


def check_error(message: str, url: str) -> None:
    """One line that says where, and more than where."""
    assert "\n" not in message.strip()
    assert url in message
    assert len(message) > len(url) + 20
