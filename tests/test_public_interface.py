"""The names that users' scripts rely on are there, with the signatures that the documentation shows."""

from __future__ import annotations

import inspect

import pytest

import tiekd_cache as tk


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        ("open_store", ["path"]),
        ("load_teacher", ["name", "weights", "device"]),
        ("build_student", ["name", "pretrained"]),
        ("load_student", ["path"]),
        ("save_student", ["path", "student", "meta"]),
        ("depth_to_dpm", ["depth", "bins", "sigma", "form"]),
        ("dpm_to_depth", ["dpm", "bins"]),
        ("losses.dpm_kl", ["logits", "teacher_depth", "bins", "sigma", "form", "valid_mask"]),
        ("losses.ssim", ["a", "b"]),
        ("losses.si", ["prediction", "target"]),
        ("metrics.depth_metrics", ["prediction", "gt_depth", "valid"]),
        ("Bins.uniform", ["min_depth", "max_depth", "num_bins"]),
    ],
)
def test_signatures(function: str, parameters: list[str]) -> None:
    value: object = tk
    for part in function.split("."):
        value = getattr(value, part)
    names = list(inspect.signature(value).parameters)  # type: ignore[arg-type]
    assert [name for name in names if name in parameters] == parameters


def test_every_public_name_is_there_and_documented() -> None:
    for name in tk.__all__:
        assert getattr(tk, name) is not None
        assert name in dir(tk)
    with pytest.raises(AttributeError, match="no attribute 'unheard_of'"):
        tk.unheard_of  # noqa: B018
