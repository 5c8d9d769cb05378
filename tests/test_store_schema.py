"""The attributes of format 1: a round trip keeps them, the fingerprint is stable, what is not format 1 is refused."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from store_helpers import IMAGE_SIZE, NATIVE_SIZE, build_schema, frame_list, half_resolution_schema

from tiekd_cache.errors import RangeError, StoreError
from tiekd_cache.store import StoreSchema, frames_digest
from tiekd_cache.version import __version__

FRAMES = frame_list(6)

# Of the schema that `build_schema(frame_list(6))` gives. If this fails, stores that exist are no longer recognised:
# a new value here means a new format.
GOLDEN_FINGERPRINT = "6f8fa8902261d593a5617fd89ce08414c07e7b148b0b551c344e6a0c41f98368"
GOLDEN_FRAMES_DIGEST = "ec158ef7e35bfe044e300323255e6fdd4ec80eea0f4a6bf9d2dc7af89e59f818"

CANONICAL_JSON = (
    '{"dataset":{"frames_digest":"' + GOLDEN_FRAMES_DIGEST + '","name":"kitti"},'
    '"depth":{"clamp":[0.001,80.0],"invalid":0,"invalid_code":65535,"max":80.0,"min":0.001,"native_size":[12,20],'
    '"resize":null,"step":0.015625,"unit":"m"},'
    '"input":{"crop":"kb 352x1216","flip_average":true,"image_size":[12,20],'
    '"preprocessing":{"mean":[0.485,0.456,0.406]}},'
    '"teacher":{"architecture":"formula_v1","digest":"' + "0" * 64 + '","name":"formula"}}'
)


def test_attributes_survive_json() -> None:
    skipped = [("2011_09_26_drive_0009_sync/image_02/0000000001", "no velodyne scan")]
    for schema in (build_schema(FRAMES, skipped=skipped), half_resolution_schema(FRAMES)):
        attributes = json.loads(json.dumps(schema.to_attributes()))
        again = StoreSchema.from_attributes(attributes)
        assert again == schema
        assert again.to_attributes() == schema.to_attributes()
        assert again.fingerprint == schema.fingerprint


def test_the_attributes_are_those_of_the_format() -> None:
    attributes = half_resolution_schema(FRAMES).to_attributes()
    assert attributes["format"] == "tiekd-cache/1"
    assert attributes["depth"] == {
        "unit": "m",
        "step": 0.015625,
        "min": 0.001,
        "max": 80.0,
        "invalid": 0,
        "invalid_code": 65535,
        "native_size": list(NATIVE_SIZE),
        "resize": {"size": list(IMAGE_SIZE), "mode": "bilinear", "align_corners": True},
        "clamp": [0.001, 80.0],
    }
    assert attributes["dataset"]["num_frames"] == 6
    assert attributes["dataset"]["frames_digest"] == frames_digest(FRAMES)
    assert attributes["created_by"]["version"] == __version__


def test_properties_are_what_the_attributes_say() -> None:
    schema = half_resolution_schema(FRAMES)
    assert (schema.image_size, schema.native_size, schema.num_frames) == (IMAGE_SIZE, NATIVE_SIZE, 6)
    assert (schema.step, schema.min_depth, schema.max_depth) == (1 / 64, 1e-3, 80.0)


def test_the_fingerprint_never_changes() -> None:
    assert frames_digest(FRAMES) == GOLDEN_FRAMES_DIGEST
    assert build_schema(FRAMES).fingerprint == GOLDEN_FINGERPRINT
    assert hashlib.sha256(CANONICAL_JSON.encode()).hexdigest() == GOLDEN_FINGERPRINT, "the rule, written out"
    assert build_schema(FRAMES, max_depth=80, clamp=(1e-3, 80)).fingerprint == GOLDEN_FINGERPRINT, "80 is 80.0"


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("teacher", {"weights": "elsewhere.pt"}),
        ("teacher", {"trained": False}),
        ("dataset", {"split": "another/place/eigen_train.txt"}),
        ("dataset", {"skipped": [{"frame_id": "a", "reason": "b"}]}),
        ("created_by", {"version": "9.9"}),
    ],
)
def test_what_does_not_determine_the_responses_is_not_in_the_fingerprint(section: str, change: dict[str, Any]) -> None:
    schema = build_schema(FRAMES)
    parts = {name: copy.deepcopy(getattr(schema, name)) for name in vars(schema)}
    parts[section].update(change)
    assert StoreSchema(**parts).fingerprint == schema.fingerprint
    assert StoreSchema(**parts).differences(schema) == []


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("teacher.digest", {"teacher": {"digest": "1" * 64}}),
        ("teacher.name", {"teacher": {"name": "bts"}}),
        ("teacher.architecture", {"teacher": {"architecture": "other"}}),
        ("input.crop", {"input": {"crop": "none"}}),
        ("input.flip_average", {"input": {"flip_average": False}}),
        ("input.preprocessing.mean", {"input": {"preprocessing": {"mean": [0.5, 0.5, 0.5]}}}),
        ("depth.max", {"max_depth": 100.0}),
        ("depth.min", {"min_depth": 0.01}),
        ("depth.step", {"step": 1 / 128}),
        ("depth.clamp", {"clamp": None}),
        ("dataset.name", {"dataset": {"name": "nyu"}}),
        ("dataset.frames_digest", {"frame_ids": FRAMES[::-1]}),
    ],
)
def test_what_determines_the_responses_is_in_the_fingerprint_and_named(name: str, changed: dict[str, Any]) -> None:
    schema = build_schema(FRAMES)
    sections = {"teacher": schema.teacher, "input": schema.input, "dataset": {"name": "kitti", "split": "all"}}
    arguments: dict[str, Any] = {"frame_ids": FRAMES}
    for key, value in changed.items():
        arguments[key] = {**sections[key], **value} if key in sections else value
    other = build_schema(**arguments)
    assert other.fingerprint != schema.fingerprint
    [difference] = schema.differences(other)
    assert difference.startswith(f"{name} (")


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(attributes: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            attributes = attributes[parent]
        if value is ...:
            del attributes[last]
        else:
            attributes[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("teacher", ...), "'teacher' is missing"),
        (_set("depth", []), "'depth' is missing or no object"),
        (_set("depth.step", ...), "'depth.step' is missing"),
        (_set("depth.gamma", 1), "'depth.gamma' is unknown to format 1"),
        (_set("depth.step", "1/64"), "'depth.step' cannot be"),
        (_set("depth.step", 0.01), "power of two"),
        (_set("depth.max", 2000.0), "does not fit 16 bits"),
        (_set("depth.unit", "mm"), "must be 'm'"),
        (_set("depth.invalid_code", 0), "65535"),
        (_set("depth.native_size", [12, 20, 3]), "'depth.native_size' cannot be"),
        (_set("depth.native_size", [13, 20]), "is not the size"),
        (_set("depth.native_size", [10**9, 10**9]), "'depth.native_size' cannot be"),
        (_set("input.image_size", [1 << 14, 1 << 13]), "'input.image_size' cannot be"),
        (_set("teacher.name", "\ud800"), "no Unicode text"),
        (_set("created_by.maker", "\ud800"), "no Unicode text"),
        (_set("depth.clamp", [1]), "'depth.clamp' cannot be"),
        (_set("depth.resize", {"size": [12, 20], "mode": "bicubic", "align_corners": True}), "replays bilinear"),
        (_set("depth.resize", {"size": [12, 20], "mode": "bilinear"}), "'depth.resize.align_corners' is missing"),
        (_set("teacher.trained", "yes"), "'teacher.trained' cannot be"),
        (_set("dataset.num_frames", True), "'dataset.num_frames' cannot be"),
        (_set("dataset.skipped", [{"frame_id": "a"}]), "'dataset.skipped' cannot be"),
        (_set("created_by.version", ...), "'created_by.version' is missing"),
        (_set("teacher.digest", "2" * 64), "fingerprint does not match"),
        (_set("depth.max", 79.0), "fingerprint does not match"),
        (_set("fingerprint", "0" * 64), "fingerprint does not match"),
        (_set("teacher.trained", False), "attributes_digest does not match"),
        (_set("teacher.weights", "other.pt"), "attributes_digest does not match"),
        (_set("created_by.version", "0.0.1"), "attributes_digest does not match"),
        (_set("attributes_digest", ...), "attributes_digest does not match"),
    ],
)
def test_attributes_that_are_not_format_1_or_were_changed_are_refused(
    change: Callable[[dict[str, Any]], None], message: str
) -> None:
    attributes = build_schema(FRAMES).to_attributes()
    change(attributes)
    with pytest.raises(StoreError, match=re.escape(message)):
        StoreSchema.from_attributes(attributes)


def test_attributes_of_the_users_own_are_let_be() -> None:
    schema = build_schema(FRAMES)
    assert StoreSchema.from_attributes({**schema.to_attributes(), "licence": "CC BY 4.0"}) == schema


def test_sizes_must_fit_or_a_resize_must_say_how() -> None:
    images = {"crop": "none", "image_size": IMAGE_SIZE, "flip_average": True, "preprocessing": {}}
    with pytest.raises(StoreError, match=r"input\.image_size"):
        build_schema(FRAMES, input=images)


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(RangeError, match="power of two"):
        build_schema(FRAMES, step=0.01)
    with pytest.raises(RangeError, match="0 means missing"):
        build_schema(FRAMES, min_depth=0.0)


def test_the_maker_is_named_and_is_no_part_of_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIEKD_MAKER", "ana")
    by_ana = build_schema(FRAMES)
    monkeypatch.delenv("TIEKD_MAKER")
    monkeypatch.setattr("getpass.getuser", lambda: "ben")
    by_ben = build_schema(FRAMES)
    monkeypatch.setattr("getpass.getuser", lambda: (_ for _ in ()).throw(OSError("no user database")))
    by_nobody = build_schema(FRAMES)
    assert [schema.created_by["maker"] for schema in (by_ana, by_ben, by_nobody)] == ["ana", "ben", "unknown"]
    assert by_ana.fingerprint == by_ben.fingerprint == by_nobody.fingerprint
