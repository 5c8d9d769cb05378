"""The done-record of a shard: written last, and without it the shard does not exist."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tiekd_cache.foreign import parse_json
from tiekd_cache.store.chunks import Damage
from tiekd_cache.store.object_path import names_in
from tiekd_cache.store.schema import canonical_json, sha256_of
from tiekd_cache.version import __version__


@dataclass(frozen=True)
class DoneRecord:
    """What a finished shard must be.

    Attributes:
        fingerprint: of the store that it belongs to; a foreign shard is none of ours.
        shard: its number.
        first_frame: position of its first frame in the frame list.
        digests: crc32c of each frame's codes.
        file_bytes, file_sha256: of the shard's file.
        finished_at: UTC, ISO 8601.
        write_seconds: encoding, writing and reading back; in a bucket, encoding alone.
        version: of the tiekd-cache that made it.
    """

    fingerprint: str
    shard: int
    first_frame: int
    digests: tuple[int, ...]
    file_bytes: int
    file_sha256: str
    finished_at: str
    write_seconds: float
    version: str

    @classmethod
    def of(
        cls, fingerprint: str, shard: int, positions: range, digests: Sequence[int], data: bytes, started: float
    ) -> DoneRecord:
        """The record, as of now, of a shard with these bytes, on which work began at `started` (`time.monotonic`)."""
        return cls(
            fingerprint=fingerprint,
            shard=shard,
            first_frame=positions.start,
            digests=tuple(digests),
            file_bytes=len(data),
            file_sha256=hashlib.sha256(data).hexdigest(),
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
            write_seconds=round(time.monotonic() - started, 3),
            version=__version__,
        )

    def to_bytes(self) -> bytes:
        """The record as it is written: JSON with a digest of itself."""
        document = {**asdict(self), "digests": list(self.digests)}
        return canonical_json({**document, "record_digest": sha256_of(document)}) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> DoneRecord:
        """The record in a file.

        Raises:
            Damage: it is not JSON, lacks something or has it of another type, or was changed.
        """
        try:
            document: Any = parse_json(data)
            if not isinstance(document, dict) or document.keys() != {*_TYPES, "record_digest"}:
                raise Damage("done-record does not have the fields of format 1")
            if document.pop("record_digest") != sha256_of(document):
                raise Damage("done-record does not match its own digest: it was changed")
        except ValueError as error:
            raise Damage(f"done-record is no JSON ({error})") from error
        wrong = [name for name, kinds in _TYPES.items() if type(document[name]) not in kinds]
        if wrong or any(type(digest) is not int for digest in document["digests"]):
            raise Damage(f"done-record has another type in {', '.join(wrong) or 'digests'} than format 1")
        return cls(**{**document, "digests": tuple(document["digests"])})

    def check(self, fingerprint: str, shard: int, positions: range) -> None:
        """Raise Damage unless the record is that of this shard of the store with this fingerprint."""
        if self.fingerprint != fingerprint:
            raise Damage(
                f"done-record belongs to a store with fingerprint {self.fingerprint[:12]}, not {fingerprint[:12]}"
            )
        if (self.shard, self.first_frame, len(self.digests)) != (shard, positions.start, len(positions)):
            raise Damage(
                f"done-record is that of shard {self.shard} with {len(self.digests)} frames from {self.first_frame} on,"
                f" not of shard {shard} with {len(positions)} from {positions.start} on"
            )


def done_shards(folder: Path, num_shards: int, store: Path | None = None) -> frozenset[int]:
    """Numbers of the shards that have a done-record in the folder; no record is opened.

    Args:
        folder: of the records.
        num_shards: of the finished store.
        store: given where it may lack the folder; see `names_in`.
    Raises:
        OSError: the folder cannot be listed, or is none.
        StoreError: objects cannot be had, see `Objects`.
    """
    names = names_in(folder, lambda: [f"{shard:05d}.json" for shard in range(num_shards)], store)
    found = map(_SHARD_RECORD.fullmatch, names)
    shards = (int(match[1]) for match in found if match)
    return frozenset(shard for shard in shards if shard < num_shards)


_SHARD_RECORD = re.compile(r"([0-9]{5,10})\.json")
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("fingerprint", "file_sha256", "finished_at", "version"), (str,)),
    **dict.fromkeys(("shard", "first_frame", "file_bytes"), (int,)),
    "digests": (list,),
    "write_seconds": (int, float),
}
