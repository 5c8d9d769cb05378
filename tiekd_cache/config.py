"""Frozen dataclasses to TOML and back: unknown keys and wrong types are errors, every error names its key.

The settings themselves live beside the code that uses them (`LossConfig` in losses, `Augmentation` in
data.transforms, …); this module only turns them into files and takes them from files and the command line.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from tiekd_cache.errors import ConfigError
from tiekd_cache.foreign import check_nesting, read_file

T = TypeVar("T")

_TOO_LARGE = 1 << 64


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """An instance of the dataclass `cls` with the mapping's values in place of the defaults.

    Args:
        cls: a dataclass whose fields are bool, int, float, str, tuples of these, dictionaries from names to them,
            optionals, or dataclasses.
        mapping: as read from TOML; nested tables for nested dataclasses.
        where: dotted name of this table, for errors.
    Raises:
        ConfigError: an unknown key (the nearest known one is suggested) or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        path = f"{where}.{key}" if where else key
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(names)}"
            raise ConfigError(f"Unknown setting '{path}': {hint}")
        values[key] = _convert(hints[key], value, path)
    return cls(**values)


def to_mapping(config: Any) -> dict[str, Any]:
    """The dataclass as nested dictionaries of TOML values; fields that are None are left out."""
    result: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            result[field.name] = to_mapping(value)
        elif value is not None:
            result[field.name] = _to_plain(value)
    return result


def _to_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; raises ConfigError, naming the file, where it is absent or malformed."""
    try:
        tables = tomllib.loads(read_file(path).decode())
        check_nesting(tables)
        return tables
    except OSError as error:
        raise ConfigError(f"Cannot read the settings {path}: {error.strerror or error}. Check the path.") from None
    except RecursionError:
        raise ConfigError(f"{path} is not TOML of settings: it nests without end.") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not TOML: {error}. Mend that line.") from None


def to_toml(config: Any) -> str:
    """The dataclass as the text of a TOML file that `from_mapping` reads back to an equal dataclass."""
    return tomli_w.dumps(to_mapping(config))


def set_value(mapping: dict[str, Any], dotted: str, value: Any) -> None:
    """Put a value at a dotted key (`loss.sigma`) of nested dictionaries, making tables as needed."""
    *tables, last = dotted.split(".")
    for table in tables:
        child = mapping.setdefault(table, {})
        if not isinstance(child, dict):
            raise ConfigError(f"Cannot set '{dotted}': '{table}' is a value, not a table.")
        mapping = child
    mapping[last] = value


def apply_overrides(mapping: dict[str, Any], overrides: Sequence[str]) -> None:
    """Apply `--set loss.sigma=0.8` strings to a mapping; values are read as TOML, else taken as text."""
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"'--set {override}' is not of the form key=value, e.g. --set loss.sigma=0.8")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        set_value(mapping, key.strip(), value)


def check_unchanged(config: Any, mapping: Mapping[str, Any], owner: str) -> None:
    """Raise ConfigError where the mapping gives a setting another value than the `owner`'s dataclass has."""
    asked = from_mapping(type(config), _merged(to_mapping(config), mapping))
    if changes := differences(config, asked):
        raise ConfigError(
            f"{owner} goes on with its own settings, but others are asked for: {'; '.join(changes)}. Leave them out, "
            "or start a new run."
        )


def differences(config: Any, other: Any) -> list[str]:
    """The settings in which another instance of the same dataclass differs: `loss.sigma (0.8, now 0.5)`."""
    return [
        f"{name} ({_at(config, name)}, now {_at(other, name)})"
        for name in leaf_names(type(config))
        if _at(config, name) != _at(other, name)
    ]


def _merged(own: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(own)
    for key, value in changes.items():
        below = own.get(key)
        merged[key] = _merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return merged


def _at(config: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        config = getattr(config, name)
    return config


def leaf_names(cls: type[Any], where: str = "") -> list[str]:
    """Dotted names of every setting below a dataclass: what `--set` accepts.

    A dictionary is one setting, `loss.terms`; `--set` also takes its entries by name, `loss.terms.ssim=1`.
    """
    hints = typing.get_type_hints(cls)
    names: list[str] = []
    for field in dataclasses.fields(cls):
        path = f"{where}.{field.name}" if where else field.name
        hint = hints[field.name]
        names += leaf_names(hint, path) if dataclasses.is_dataclass(hint) else [path]  # type: ignore[arg-type]
    return names


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError(f"Setting '{path}' is a table, not {value!r}.")
        return from_mapping(hint, value, path)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        return _convert(next(arg for arg in args if arg is not type(None)), value, path)
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or (Ellipsis not in args and len(value) != len(args)):
            raise ConfigError(f"Setting '{path}' needs {len(args)} values, e.g. {path} = [1, 2]; got {value!r}.")
        kinds = [args[0]] * len(value) if Ellipsis in args else args
        return tuple(
            _convert(kind, item, f"{path}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
        )
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"Setting '{path}' is a table, e.g. {path} = {{name = 1.0}}; got {value!r}.")
        return {str(key): _convert(args[1], item, f"{path}.{key}") for key, item in value.items()}
    if type(value) is int and abs(value) >= _TOO_LARGE:
        raise ConfigError(f"Setting '{path}' is a number of more than 64 bits.")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and type(value) is hint:
        return value
    raise ConfigError(f"Setting '{path}' must be {getattr(hint, '__name__', hint)}, not {value!r}.")
