"""What a store says of itself: `StoreSchema`, the JSON attributes of format 1, and their fingerprint.

The sections are plain JSON objects, as they stand in the store's `zarr.json`; every key and type is checked, and
properties give what the code needs. Two stores with one fingerprint hold the same answers.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import numpy as np

from tiekd_cache.errors import RangeError, StoreError
from tiekd_cache.foreign import MAX_PIXELS, shown
from tiekd_cache.store.codec import MISSING_CODE, check_range, default_step
from tiekd_cache.store.maker import maker_name
from tiekd_cache.version import __version__

FORMAT = "tiekd-cache/1"
JsonObject = dict[str, Any]


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value that digests are taken of: sorted keys, no blanks, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_of(value: Any) -> str:
    """sha256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def frames_digest(frame_ids: Sequence[str]) -> str:
    """sha256 (hex) of a frame list: each id in UTF-8 followed by a newline, in order."""
    return hashlib.sha256("".join(f"{frame_id}\n" for frame_id in frame_ids).encode()).hexdigest()


@dataclass(frozen=True)
class StoreSchema:
    """Everything that a store's attributes say, checked; equal schemas have equal attributes.

    Attributes:
        teacher: name; digest (sha256 of the weights and of what it does to the image); architecture; weights (where
            they came from, in words); trained (False for random weights).
        input: crop (in words); image_size [H,W] pixels; flip_average; preprocessing (a JSON object).
        depth: unit "m"; step, min, max (metres); invalid 0 and its invalid_code; native_size [h,w] pixels of what is
            stored; resize {size [H,W], mode "bilinear", align_corners} to replay on reading, or null; clamp [min,max]
            metres to which the answers were clamped before rounding, or null.
        dataset: name; split (in words); num_frames; frames_digest; skipped, a list of {frame_id, reason}.
        created_by: version, and whatever else its maker noted.
    """

    teacher: JsonObject
    input: JsonObject
    depth: JsonObject
    dataset: JsonObject
    created_by: JsonObject

    def __post_init__(self) -> None:
        for part in fields(self):
            _check_section(part.name, getattr(self, part.name))
        _check_depth(self.depth, self.input)

    @classmethod
    def build(
        cls,
        *,
        teacher: Mapping[str, Any],
        input: Mapping[str, Any],
        native_size: tuple[int, int],
        min_depth: float,
        max_depth: float,
        dataset: Mapping[str, Any],
        frame_ids: Sequence[str],
        skipped: Sequence[tuple[str, str]] = (),
        resize: Mapping[str, Any] | None = None,
        clamp: tuple[float, float] | None = None,
        step: float | None = None,
        created_by: Mapping[str, Any] | None = None,
    ) -> StoreSchema:
        """The schema of a store of these frames, with what is fixed or follows filled in.

        Args:
            teacher, input, resize, clamp: as the attributes of the class.
            native_size: (h, w) pixels of the maps that will be written.
            min_depth, max_depth, step: metres; a step of None is `default_step`.
            dataset: name and split; the frame list's length and digest are added.
            frame_ids: every frame of the store, in order.
            skipped: (frame_id, reason) of frames of the split that it will not hold.
            created_by: more about how it was made; version, time and platform are added.
        Raises:
            RangeError: the limits and the step do not go together.
            StoreError: a key is missing, unknown or of the wrong type; sizes contradict each other.
        """
        depth = {
            "unit": "m",
            "step": default_step(max_depth) if step is None else float(step),
            "min": float(min_depth),
            "max": float(max_depth),
            "invalid": 0,
            "invalid_code": MISSING_CODE,
            "native_size": native_size,
            "resize": resize,
            "clamp": None if clamp is None else [float(value) for value in clamp],
        }
        frames = {
            "num_frames": len(frame_ids),
            "frames_digest": frames_digest(frame_ids),
            "skipped": [{"frame_id": frame_id, "reason": reason} for frame_id, reason in skipped],
        }
        maker = {
            "version": __version__,
            "maker": maker_name(),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "numpy": np.__version__,
        }
        sections = (teacher, input, depth, {**dataset, **frames}, {**maker, **(created_by or {})})
        return cls(*(_as_json(section) for section in sections))

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> StoreSchema:
        """The schema in a group's attributes of format 1.

        Raises:
            StoreError: one is missing, unknown, of the wrong type, out of range, or was changed since they were
                written; says which, not in which file.
        """
        parts = {part.name: attributes.get(part.name) for part in fields(cls)}
        for name, value in parts.items():
            if not isinstance(value, dict):
                raise StoreError(f"attribute '{name}' is missing or no object")
        try:
            schema = cls(**parts)  # type: ignore[arg-type]
        except RangeError as error:
            raise StoreError(f"attribute 'depth' makes no sense: {error}") from error
        try:
            fingerprint, digest = schema.fingerprint, schema._digest
        except UnicodeEncodeError as error:
            raise StoreError(f"an attribute is no Unicode text: {error.reason}") from error
        if attributes.get("fingerprint") != fingerprint:
            raise StoreError("the fingerprint does not match the attributes: one of them was changed")
        if attributes.get("attributes_digest") != digest:
            raise StoreError("attributes_digest does not match the attributes: one of them was changed")
        return schema

    def to_attributes(self) -> JsonObject:
        """The group's JSON attributes."""
        sections = {part.name: getattr(self, part.name) for part in fields(self)}
        digests = {"fingerprint": self.fingerprint, "attributes_digest": self._digest}
        return {"format": FORMAT, **digests, **_as_json(sections)}

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of what determines the responses; weights' file names, split names and versions do not."""
        return sha256_of(self._determines)

    def differences(self, other: StoreSchema) -> list[str]:
        """The fields of the fingerprint in which another schema differs: `depth.max (80.0, now 100.0)`."""
        mine, theirs = _flat(self._determines), _flat(other._determines)
        return [
            f"{name} ({json.dumps(mine.get(name))}, now {json.dumps(theirs.get(name))})"
            for name in sorted(mine.keys() | theirs.keys())
            if mine.get(name) != theirs.get(name)
        ]

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels of a response as it is read."""
        return _pair(self.input["image_size"])

    @property
    def native_size(self) -> tuple[int, int]:
        """(h, w) in pixels of a response as it is stored."""
        return _pair(self.depth["native_size"])

    @property
    def step(self) -> float:
        """Metres; a response is stored to half of it."""
        return float(self.depth["step"])

    @property
    def min_depth(self) -> float:
        """Metres, smallest depth that may occur."""
        return float(self.depth["min"])

    @property
    def max_depth(self) -> float:
        """Metres, largest depth that may occur."""
        return float(self.depth["max"])

    @property
    def num_frames(self) -> int:
        """Frames that the finished store holds."""
        return int(self.dataset["num_frames"])

    @property
    def _determines(self) -> JsonObject:
        return {
            "teacher": {name: self.teacher[name] for name in ("name", "digest", "architecture")},
            "input": self.input,
            "depth": self.depth,
            "dataset": {name: self.dataset[name] for name in ("name", "frames_digest")},
        }

    @property
    def _digest(self) -> str:
        return sha256_of([FORMAT, *(getattr(self, part.name) for part in fields(self))])


MAX_SIDE = 1 << 17
"""Pixels: resizing holds 24 bytes for each row and column."""

_NUMBER = (int, float)
_KEYS: dict[str, dict[str, Any]] = {
    "teacher": {"name": str, "digest": str, "architecture": str, "weights": str, "trained": bool},
    "input": {"crop": str, "image_size": "size", "flip_average": bool, "preprocessing": dict},
    "depth": {
        "unit": str,
        "step": _NUMBER,
        "min": _NUMBER,
        "max": _NUMBER,
        "invalid": _NUMBER,
        "invalid_code": int,
        "native_size": "size",
        "resize": (dict, type(None)),
        "clamp": "range",
    },
    "dataset": {"name": str, "split": str, "num_frames": int, "frames_digest": str, "skipped": "skipped"},
    "depth.resize": {"size": "size", "mode": str, "align_corners": bool},
}


def _check_section(name: str, section: JsonObject) -> None:
    if name == "created_by":
        if not isinstance(section.get("version"), str):
            raise StoreError("attribute 'created_by.version' is missing or no text")
        return
    known = _KEYS[name]
    for key in sorted(known.keys() ^ section.keys()):
        raise StoreError(f"attribute '{name}.{key}' is {'missing' if key in known else 'unknown to format 1'}")
    for key, kind in known.items():
        if not _is_kind(section[key], kind):
            raise StoreError(f"attribute '{name}.{key}' cannot be {shown(json.dumps(section[key]), 200)}")


def _is_kind(value: Any, kind: Any) -> bool:
    if kind == "size":
        sides = isinstance(value, list) and len(value) == 2 and all(type(n) is int for n in value)
        return sides and 0 < min(value) <= max(value) <= MAX_SIDE and value[0] * value[1] <= MAX_PIXELS
    if kind == "range":
        return value is None or (isinstance(value, list) and [type(n) for n in value] == [float, float])
    if kind == "skipped":
        return isinstance(value, list) and all(
            isinstance(item, dict) and item.keys() == {"frame_id", "reason"} and {str} == set(map(type, item.values()))
            for item in value
        )
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _check_depth(depth: JsonObject, images: JsonObject) -> None:
    check_range(depth["step"], depth["min"], depth["max"])
    if (depth["unit"], depth["invalid"], depth["invalid_code"]) != ("m", 0, MISSING_CODE):
        raise StoreError(
            f"attributes 'depth.unit', 'invalid', 'invalid_code' must be 'm', 0, {MISSING_CODE} in format 1"
        )
    shown = depth["native_size"]
    if depth["resize"] is not None:
        _check_section("depth.resize", depth["resize"])
        shown = depth["resize"]["size"]
        if depth["resize"]["mode"] != "bilinear":
            raise StoreError(f"attribute 'depth.resize.mode' is {depth['resize']['mode']!r}: format 1 replays bilinear")
    if shown != images["image_size"]:
        raise StoreError(f"attribute 'input.image_size' {images['image_size']} is not the size {shown} that is read")


def _as_json(value: Any) -> JsonObject:
    """A copy in plain JSON types: tuples become lists, so that what is written compares equal to what is read."""
    return json.loads(canonical_json(dict(value)))  # type: ignore[no-any-return]


def _pair(size: list[int]) -> tuple[int, int]:
    return size[0], size[1]


def _flat(value: Mapping[str, Any], prefix: str = "") -> JsonObject:
    result: JsonObject = {}
    for name, item in value.items():
        nested = _flat(item, f"{prefix}{name}.") if isinstance(item, dict) else {}
        result.update(nested or {f"{prefix}{name}": item})
    return result
