"""Imports run one way along the data, files stay short, only the command line prints, and nothing is left undone."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tiekd_cache"
FILES = sorted(PACKAGE.rglob("*.py"))

LAYERS = [
    {"errors", "foreign", "version", "config", "progress", "interrupt", "launch", "processes", "whole_file"},
    {"openssh", "dpm", "metrics", "bootstrap", "device", "machine_code", "timm_compat", "model_hub", "ranks"},
    {"data", "store", "losses", "students", "teachers"},
    {"doctor", "pictures", "dataset", "distill_config", "teacher_stores", "store_frames", "agreement", "statistics"},
    {"store_list", "store_choice", "store_page", "sharing"},
    {"answering", "filling", "image_filling", "speed", "precompute_config", "precompute"},
    {"run_folder", "evaluation", "evaluate", "recipe", "transfer", "teacher_check"},
    {"results", "comparison"},
    {"training_module", "weight_average", "training_parts"},
    {"checkpoint", "training_step", "training_loop", "validation", "scalar_log", "distill", "stages", "pipeline"},
    {"bench"},
    {"cli"},
]


def module_of(path: Path) -> str:
    """`store` for tiekd_cache/store/codec.py, `dpm` for tiekd_cache/dpm.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """First-level parts of tiekd_cache that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tiekd_cache"):
            parts = (node.module or "").split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("tiekd_cache.")}
    return names


def rank(module: str) -> int:
    for i, layer in enumerate(LAYERS):
        if module in layer:
            return i
    raise AssertionError(f"{module} stands in no layer of this test")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    own = module_of(path)
    if own in ("__init__", "__main__"):
        return
    for other in imported(path) - {own, "__version__"}:
        assert rank(other) <= rank(own), f"{path.name} ({own}) imports {other}, which stands above it"


def test_a_teacher_never_imports_a_student_and_the_store_knows_no_torch() -> None:
    for path in FILES:
        found = imported(path)
        if module_of(path) == "teachers":
            assert not found & {"students", "losses", "store"}, path
        if module_of(path) == "students":
            assert not found & {"teachers", "store"}, path
        if module_of(path) == "store":
            assert not re.search(r"^\s*(import|from) torch", path.read_text(), re.M), path


def test_files_are_short_and_functions_too() -> None:
    for path in FILES:
        text = path.read_text()
        assert text.count("\n") <= 300, f"{path} has {text.count(chr(10))} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert (node.end_lineno or 0) - node.lineno <= 80, f"{path}:{node.lineno} {node.name} is too long"


def test_only_the_command_line_prints() -> None:
    for path in FILES:
        if module_of(path) != "cli":
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"], path


def test_every_module_and_public_function_says_what_it_does() -> None:
    for path in FILES:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), f"{path} has no docstring"
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path}: {node.name} has no docstring"
