"""The fused head on CUDA: `dpm_terms` in three Triton kernels, with its gradient.

Nothing of the size [B,K,H,W] is held: the logits of a tile of pixels are computed in blocks of bins, where they are
needed, in the forward and again in the backward pass. Between the two live the inputs and four float32 maps of one
number a pixel. Triton is imported when the first call is made; the package works without it.

Deterministic: the same inputs on the same device give the same bits. Weight and bias gradients are float32 sums over a
number of chunks of pixels that depends on the shapes alone, added up in order; no atomics.

Arithmetic: float32 but for the operands of the matrix products. Features of float32 are multiplied in float32, or in
TF32 where `torch.set_float32_matmul_precision` allows it. For bfloat16 and float16 features the weight is rounded to
their dtype, as autocast does; in the backward pass the logits' gradient is rounded to bfloat16 or, for float16, which
could not hold its range, cut to TF32 (10 bits, too).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import os
from typing import Any, NamedTuple, cast

import torch
from torch.autograd.function import once_differentiable

SWITCH = "TIEKD_TRITON"
"""Environment variable: 0 switches the Triton kernels off."""

HEAD_PROGRAMS = 512
"""About how many programs share the weight gradient: two and more for each multiprocessor of the largest GPU."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Blocks(NamedTuple):
    """Sizes of a program's blocks (powers of two, >= 16), and how it is compiled.

    Attributes:
        pixels, bins: of a block of logits.
        channels: of one step of its sum over channels.
        out: channels of a block of a gradient.
        num_warps, num_stages: of the program.
    """

    pixels: int
    bins: int
    channels: int
    out: int
    num_warps: int
    num_stages: int


def use_triton(features: torch.Tensor) -> bool:
    """Whether `dpm_terms_triton` is to serve these features.

    They must be float32, bfloat16 or float16 on an NVIDIA device of compute capability 8.0 (A100, RTX 30) or newer,
    triton must be importable, and the environment variable TIEKD_TRITON must not be 0.
    """
    if features.device.type != "cuda" or features.dtype not in DTYPES or torch.version.cuda is None:
        return False
    if os.environ.get(SWITCH) == "0" or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(features.device) >= (8, 0)


def dpm_terms_triton(
    features: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    teacher_depth: torch.Tensor,
    weights: torch.Tensor,
    bin_centers: torch.Tensor,
    sigma: float,
    sigma_share: float,
    form: str,
    with_kl: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(weighted KL at each pixel, expected student depth), each [B,1,H,W] float32; inputs already checked.

    Differentiable in features, weight and bias.

    Args:
        features: [B,C,H,W] float32, bfloat16 or float16; of any strides (other layouts than contiguous and
            channels_last are copied).
        weight: [K,C,1,1] of the 1x1 convolution to the logits; bias: [K].
        teacher_depth: [B,T,H,W] metres, inside the bins where the weight is not 0.
        weights: [B,T,H,W] each teacher's share of each pixel; 0 = its depth there does not count, whatever it is.
        bin_centers: [K] metres.
        sigma: metres; the width of the DPM at depth d is max(sigma, sigma_share * d).
        sigma_share: see sigma.
        form: `released` or `gaussian`.
        with_kl: False where only the depth is wanted: the KL is 0 then.
    Source: the formulas of `dpm_kl` and `dpm_to_depth`, with the gradient written out.
    """
    return cast(
        "tuple[torch.Tensor, torch.Tensor]",
        _Terms.apply(  # type: ignore[no-untyped-call]
            features, weight, bias, teacher_depth, weights, bin_centers, sigma, sigma_share, form, with_kl
        ),
    )


def blocks(dtype: torch.dtype, channels: int) -> Blocks:
    """The blocks for features of this dtype and number of channels, the same for all kernels.

    Chosen so that programs keep their blocks in registers on compute capability 8.0 and 9.0, and take at most 32 KB of
    shared memory; not tuned by measurement.
    """
    width = max(16, 1 << (channels - 1).bit_length())
    if dtype == torch.float32:
        return Blocks(32, 32, min(width, 32), min(width, 64), num_warps=4, num_stages=2)
    return Blocks(64, 32, min(width, 32), min(width, 128), num_warps=4, num_stages=2)


def precisions(dtype: torch.dtype) -> dict[str, Any]:
    """Dtypes and precisions of the matrix products, as the kernels' arguments, for features of this dtype."""
    tl = importlib.import_module("triton.language")
    if dtype == torch.float32:
        exact = torch.get_float32_matmul_precision() == "highest"
        operand, precision = tl.float32, "ieee" if exact else "tf32"
        grad_operand, grad_precision = operand, precision
    elif dtype == torch.bfloat16:
        operand, precision = tl.bfloat16, "tf32"
        if os.environ.get("TRITON_INTERPRET") == "1":  # it cannot multiply bfloat16; float32 holds them exactly
            operand = tl.float32
        grad_operand, grad_precision = operand, precision
    else:
        operand, precision = tl.float16, "tf32"
        grad_operand, grad_precision = tl.float32, "tf32"
    return {
        "OPERAND": operand,
        "PRECISION": precision,
        "GRAD_OPERAND": grad_operand,
        "GRAD_PRECISION": grad_precision,
    }


class _Terms(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        teacher_depth: torch.Tensor,
        weights: torch.Tensor,
        bin_centers: torch.Tensor,
        sigma: float,
        sigma_share: float,
        form: str,
        with_kl: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        flat = features.flatten(2)
        batch, _, num_pixels = flat.shape
        num_teachers = teacher_depth.shape[1]
        inputs = [
            flat,
            weight.flatten(1).to(features.dtype).contiguous(),
            bias.float().contiguous(),
            bin_centers.to(features.device, torch.float32).contiguous(),
            teacher_depth.float().contiguous(),
            weights.float().contiguous(),
        ]
        kl_map, student_depth, log_norm, constant = (
            torch.zeros((batch, 1, *features.shape[2:]), dtype=torch.float32, device=features.device) for _ in range(4)
        )
        teacher_norm = torch.empty((batch, num_teachers, num_pixels), dtype=torch.float32, device=features.device)
        call = _Call(flat, len(bias), num_teachers, (float(sigma), float(sigma_share)), form, with_kl)
        call.launch(
            "forward_kernel",
            (batch * call.sample_tiles,),
            [*inputs, kl_map, student_depth, log_norm, teacher_norm, constant],
            [num_pixels, call.sample_tiles, *flat.stride()],
        )
        ctx.save_for_backward(*inputs, log_norm, teacher_norm, student_depth, constant)
        ctx.call, ctx.size = call, features.shape[2:]
        ctx.dtypes = weight.dtype, bias.dtype
        return kl_map, student_depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_kl: torch.Tensor, grad_depth: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        *inputs, log_norm, teacher_norm, student_depth, constant = ctx.saved_tensors
        flat, matrix = inputs[:2]
        call: _Call = ctx.call
        (num_bins, channels), (batch, _, num_pixels) = matrix.shape, flat.shape
        # d depth / d logit_k = p_k (c_k - depth)
        everywhere = (grad_kl * constant - grad_depth * student_depth).contiguous()
        maps = [*inputs, log_norm, teacher_norm, everywhere, grad_depth.contiguous(), grad_kl.contiguous()]
        sizes = [num_pixels, call.sample_tiles, *flat.stride()]
        num_tiles, out_blocks = batch * call.sample_tiles, _ceil(channels, call.blocks.out)
        grad_features = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_flat = torch.empty_like(flat)
            call.launch(
                "features_gradient_kernel", (num_tiles, out_blocks), [*maps, grad_flat], [*sizes, *grad_flat.stride()]
            )
            grad_features = grad_flat.view(batch, channels, *ctx.size)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            bin_blocks = _ceil(num_bins, call.blocks.bins)
            chunk_tiles = _ceil(num_tiles, max(1, HEAD_PROGRAMS // (bin_blocks * out_blocks)))
            chunks = _ceil(num_tiles, chunk_tiles)
            weight_parts = torch.empty((chunks, num_bins, channels), dtype=torch.float32, device=flat.device)
            bias_parts = torch.empty((chunks, num_bins), dtype=torch.float32, device=flat.device)
            grid = (bin_blocks, out_blocks, chunks)
            out = [weight_parts, bias_parts]
            call.launch("head_gradient_kernel", grid, [*maps, *out], [*sizes, num_tiles, chunk_tiles])
            grad_weight = weight_parts.sum(0)[:, :, None, None].to(ctx.dtypes[0])
            grad_bias = bias_parts.sum(0).to(ctx.dtypes[1])
        return grad_features, grad_weight, grad_bias, *[None] * 7


class _Call:
    """What the launches of one call have in common: features [B,C,pixels], K bins, T teachers, widths and form."""

    def __init__(
        self, flat: torch.Tensor, num_bins: int, num_teachers: int, sigmas: tuple[float, float], form: str, kl: bool
    ) -> None:
        self.device, self.sigmas = flat.device, sigmas
        self.blocks = blocks(flat.dtype, flat.shape[1])
        self.sample_tiles = _ceil(flat.shape[2], self.blocks.pixels)
        self.constants = {
            "K": num_bins,
            "C": flat.shape[1],
            "T": num_teachers,
            "RELEASED": form == "released",
            "WITH_KL": kl,
            "BLOCK_P": self.blocks.pixels,
            "BLOCK_K": self.blocks.bins,
            "BLOCK_C": self.blocks.channels,
            "num_warps": self.blocks.num_warps,
            "num_stages": self.blocks.num_stages,
            "enable_fp_fusion": True,
            **precisions(flat.dtype),
        }

    def launch(self, kernel: str, grid: tuple[int, ...], tensors: list[torch.Tensor], sizes: list[int]) -> None:
        """Run a kernel of `fused_triton_kernels` over a grid of programs, on the tensors' device."""
        kernels = importlib.import_module("tiekd_cache.losses.fused_triton_kernels")
        constants = dict(self.constants)
        if kernel == "forward_kernel":
            del constants["GRAD_OPERAND"], constants["GRAD_PRECISION"]
        else:
            constants["BLOCK_OUT"] = self.blocks.out
        on_device = torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext()
        with on_device:
            getattr(kernels, kernel)[grid](*tensors, *sizes, *self.sigmas, **constants)


def _ceil(count: int, size: int) -> int:
    return math.ceil(count / size)
