"""Precision, memory layout, compiling, divided batches, averaged weights: what each changes, and what it does not."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import MemoryFrames
from test_distill import train, with_train

from tiekd_cache import config as c
from tiekd_cache.data.transforms import Augmentation
from tiekd_cache.dataset import Sample
from tiekd_cache.distill_config import DistillConfig, TrainConfig
from tiekd_cache.errors import ConfigError
from tiekd_cache.ranks import Ranks
from tiekd_cache.run_folder import RunFolder
from tiekd_cache.store import ResponseStore
from tiekd_cache.students import load_student
from tiekd_cache.training_parts import TrainingParts, build_parts
from tiekd_cache.training_step import NotFiniteError, training_step

TENSORS = ("image", "teacher_depth", "gt_depth", "valid_mask")


def parts_of(store: ResponseStore, **changes: Any) -> TrainingParts:
    config = replace(with_train(**{"batch_size": 4, **changes}), augmentation=Augmentation(rotate_p=0.0))
    return build_parts(config, MemoryFrames(6), [store], torch.device("cpu"))


def joined(samples: Sequence[Sample]) -> Sample:
    """Samples as one batch on the CPU."""
    fields = [[getattr(sample, name) for sample in samples] for name in TENSORS]
    names = tuple(frame_id for sample in samples for frame_id in sample.frame_ids)
    return Sample(names, **{name: torch.stack(field) for name, field in zip(TENSORS, fields, strict=True)})


def step_of(parts: TrainingParts, samples: list[Sample], *, still: bool = False, step: int = 1) -> dict[str, float]:
    """A step on the samples in as many passes as the parts say; `still` keeps BatchNorm's statistics out of it."""
    parts.student.train(not still)
    size = len(samples) // parts.accumulate
    batches = [joined(samples[i : i + size]) for i in range(0, len(samples), size)]
    return training_step(parts, batches, step, 35.0, Ranks())[0]


@pytest.mark.slow
def test_a_divided_batch_gives_the_step_of_the_whole_one(store: ResponseStore) -> None:
    whole, divided = parts_of(store), parts_of(store, accumulate=4)
    samples = [whole.dataset[0, i] for i in range(4)]
    numbers, other = step_of(whole, samples, still=True), step_of(divided, samples, still=True)
    assert other == pytest.approx(numbers, rel=1e-5)
    assert step_of(divided, samples, still=True, step=2) != pytest.approx(numbers, rel=1e-3), "nothing was learned"
    twice = parts_of(store, accumulate=2)
    step_of(twice, samples, still=True)
    for name, weights in twice.student.state_dict().items():
        torch.testing.assert_close(weights, whole.student.state_dict()[name], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_bf16_is_near_float32_and_keeps_weights_and_losses_in_float32(store: ResponseStore) -> None:
    exact, half = parts_of(store), parts_of(store, precision="bf16")
    samples = [exact.dataset[0, i] for i in range(4)]
    first, second = step_of(exact, samples), step_of(half, samples)
    assert second["loss"] == pytest.approx(first["loss"], rel=0.02)
    assert second["loss"] != first["loss"]
    assert all(weights.dtype == torch.float32 for weights in half.student.parameters())
    total, terms = half.module(joined(samples))
    assert {total.dtype, *(term.dtype for term in terms.values())} == {torch.float32}


@pytest.mark.slow
def test_channels_last_changes_the_layout_and_only_rounding(store: ResponseStore) -> None:
    plain, other = parts_of(store), parts_of(store, channels_last=True)
    weights = other.student.encoder.conv_stem.weight
    assert weights.is_contiguous(memory_format=torch.channels_last)
    assert plain.student.encoder.conv_stem.weight.is_contiguous()
    samples = [plain.dataset[0, i] for i in range(4)]
    assert step_of(other, samples)["loss"] == pytest.approx(step_of(plain, samples)["loss"], rel=1e-4)


@pytest.mark.slow
def test_the_average_follows_the_weights_and_is_what_is_kept(store: ResponseStore, tmp_path: Path) -> None:
    parts = parts_of(store, ema_decay=0.5)
    assert parts.average is not None
    before = {name: value.clone() for name, value in parts.student.state_dict().items()}
    samples = [parts.dataset[0, i] for i in range(4)]
    step_of(parts, samples)
    share = 2 / 11  # (1 + step) / (10 + step), less than 0.5 yet
    for name, average in parts.average.student.state_dict().items():
        new = parts.student.state_dict()[name]
        expected = share * before[name] + (1 - share) * new if new.is_floating_point() else new
        torch.testing.assert_close(average, expected)
    assert parts.average.decay_at(1000) == 0.5
    train(store, tmp_path / "plain", with_train(steps=3))
    train(store, tmp_path / "run", with_train(steps=3, ema_decay=0.5))
    plain, last, best = (
        load_student(tmp_path / name).state_dict() for name in ("plain/best.pt", "run/last.pt", "run/best.pt")
    )
    assert all(torch.equal(last[name], plain[name]) for name in plain), "the average disturbs nothing"
    assert not torch.equal(best["head.weight"], last["head.weight"])


def test_what_is_not_finite_in_any_pass_names_its_frames_alone_and_spoils_no_weights(store: ResponseStore) -> None:
    parts = parts_of(store, accumulate=2)
    samples = [parts.dataset[0, i] for i in range(4)]
    samples[2] = replace(samples[2], image=torch.full_like(samples[2].image, torch.nan))
    before = parts.student.head.weight.detach().clone()
    with pytest.raises(NotFiniteError, match="loss is nan") as caught:
        step_of(parts, samples)
    named = [sample.frame_ids[0] in str(caught.value) for sample in samples]
    assert named == [False, False, True, True]
    assert torch.equal(parts.student.head.weight, before)


def test_a_gradient_that_is_not_finite_stops_too(store: ResponseStore) -> None:
    parts = parts_of(store)
    parts.student.head.weight.register_hook(lambda gradient: gradient * torch.inf)
    samples = [parts.dataset[0, i] for i in range(4)]
    with pytest.raises(NotFiniteError, match=r"gradient's norm is (nan|inf).*drive_0"):
        step_of(parts, samples)


@pytest.mark.parametrize(
    ("name", "value"),
    [("precision", "fp8"), ("ema_decay", 1.0), ("accumulate", 0), ("validate_frames", -1), ("validate_every", 0)],
)
def test_settings_that_make_no_sense_are_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"train\.{name} = "):
        c.from_mapping(DistillConfig, {"train": {name: value}})


def test_validation_comes_early_regularly_and_last() -> None:
    assert TrainConfig(steps=1000, batch_size=10).validation_steps(2000) == {10, *range(200, 1000, 200), 1000}
    assert min(TrainConfig(steps=10**6).validation_steps(20_000)) == 100
    assert TrainConfig(steps=7, validate_every=3).validation_steps(5) == {1, 3, 6, 7}


def test_a_compiler_that_fails_is_one_line(store: ResponseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: object) -> object:
        def run(image: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no compiler here\nmany more lines")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    parts = parts_of(store, compile=True)
    with pytest.raises(ConfigError, match=r"failed \(no compiler here\): leave train.compile out"):
        step_of(parts, [parts.dataset[0, i] for i in range(4)])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs a C++ compiler")
def test_a_compiled_student_learns_the_same(store: ResponseStore, tmp_path: Path) -> None:
    config = with_train(steps=3, crop=(32, 64), row_cut=0)
    plain = train(store, tmp_path / "plain", config)
    compiled = replace(config, train=replace(config.train, compile=True))
    assert train(store, tmp_path / "compiled", compiled) == pytest.approx(plain, rel=1e-3)
    names = load_student(tmp_path / "compiled" / "best.pt").state_dict().keys()
    assert names == load_student(tmp_path / "plain" / "best.pt").state_dict().keys()
    assert RunFolder(tmp_path / "compiled").config().train.compile


def test_a_pass_too_small_for_batch_norm_is_one_line(store: ResponseStore) -> None:
    parts = parts_of(store, batch_size=1, crop=(32, 32))
    samples = [parts.dataset[0, 0]]
    with pytest.raises(ConfigError, match=r"1 sample of 32x32 px .*train.batch_size"):
        step_of(parts, samples)
