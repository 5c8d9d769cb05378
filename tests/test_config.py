"""Settings survive the way to TOML and back, and a wrong one is refused by its name."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tiekd_cache import config as c
from tiekd_cache.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    sigma: float = 0.8
    form: str = "released"


@dataclass(frozen=True)
class Outer:
    steps: int | None = None
    crop: tuple[int, int] = (352, 704)
    flip: bool = True
    loss: Inner = field(default_factory=Inner)


def test_round_trip_through_toml() -> None:
    config = Outer(steps=40, crop=(96, 320), flip=False, loss=Inner(sigma=0.5, form="gaussian"))
    assert c.from_mapping(Outer, tomllib.loads(c.to_toml(config))) == config
    assert c.from_mapping(Outer, tomllib.loads(c.to_toml(Outer()))) == Outer()


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"loss": {"sigm": 1.0}}, ["loss.sigm", "did you mean 'sigma'"]),
        ({"unheard": 1}, ["unheard", "known here", "crop"]),
        ({"steps": "many"}, ["steps", "int", "many"]),
        ({"steps": True}, ["steps", "int"]),
        ({"crop": [1]}, ["crop", "2 values"]),
        ({"loss": 3}, ["loss", "table"]),
        ({"flip": 1}, ["flip", "bool"]),
    ],
)
def test_a_wrong_setting_is_named(mapping: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        c.from_mapping(Outer, mapping)
    for word in words:
        assert word in str(caught.value)


def test_an_integer_is_a_float_where_one_is_wanted() -> None:
    assert c.from_mapping(Inner, {"sigma": 1}).sigma == 1.0


def test_overrides_are_read_as_toml_or_text() -> None:
    mapping: dict[str, object] = {}
    c.apply_overrides(mapping, ["loss.sigma=0.5", "crop=[96, 320]", "loss.form=gaussian", "flip=false"])
    assert c.from_mapping(Outer, mapping) == Outer(crop=(96, 320), flip=False, loss=Inner(0.5, "gaussian"))


@pytest.mark.parametrize("override", ["sigma", "=3"])
def test_a_malformed_override_says_the_form(override: str) -> None:
    with pytest.raises(ConfigError, match="key=value"):
        c.apply_overrides({}, [override])


def test_a_value_is_no_table() -> None:
    with pytest.raises(ConfigError, match="not a table"):
        c.apply_overrides({"loss": 3}, ["loss.sigma=1"])


def test_leaf_names_are_every_setting() -> None:
    assert c.leaf_names(Outer) == ["steps", "crop", "flip", "loss.sigma", "loss.form"]


def test_reading_a_recipe_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        c.read_toml(tmp_path / "nowhere.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("loss = [")
    with pytest.raises(ConfigError, match=r"broken\.toml is not TOML"):
        c.read_toml(broken)


@dataclass(frozen=True)
class Sum:
    terms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Whole:
    loss: Sum = field(default_factory=Sum)


def test_a_dictionary_of_numbers_goes_both_ways_and_its_entries_can_be_set() -> None:
    config = Whole(Sum({"dpm": 0.1, "gt_si": 2.0}))
    assert c.from_mapping(Whole, tomllib.loads(c.to_toml(config))) == config
    assert c.from_mapping(Whole, tomllib.loads(c.to_toml(Whole()))) == Whole()
    mapping: dict[str, object] = {"loss": {"terms": {"dpm": 0.1}}}
    c.apply_overrides(mapping, ["loss.terms.gt_si=2"])
    assert c.from_mapping(Whole, mapping) == config
    assert c.leaf_names(Whole) == ["loss.terms"]


@pytest.mark.parametrize(
    ("terms", "words"),
    [(0.5, ["loss.terms", "table"]), ({"dpm": "much"}, ["loss.terms.dpm", "float"]), ({"a": {"b": 1.0}}, ["float"])],
)
def test_a_dictionary_of_something_else_is_named(terms: object, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        c.from_mapping(Whole, {"loss": {"terms": terms}})
    for word in words:
        assert word in str(caught.value)
