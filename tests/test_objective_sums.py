"""Any sum of terms, students with and without bins, and several teachers: the total is what is written down for it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tiekd_cache.dpm import Bins, depth_to_dpm, dpm_to_depth
from tiekd_cache.errors import ConfigError, ShapeError
from tiekd_cache.losses import LossConfig, Objective, ObjectiveResult, dpm_kl, mse, si, ssim
from tiekd_cache.losses.loss_config import OBJECTIVES, TERMS
from tiekd_cache.students.heads import DepthHead

BINS = Bins.uniform(1e-3, 80.0, 33)
HEIGHT, WIDTH = 6, 9
SHAPE = (2, 1, HEIGHT, WIDTH)
WEIGHTS = st.dictionaries(st.sampled_from(TERMS), st.floats(0, 10), min_size=1).filter(lambda w: any(w.values()))


def head_of(output: str) -> nn.Module:
    """A head with fixed weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Conv2d(4, BINS.num_bins, 1) if output == "dpm" else DepthHead(4, BINS.max_depth)


HEADS = {output: head_of(output) for output in ("dpm", "depth")}


def batch(num_teachers: int = 1, seed: int = 0) -> dict[str, Any]:
    """Features, and depths of which some pixels do not count; ground truth is sparse."""
    g = torch.Generator().manual_seed(seed)
    size = (2, num_teachers, HEIGHT, WIDTH)
    gt_depth = 2 + 70 * torch.rand(SHAPE, generator=g)
    return {
        "features": torch.randn(2, 4, HEIGHT, WIDTH, generator=g).requires_grad_(),
        "teacher_depth": 2 + 70 * torch.rand(size, generator=g),
        "valid_mask": torch.rand(size, generator=g) > 0.3,
        "gt_depth": torch.where(torch.rand(SHAPE, generator=g) > 0.6, gt_depth, 0),
    }


def build(
    terms: dict[str, float], output: str = "dpm", teacher_weights: tuple[float, ...] = (), **changes: Any
) -> Objective:
    config = LossConfig(terms=terms, sigma=2.0, **changes)
    return Objective.from_config(config, BINS, output=output, teacher_weights=teacher_weights)


def call(objective: Objective, b: dict[str, Any]) -> ObjectiveResult:
    return objective(
        b["features"], HEADS[objective.output], b["teacher_depth"], b["valid_mask"], gt_depth=b["gt_depth"]
    )


def gradient(result: ObjectiveResult, b: dict[str, Any]) -> torch.Tensor:
    (grad,) = torch.autograd.grad(result.total, b["features"])
    return grad


def student_depth(b: dict[str, Any], output: str) -> torch.Tensor:
    said: torch.Tensor = HEADS[output](b["features"])
    return dpm_to_depth(torch.softmax(said, 1), BINS) if output == "dpm" else said


# What the documentation says of each objective, written out: (student's output, total).
BY_HAND: dict[str, tuple[str, Any]] = {
    "tie-kd": ("dpm", lambda t: 10 * (0.1 * t["dpm"] + 0.9 * t["ssim"])),
    "tie-kd-dpm": ("dpm", lambda t: t["dpm"]),
    "tie-kd-depth": ("dpm", lambda t: t["ssim"]),
    "res-kd-ssim": ("depth", lambda t: t["ssim"]),
    "res-kd-mse": ("depth", lambda t: t["mse"]),
    "res-kd-si": ("depth", lambda t: t["si"]),
    "res-kd-ssim-si": ("depth", lambda t: 1.5 * t["ssim"] + t["si"]),
    "res-kd-ssim-mse": ("depth", lambda t: 1.5 * t["ssim"] + t["mse"]),
    "baseline": ("depth", lambda t: t["gt_si"]),
}


def terms_by_hand(b: dict[str, Any], output: str) -> dict[str, torch.Tensor]:
    depth, teacher, mask, gt = student_depth(b, output), b["teacher_depth"], b["valid_mask"], b["gt_depth"]
    terms = {"ssim": 1 - ssim(depth, teacher, mask), "mse": mse(depth, teacher, mask), "si": si(depth, teacher, mask)}
    measured = gt > 0
    terms |= {
        "gt_ssim": 1 - ssim(depth, gt, measured),
        "gt_mse": mse(depth, gt, measured),
        "gt_si": si(depth, gt, measured),
    }
    if output == "dpm":
        terms["dpm"] = dpm_kl(HEADS["dpm"](b["features"]), teacher, BINS, 2.0)[mask].mean()
    return terms


def test_every_named_objective_is_written_out_here() -> None:
    assert BY_HAND.keys() == OBJECTIVES.keys()


@pytest.mark.parametrize("name", BY_HAND)
def test_a_named_objective_is_its_sum(name: str) -> None:
    config, b = LossConfig(name, sigma=2.0), batch()
    output, total = BY_HAND[name]
    assert config.student_output == output
    result = call(Objective.from_config(config, BINS, output=output), b)
    expected = total(terms_by_hand(b, output))
    torch.testing.assert_close(result.total, expected, rtol=1e-5, atol=1e-5)
    (grad,) = torch.autograd.grad(expected, b["features"])
    torch.testing.assert_close(gradient(result, b), grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("output", HEADS)
def test_every_term_is_logged_by_its_name_unweighted(output: str) -> None:
    b = batch()
    expected = terms_by_hand(b, output)
    result = call(build(dict.fromkeys(expected, 3.0), output), b)
    torch.testing.assert_close(result.terms, {name: expected[name].detach() for name in result.terms})
    assert result.terms.keys() == expected.keys() == (set(TERMS) if output == "dpm" else set(TERMS) - {"dpm"})


@settings(max_examples=25)
@given(WEIGHTS, WEIGHTS, st.floats(0.1, 10), st.integers(0, 99))
def test_the_total_is_linear_in_the_weights(
    one: dict[str, float], other: dict[str, float], scale: float, seed: int
) -> None:
    b = batch(seed=seed)
    both = {term: one.get(term, 0.0) + other.get(term, 0.0) for term in {*one, *other}}
    parts = call(build(one), b).total + call(build(other), b).total
    torch.testing.assert_close(call(build(both, scale=scale), b).total, scale * parts, rtol=1e-4, atol=1e-4)


@settings(max_examples=25)
@given(
    WEIGHTS,
    st.sampled_from(["dpm", "depth"]),
    st.integers(1, 3),
    st.integers(0, 99),
    st.sampled_from([math.nan, math.inf, -5.0]),
)
def test_what_does_not_count_never_matters(
    terms: dict[str, float], output: str, num_teachers: int, seed: int, rubbish: float
) -> None:
    if output == "depth":
        terms = {**{term: weight for term, weight in terms.items() if term != "dpm"}, "ssim": 1.0}
    b, objective = batch(num_teachers, seed), build(terms, output)
    torn = dict(b, teacher_depth=torch.where(b["valid_mask"], b["teacher_depth"], rubbish))
    torn["gt_depth"] = torch.where(b["gt_depth"] > 0, b["gt_depth"], rubbish if rubbish > 0 else math.nan)
    clean, dirty = call(objective, b), call(objective, torn)
    assert torch.equal(clean.total, dirty.total)
    grad = gradient(dirty, b)
    assert torch.equal(gradient(clean, b), grad)
    if output == "dpm":  # its head looks at single pixels
        counts = b["valid_mask"].any(1, keepdim=True) | (b["gt_depth"] > 0)
        assert float((grad * ~counts).abs().max()) == 0.0


@settings(max_examples=15)
@given(WEIGHTS, st.integers(2, 3), st.lists(st.floats(0.1, 5), min_size=3, max_size=3), st.integers(0, 99))
def test_equal_teachers_are_one_teacher(
    terms: dict[str, float], num_teachers: int, weights: list[float], seed: int
) -> None:
    b = batch(seed=seed)
    repeated = {key: b[key].repeat(1, num_teachers, 1, 1) for key in ("teacher_depth", "valid_mask")}
    several = call(build(terms, teacher_weights=tuple(weights[:num_teachers])), {**b, **repeated})
    one = call(build(terms), b)
    torch.testing.assert_close(several.total, one.total, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient(several, b), gradient(one, b), rtol=1e-3, atol=1e-5)


@settings(max_examples=15)
@given(WEIGHTS, st.booleans(), st.integers(0, 99))
def test_a_teacher_without_weight_or_without_an_answer_is_absent(
    terms: dict[str, float], answers: bool, seed: int
) -> None:
    b, alone = batch(3, seed), build(terms, teacher_weights=(2.0, 3.0))
    first_two = {key: b[key][:, :2] for key in ("teacher_depth", "valid_mask")}
    if answers:  # and outside the bins, which does not matter either
        b["teacher_depth"][:, 2] = 1e4
    else:
        b["valid_mask"][:, 2] = False
    with_third = build(terms, teacher_weights=(2.0, 3.0, 0.0 if answers else 7.0))
    torch.testing.assert_close(call(with_third, b).total, call(alone, {**b, **first_two}).total, rtol=1e-5, atol=1e-5)


def test_several_teachers_by_hand() -> None:
    b, weights = batch(2), (1.0, 3.0)
    depth = student_depth(b, "dpm")
    teachers = [(b["teacher_depth"][:, t : t + 1], b["valid_mask"][:, t : t + 1]) for t in range(2)]
    kl = [dpm_kl(HEADS["dpm"](b["features"]), teacher, BINS, 2.0, valid_mask=mask) for teacher, mask in teachers]
    share = sum(w * mask for w, (_, mask) in zip(weights, teachers, strict=True))
    mixed = (kl[0] + 3 * kl[1])[share > 0] / share[share > 0]
    result = call(build({"dpm": 1.0, "ssim": 1.0, "si": 1.0}, teacher_weights=weights), b).terms
    similar = [1 - ssim(depth, *teacher) for teacher in teachers]
    invariant = [si(depth, *teacher) for teacher in teachers]
    torch.testing.assert_close(result["dpm"], mixed.mean().detach())
    torch.testing.assert_close(result["ssim"], (0.25 * similar[0] + 0.75 * similar[1]).detach())
    torch.testing.assert_close(result["si"], (0.25 * invariant[0] + 0.75 * invariant[1]).detach())


def test_several_teachers_teach_the_mixture_of_their_dpms() -> None:
    """The term is KL(mixture || student) and a number that no student changes."""
    b, weights, rest, grads = batch(2), (0.25, 0.75), [], []
    objective = build({"dpm": 1.0}, teacher_weights=weights, form="gaussian")
    b["valid_mask"][:] = True
    mixture = sum(
        w * depth_to_dpm(b["teacher_depth"][:, t : t + 1], BINS, 2.0, "gaussian") for t, w in enumerate(weights)
    )
    for _ in range(2):
        log_student = torch.log_softmax(HEADS["dpm"](b["features"]), 1)
        to_mixture = (torch.xlogy(mixture, mixture) - mixture * log_student).sum(1).mean()
        result = call(objective, b)
        rest.append(float((result.total - to_mixture).detach()))
        grads.append((gradient(result, b), torch.autograd.grad(to_mixture, b["features"])[0]))
        b["features"] = (2 * b["features"].detach() + 1).requires_grad_()  # another student
    assert rest[0] == pytest.approx(rest[1], abs=1e-4)
    assert rest[0] > 0.1
    for ours, expected in grads:
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("output", HEADS)
def test_rows_are_cut_from_the_depth_and_not_from_what_the_head_looks_at(output: str) -> None:
    b = batch(2)
    terms = dict.fromkeys(terms_by_hand(batch(), output), 1.0)
    cut = {**b, "valid_mask": b["valid_mask"].clone(), "gt_depth": b["gt_depth"].clone()}
    cut["valid_mask"][:, :, :2] = False
    cut["gt_depth"][:, :, :2] = 0
    masked = build(terms, output)
    rows = masked(b["features"], HEADS[output], b["teacher_depth"], b["valid_mask"], b["gt_depth"], rows_cut=2)
    torch.testing.assert_close(rows.terms, call(masked, cut).terms)  # zeros around, or rows of zeros: the same
    torch.testing.assert_close(rows.student_depth, student_depth(b, output)[:, :, 2:].detach())
    torch.testing.assert_close(gradient(rows, b), gradient(call(masked, cut), b), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("term", ["ssim", "mse", "si", "gt_ssim", "gt_mse", "gt_si"])
def test_gradients_through_the_regression_head(term: str) -> None:
    b, head = batch(2), head_of("depth").double()
    objective = build({term: 1.0}, "depth", (1.0, 2.0))
    b["features"] = 0.3 * b["features"].detach().double()
    depths = {key: b[key].double() for key in ("teacher_depth", "gt_depth")}
    inputs = [b["features"].requires_grad_(), *head.parameters()]

    def total(features: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return objective(features, head, depths["teacher_depth"], b["valid_mask"], depths["gt_depth"]).total

    assert torch.autograd.gradcheck(total, inputs)


def test_a_term_of_weight_0_is_logged_and_not_trained() -> None:
    b = batch()
    watched, alone = call(build({"dpm": 1.0, "gt_si": 0.0}), b), call(build({"dpm": 1.0}), b)
    assert list(watched.terms) == ["dpm", "gt_si"]
    assert torch.equal(watched.total, alone.total)
    assert torch.equal(gradient(watched, b), gradient(alone, b))
    with pytest.raises(ConfigError, match="gt_si needs ground truth"):
        call(build({"dpm": 1.0, "gt_si": 0.0}), {**b, "gt_depth": None})


def test_ground_truth_outside_the_bins_does_not_count() -> None:
    b = batch()
    far = {**b, "gt_depth": torch.where(b["gt_depth"] > 0, b["gt_depth"], 85.0)}
    assert torch.equal(call(build({"gt_mse": 1.0}), far).total, call(build({"gt_mse": 1.0}), b).total)


@pytest.mark.parametrize("terms", [{"dpm": 1.0}, {"dpm": 0.0, "ssim": 1.0}])
def test_a_student_without_bins_has_no_dpm(terms: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"'dpm' needs a student with a DPM"):
        build(terms, "depth")


@pytest.mark.parametrize("weights", [(0.0, 0.0), (1.0, -1.0), (math.nan,), (math.inf,)])
def test_teacher_weights_are_checked(weights: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="Teacher weights"):
        build({"ssim": 1.0}, teacher_weights=weights)


def test_what_does_not_fit_is_refused() -> None:
    b = batch(2)
    with pytest.raises(ConfigError, match="3 teacher weights for 2 teachers"):
        call(build({"ssim": 1.0}, teacher_weights=(1.0, 1.0, 1.0)), b)
    with pytest.raises(ConfigError, match="output 'both'"):
        build({"ssim": 1.0}, "both")
    dpm, depth = build({"ssim": 1.0}), build({"ssim": 1.0}, "depth")
    for objective, head in ((dpm, HEADS["depth"]), (depth, HEADS["dpm"]), (dpm, nn.Conv2d(4, 5, 1))):
        with pytest.raises(ShapeError, match="head"):
            objective(b["features"], head, b["teacher_depth"], b["valid_mask"])
