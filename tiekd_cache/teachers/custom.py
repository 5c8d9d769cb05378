"""Teachers of the user's own: `package.module:factory` as named on the command line, or an installed entry point."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch

from tiekd_cache.errors import ConfigError, TiekdError
from tiekd_cache.teachers.base import Teacher

ENTRY_POINTS = "tiekd_cache.teachers"
"""Group of entry points under which a package may offer teachers: name -> factory."""


def installed_teachers() -> list[str]:
    """Names of the teachers that installed packages offer, sorted."""
    return sorted({point.name for point in entry_points(group=ENTRY_POINTS)})


def load_installed(name: str, weights: str | Path | None, device: torch.device) -> Teacher:
    """The teacher of an entry point, one of `installed_teachers`.

    Raises:
        ConfigError: its package cannot be imported, or its factory gives no teacher.
    """
    point = next(point for point in entry_points(group=ENTRY_POINTS) if point.name == name)
    try:
        factory = point.load()
    except Exception as error:  # importing other people's code may raise anything
        raise ConfigError(f'Teacher "{name}" ({point.value}) cannot be imported: {_said(error)}.') from error
    return _call(factory, f"{name} ({point.value})", weights, device)


def load_custom(name: str, weights: str | Path | None, device: torch.device) -> Teacher:
    """The teacher that `package.module:factory` gives; modules of the working directory are found first.

    Args:
        name: as the user typed it: this runs that code. Names out of stores or checkpoints never come here.
        weights, device: handed to the factory where it has parameters of these names.
    Raises:
        ConfigError: no such module or attribute, the factory raised, or what it gave is no `Teacher`.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ConfigError(f'Teacher "{name}": a teacher of your own is named package.module:factory.')
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(f"Teacher {name}: importing {module_name} failed: {_said(error)}.") from error
        raise ConfigError(
            f'Teacher {name}: no module "{error.name}" in {here} or among the installed packages. '
            "A teacher of your own is named package.module:factory."
        ) from error
    except Exception as error:  # importing the user's code may raise anything
        raise ConfigError(f"Teacher {name}: importing {module_name} failed: {_said(error)}.") from error
    factory: Any = module
    for part in attribute.split("."):
        factory = getattr(factory, part, None)
    if factory is None:
        raise ConfigError(f'Teacher {name}: module {module_name} ({module.__file__}) has no "{attribute}".')
    if not callable(factory):
        raise ConfigError(f"Teacher {name}: {attribute} is a {type(factory).__name__}, not a function or class.")
    return _call(factory, name, weights, device)


def _call(factory: Callable[..., Any], name: str, weights: str | Path | None, device: torch.device) -> Teacher:
    given: dict[str, Any] = {"device": device, "weights": weights}
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some built-in callables have none
        parameters = {}.values()
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    names = set(given) if takes_all else {parameter.name for parameter in parameters}
    if weights is not None and "weights" not in names:
        raise ConfigError(f"Teacher {name} takes no weights, but got {weights}. Leave --weights out.")
    try:
        teacher = factory(**{key: value for key, value in given.items() if key in names})
    except TiekdError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise ConfigError(f"Teacher {name}: the factory raised {_said(error)}.") from error
    if not isinstance(teacher, Teacher):
        raise ConfigError(
            f"Teacher {name}: the factory gave a {type(teacher).__name__}, not a tiekd_cache.teachers.Teacher."
        )
    for attribute in ("name", "architecture", "weights_source", "digest"):
        if not isinstance(getattr(teacher, attribute, None), str):
            raise ConfigError(f"Teacher {name}: its {attribute} must be a text, which the store will hold; set it.")
    return teacher


def _said(error: Exception) -> str:
    """An exception in one line: its kind and the first line of its words."""
    text = str(error).strip().split("\n", 1)[0].rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
