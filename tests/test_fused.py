"""The fused head equals the plain formulas in value and in every gradient, and keeps no [B,K,H,W] tensor."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiekd_cache.dpm import FORMS, SPACINGS, Bins, check_form, depth_to_dpm, dpm_to_depth
from tiekd_cache.errors import ConfigError, RangeError, ShapeError
from tiekd_cache.losses import dpm_kl, fused_dpm_head, fused_tiles, fused_torch
from tiekd_cache.losses import fused as fused_module
from tiekd_cache.losses.masked import masked_mean

BINS = Bins.uniform(1e-3, 80.0, 257)
Terms = tuple[torch.Tensor, torch.Tensor]
"""Mean KL, expected depth."""


def problem(
    batch: int = 2,
    channels: int = 5,
    height: int = 7,
    width: int = 11,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    depth = torch.rand(batch, 1, height, width, generator=g) * 79 + 0.5
    depth[torch.rand(depth.shape, generator=g) < 0.1] = 0
    return {
        "features": torch.randn(batch, channels, height, width, generator=g).to(dtype).requires_grad_(),
        "weight": torch.randn(BINS.num_bins, channels, 1, 1, generator=g).to(dtype).requires_grad_(),
        "bias": torch.randn(BINS.num_bins, generator=g).to(dtype).requires_grad_(),
        "teacher_depth": depth.to(dtype),
        "valid_mask": torch.rand(depth.shape, generator=g) < 0.8,
    }


def plain(
    p: dict[str, torch.Tensor], bins: Bins, sigma: float, form: str, share: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The oracle: convolution, then the formulas of dpm_kl.py and dpm.py."""
    logits = torch.nn.functional.conv2d(p["features"], p["weight"], p["bias"])
    kl_map = dpm_kl(logits, p["teacher_depth"], bins, sigma, form, p["valid_mask"], share)
    present = p["valid_mask"] & (p["teacher_depth"] > 0)
    return masked_mean(kl_map, present), dpm_to_depth(torch.softmax(logits, dim=1), bins)


def fused(p: dict[str, torch.Tensor], bins: Bins, sigma: float, form: str, share: float = 0.0) -> Terms:
    depth, mask = p["teacher_depth"], p["valid_mask"]
    return fused_dpm_head(p["features"], p["weight"], p["bias"], depth, bins, sigma, form, mask, sigma_share=share)


def gradients(outcome: Terms, p: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    kl, depth = outcome
    wave = torch.linspace(-1, 1, depth.numel(), dtype=depth.dtype).view(depth.shape)  # an upstream gradient of its own
    inputs = [p["features"], p["weight"], p["bias"]]
    return list(torch.autograd.grad(3 * kl + (wave * depth).sum(), inputs))


@settings(max_examples=25)
@given(
    st.sampled_from(FORMS), st.sampled_from([0.3, 0.5, 0.8, 5.0]), st.integers(1, 3), st.integers(1, 9),
    st.integers(1, 13), st.integers(0, 1000), st.sampled_from([1, 5, 40, 4096]),
)  # fmt: skip
def test_values_and_gradients_equal_the_plain_formulas(
    form: str, sigma: float, batch: int, height: int, width: int, seed: int, tile: int
) -> None:
    p = problem(batch, 4, height, width, seed, torch.float64)
    before = fused_tiles.CPU_TILE_PIXELS
    try:
        fused_tiles.CPU_TILE_PIXELS = tile
        ours = fused(p, BINS, sigma, form)
        our_gradients = gradients(ours, p)
    finally:
        fused_tiles.CPU_TILE_PIXELS = before
    theirs = plain(p, BINS, sigma, form)
    for mine, other in zip([*ours, *our_gradients], [*theirs, *gradients(theirs, p)], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-7, atol=1e-9)


@pytest.fixture(params=["compiled", "torch"])
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who does the arithmetic of float32 tiles on a CPU."""
    name: str = request.param
    if name == "torch":
        monkeypatch.setattr(fused_tiles, "_arithmetic", fused_torch.TorchTiles)
    else:
        pytest.importorskip("numba", reason="numba cannot be imported here")
        assert fused_tiles.compiled_loops() is not None
    return name


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("form", FORMS)
def test_in_float32_too(form: str) -> None:
    p = problem(2, 32, 20, 30)
    ours, theirs = fused(p, BINS, 0.5, form), plain(p, BINS, 0.5, form)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for mine, other in zip(gradients(ours, p), gradients(theirs, p), strict=True):
        assert (mine - other).abs().max() <= 1e-5 * other.abs().max()


@pytest.mark.parametrize("form", FORMS)
def test_bf16_features_come_near(form: str) -> None:
    p = problem(1, 32, 8, 8)
    half = {**p, **{name: p[name].detach().bfloat16().requires_grad_() for name in ("features", "weight", "bias")}}
    exact = {**half, **{name: half[name].detach().float().requires_grad_() for name in ("features", "weight", "bias")}}
    ours, theirs = fused(half, BINS, 0.8, form), plain(exact, BINS, 0.8, form)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)  # computed in float32 inside
    for mine, other in zip(gradients(ours, half), gradients(theirs, exact), strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine.float() - other).abs().max() <= 0.01 * other.abs().max()  # bf16 has 8 bits


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("bins", "num_teachers", "share"),
    [
        (Bins.uniform(1e-3, 10.0, 9), 1, 0.0),
        (Bins.uniform(1e-3, 10.0, 9), 2, 0.2),
        (Bins.spaced("log", 0.5, 10.0, 9), 2, 0.0),
        (Bins.spaced("inverse", 0.5, 10.0, 9), 1, 0.3),
    ],
    ids=str,
)
def test_gradcheck(form: str, bins: Bins, num_teachers: int, share: float) -> None:
    g = torch.Generator().manual_seed(1)
    inputs = [
        torch.randn(shape, generator=g, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 3, 2, 4), (9, 3, 1, 1), (9,))
    ]
    depth = torch.rand(2, num_teachers, 2, 4, generator=g, dtype=torch.float64) * 9 + 0.5
    mask = torch.rand(depth.shape, generator=g) < 0.7

    def run(f: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return fused_dpm_head(f, w, b, depth, bins, 1.5, form, mask, sigma_share=share)

    assert torch.autograd.gradcheck(run, inputs)


@settings(max_examples=25)
@given(
    st.sampled_from(FORMS), st.sampled_from(SPACINGS), st.sampled_from([0.05, 0.5, 2.0]),
    st.sampled_from([0.0, 0.02, 0.3]), st.sampled_from([1e-3, 1.0]), st.integers(0, 1000),
)  # fmt: skip
def test_every_spacing_and_share_equals_the_plain_formulas(
    form: str, spacing: str, sigma: float, share: float, nearest: float, seed: int
) -> None:
    bins = Bins.spaced(spacing, nearest, 80.0, 65)
    p = problem(1, 4, 6, 9, seed, torch.float64)
    p["weight"], p["bias"] = (p[name].detach()[:65].clone().requires_grad_() for name in ("weight", "bias"))
    p["teacher_depth"] = torch.where(p["teacher_depth"] > 0, p["teacher_depth"].clamp(min=nearest), 0)
    p["teacher_depth"][..., 0, :3] = torch.tensor([nearest, 1.1, 80.0])
    try:
        theirs = plain(p, bins, sigma, form, share)
    except RangeError:  # bins too wide for this sigma, which the fused head must say as well
        with pytest.raises(RangeError, match="too small"):
            fused(p, bins, sigma, form, share)
        return
    ours = fused(p, bins, sigma, form, share)
    for mine, other in zip([*ours, *gradients(ours, p)], [*theirs, *gradients(theirs, p)], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-7, atol=1e-9)


def least_sigma(bins: Bins) -> float:
    """Metres: the smallest that the released form takes with these bins."""
    refused, taken = 1e-3, 10.0
    for _ in range(60):
        sigma = (refused + taken) / 2
        try:
            check_form("released", sigma, bins)
            taken = sigma
        except RangeError:
            refused = sigma
    return taken


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_smallest_sigma_keeps_every_depth_above_the_floor(spacing: str) -> None:
    bins = Bins.spaced(spacing, 1.0, 80.0, BINS.num_bins)
    between = (bins.centers[1:] + bins.centers[:-1]) / 2
    ends = torch.tensor([1.0, 1 - 9e-6, 80.0, 80 * (1 + 9e-6)])
    depth = torch.cat([ends, *(torch.nextafter(between, between + step) for step in (-1, 0, 1))])
    p = problem(1, 4, 1, len(depth))
    p["teacher_depth"], p["valid_mask"] = depth.view(1, 1, 1, -1), torch.ones(1, 1, 1, len(depth), dtype=torch.bool)
    sigma = least_sigma(bins)
    assert depth_to_dpm(p["teacher_depth"], bins, sigma).amax(1).min() > 1.1 / bins.num_bins, (
        "a DPM flat over the whole range"
    )
    ours, theirs = fused(p, bins, sigma, "released"), plain(p, bins, sigma, "released")
    for mine, other in zip([*ours, *gradients(ours, p)], [*theirs, *gradients(theirs, p)], strict=True):
        assert (mine - other).abs().max() <= 1e-4 * other.abs().max()


def test_a_share_is_no_wider_than_it_must_be() -> None:
    near, far = (torch.full((1, 1, 1, 1), depth) for depth in (5.0, 40.0))
    target = fused_module.Target(BINS, 0.5, "released", 0.05)
    sizes = [len(fused_torch._Support(depth.view(1), BINS.centers, target).dpm) for depth in (near, far)]
    assert 27 <= sizes[0] <= 31  # 0.5 m
    assert 107 <= sizes[1] <= 112  # 2 m: below the floor beyond 8.4 sigma


@pytest.mark.parametrize("form", FORMS)
def test_autocast_does_not_reach_into_it(form: str) -> None:
    p = problem(1, 16, 8, 8)
    outside = fused(p, BINS, 0.8, form)
    outside_gradients = gradients(outside, p)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fused(p, BINS, 0.8, form)
        inside_gradients = gradients(inside, p)
        mixed = fused({**p, "features": p["features"].detach().bfloat16()}, BINS, 0.8, form)
    for one, other in zip([*inside, *inside_gradients], [*outside, *outside_gradients], strict=True):
        assert torch.equal(one, other)
    assert mixed[0].dtype == mixed[1].dtype == torch.float32
    torch.testing.assert_close(mixed[1], outside[1], rtol=0.05, atol=0.5)


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("inference", [False, True])
def test_threads_change_nothing_but_the_order_of_sums(inference: bool) -> None:
    p = problem(2, 6, 40, 50)
    threads, tile = torch.get_num_threads(), fused_tiles.CPU_TILE_PIXELS
    outcomes = []
    try:
        fused_tiles.CPU_TILE_PIXELS = 300
        for count in (1, 3, 3):
            torch.set_num_threads(count)
            with torch.inference_mode(inference):
                ours = fused(p, BINS, 0.8, "released")
            outcomes.append([*ours, *([] if inference else gradients(ours, p))])
            assert torch.get_num_threads() == count
    finally:
        fused_tiles.CPU_TILE_PIXELS = tile
        torch.set_num_threads(threads)
    for one, three, again in zip(*outcomes, strict=True):
        assert torch.equal(three, again)  # the same number of threads: the same bits
        assert (one - three).abs().max() <= 1e-5 * one.abs().max()


def test_depths_at_the_ends_of_the_range_and_features_that_are_not_contiguous() -> None:
    p = problem(1, 3, 2, 2, dtype=torch.float64)
    p["teacher_depth"] = torch.tensor([1e-3, 0.2, 79.9, 80.0], dtype=torch.float64).view(1, 1, 2, 2)
    p["valid_mask"] = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    p["features"] = p["features"].detach().transpose(2, 3).requires_grad_()
    for form in FORMS:
        torch.testing.assert_close(fused(p, BINS, 0.8, form), plain(p, BINS, 0.8, form), rtol=1e-8, atol=1e-10)


def test_channels_last_features_get_their_gradient_in_that_layout() -> None:
    p = problem(2, 6, 5, 7)
    expected = gradients(fused(p, BINS, 0.8, "released"), p)
    last = p["features"].detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    ours = gradients(fused({**p, "features": last}, BINS, 0.8, "released"), {**p, "features": last})
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
    for one, other in zip(ours, expected, strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()


@pytest.mark.usefixtures("arithmetic")
def test_no_valid_pixel_gives_zero_and_no_nan() -> None:
    p = problem()
    p["valid_mask"][:] = False
    p["teacher_depth"][:] = torch.nan
    kl, depth = fused(p, BINS, 0.8, "released")
    assert kl == 0
    assert torch.isfinite(depth).all()
    assert all(torch.equal(g, torch.zeros_like(g)) for g in torch.autograd.grad(kl, [p["features"], p["weight"]]))


def test_wrong_shapes_and_depths_are_refused() -> None:
    p = problem()
    with pytest.raises(ShapeError, match=r"head is \[257,"):
        fused(p, Bins.uniform(1e-3, 80, 256), 0.8, "released")
    for wrong in (p["features"][0], p["features"][:, :, :0], p["features"][:0], p["features"].long()):
        with pytest.raises(ShapeError, match=r"Features are .*\[B,C,H,W\]"):
            fused({**p, "features": wrong}, BINS, 0.8, "released")
    with pytest.raises(ShapeError, match="teacher_depth"):
        fused({**p, "teacher_depth": p["teacher_depth"][:, :, 1:]}, BINS, 0.8, "released")
    with pytest.raises(RangeError, match="90"):
        fused({**p, "teacher_depth": torch.full_like(p["teacher_depth"], 90.0)}, BINS, 0.8, "released")


class Made(torch.utils._python_dispatch.TorchDispatchMode):
    """While it is entered, notes of each tensor that is made: by which operation, and how many numbers it has."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, (tuple, list)) else [out]
        self.tensors.extend((str(func), t.numel()) for t in made if torch.is_tensor(t))
        return out


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("wanted", [["features"], ["weight", "bias"], ["features", "weight", "bias"]])
def test_gradients_that_nobody_asks_for_are_not_computed(wanted: list[str]) -> None:
    p = problem(2, 8, 64, 64)
    names = ["features", "weight", "bias"]
    expected = dict(zip(names, gradients(fused(p, BINS, 0.8, "released"), p), strict=True))
    for name in names:
        p[name].requires_grad_(name in wanted)
    kl, depth = fused(p, BINS, 0.8, "released")
    wave = torch.linspace(-1, 1, depth.numel()).view(depth.shape)
    with Made() as made:
        found = torch.autograd.grad(3 * kl + (wave * depth).sum(), [p[name] for name in wanted])
    for name, gradient in zip(wanted, found, strict=True):
        assert torch.equal(gradient, expected[name])
    products = [name for name, _ in made.tensors if "mm" in name]
    tiles = p["features"][:, 0].numel() // fused_tiles.CPU_TILE_PIXELS
    assert len(products) == tiles * (1 + ("features" in wanted) + ("weight" in wanted)), (
        "the logits' and each gradient's"
    )


def test_no_tensor_of_the_size_of_the_dpm_is_made(arithmetic: str) -> None:
    p = problem(2, 8, 64, 64)
    padding = 16 if arithmetic == "compiled" else 0
    # one tile, as conftest has torch use one thread; the whole DPM is eight times that
    limit = (fused_tiles.CPU_TILE_PIXELS + padding) * BINS.num_bins
    with Made() as made:
        gradients(fused(p, BINS, 0.8, "released"), p)
    assert max(size for _, size in made.tensors) == limit


@pytest.mark.parametrize("form", FORMS)
def test_several_teachers_weigh_what_they_should(form: str) -> None:
    p = problem(2, 4, 6, 9, dtype=torch.float64)
    depths = [problem(2, 4, 6, 9, seed)["teacher_depth"].double() for seed in (1, 2, 3)]
    masks = [problem(2, 4, 6, 9, seed)["valid_mask"] for seed in (1, 2, 3)]
    given = (1.0, 3.0, 0.5)
    logits = torch.nn.functional.conv2d(p["features"], p["weight"], p["bias"])
    total, weight_sum = torch.zeros(2, 1, 6, 9, dtype=torch.float64), torch.zeros(2, 1, 6, 9, dtype=torch.float64)
    for depth, mask, w in zip(depths, masks, given, strict=True):
        total = total + w * dpm_kl(logits, depth, BINS, 0.8, form, mask)
        weight_sum += w * (mask & (depth > 0))
    answered = weight_sum > 0
    assert int((~answered).sum()) > 0
    theirs = (total[answered] / weight_sum[answered]).mean(), dpm_to_depth(torch.softmax(logits, 1), BINS)
    ours = fused_dpm_head(
        p["features"], p["weight"], p["bias"], torch.cat(depths, 1), BINS, 0.8, form, torch.cat(masks, 1),
        teacher_weights=given,
    )  # fmt: skip
    for mine, other in zip([*ours, *gradients(ours, p)], [*theirs, *gradients(theirs, p)], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-8)


def test_teacher_weights_are_renormalised_over_the_teachers_that_answer() -> None:
    present = torch.tensor([[True, True, False, False], [True, False, True, False]]).view(1, 2, 1, 4)
    weights = fused_module.pixel_weights(present, (3, 1))
    assert torch.equal(weights[0, :, 0], torch.tensor([[0.75, 1, 0, 0], [0.25, 0, 1, 0]]))
    assert torch.equal(fused_module.pixel_weights(present)[0, :, 0, 0], torch.tensor([0.5, 0.5]))
    assert torch.equal(fused_module.pixel_weights(present, (0, 1))[0, :, 0], torch.tensor([[0.0] * 4, [1, 0, 1, 0]]))
    for wrong in ((1.0,), (1.0, -1.0), (0.0, 0.0), (1.0, float("nan"))):
        with pytest.raises(ConfigError, match="teacher_weights"):
            fused_module.pixel_weights(present, wrong)
