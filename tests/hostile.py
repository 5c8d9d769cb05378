"""Stores that somebody made to harm whoever reads them: their digests are right, what they declare is not."""

from __future__ import annotations

import hashlib
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

from store_helpers import in_child

from tiekd_cache.store.schema import FORMAT, canonical_json

MARGIN_BYTES = 400 << 20
"""What reading a small store may take beyond what the process has: buffers, stacks of threads, compiled loops."""


def digest(value: Any) -> str:
    """As `sha256_of`, of values too that no store of ours has (NaN, halves of characters)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def change_record(file: Path, key: str, **changes: Any) -> None:
    """Give a done-record or statistics other values, and the digest `key` of them."""
    document = {**json.loads(file.read_bytes()), **changes}
    document.pop(key)
    file.write_bytes(json.dumps({**document, key: digest(document)}).encode())


def change_attributes(store: Path, section: str, **changes: Any) -> None:
    """Give a section of a store's attributes other values, and fingerprint and digest of them."""
    group = json.loads((store / "zarr.json").read_bytes())
    attributes = group["attributes"]
    attributes[section].update(changes)
    dataset = {name: attributes["dataset"][name] for name in ("name", "frames_digest")}
    teacher = {name: attributes["teacher"][name] for name in ("name", "digest", "architecture")}
    determines = {"teacher": teacher, "input": attributes["input"], "depth": attributes["depth"], "dataset": dataset}
    attributes["fingerprint"] = digest(determines)
    sections = ("teacher", "input", "depth", "dataset", "created_by")
    attributes["attributes_digest"] = digest([FORMAT, *(attributes[name] for name in sections)])
    (store / "zarr.json").write_text(json.dumps(group))


def replace_shard(file: Path, record: Path, data: bytes) -> None:
    """Put other bytes in a shard's place, and what they are into its done-record."""
    file.write_bytes(data)
    document = {**json.loads(record.read_bytes()), "file_bytes": len(data)}
    document["file_sha256"] = hashlib.sha256(data).hexdigest()
    document.pop("record_digest")
    record.write_bytes(canonical_json({**document, "record_digest": digest(document)}))


def in_little_memory(work: Callable[[], Any]) -> None:
    """Do `work` in a child that cannot take much more memory than this process has, nor more than half a minute."""

    def limited() -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MARGIN_BYTES, used + MARGIN_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
        work()

    assert os.waitpid(in_child(limited), 0)[1] == 0, "see the child's traceback"
