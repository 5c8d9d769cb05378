"""The Triton head equals the oracle in Triton's interpreter, and its kernels compile for GPUs that are not there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from triton_cases import CASES, Case, Errors, errors

from tiekd_cache.losses import fused_triton

pytest.importorskip("triton", minversion="3.7", reason="triton is not installed, or its interpreter is too old")

KERNELS = ("forward_kernel", "features_gradient_kernel", "head_gradient_kernel")
CONTIGUOUS = {"stride_p": 1, "grad_stride_p": 1}
CHANNELS_LAST = {"stride_c": 1, "grad_stride_c": 1}
ONE_TILE = {**CONTIGUOUS, "sample_tiles": 1, "num_tiles": 1, "chunk_tiles": 1}
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    """What `triton_cases.main` prints, run in Triton's interpreter."""
    folders = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": folders, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
    script = Path(__file__).with_name("triton_cases.py")
    # the interpreter warns of inf - inf in bins that a mask then leaves out
    done = subprocess.run([sys.executable, "-W", "ignore", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check(case: Case, found: Errors, slack: float = 1.0) -> None:
    """Tolerances: values as float32 sums in another order have them; gradients by the dtype they come back in."""
    gradient = {"float32": 1e-5 * slack, "bfloat16": 0.01, "float16": 1e-3}[case.dtype]
    assert found.depth <= 1e-4 * slack  # metres; about a millionth of the range
    assert found.kl <= 2e-5 * slack
    assert max(found.features, found.weight, found.bias) <= gradient
    assert found.unweighted_kl == 0
    assert found.dtypes == ["float32"] * 2 + [case.dtype] + [case.head_dtype or case.dtype] * 2
    assert found.repeatable


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_equal_the_oracle(name: str, interpreted: dict[str, Any]) -> None:
    found = Errors(**interpreted["cases"][name])
    check(CASES[name], found, slack=max(1.0, CASES[name].logit_scale / 4))
    assert found.same_strides or CASES[name].layout != "channels_last"


@pytest.mark.slow
def test_triton_is_not_imported_before_it_is_used(interpreted: dict[str, Any]) -> None:
    assert interpreted["lazy"]


def build(kernel: str, capability: int, dtype: torch.dtype, channels: int, constants: dict[str, Any]) -> Any:
    """A kernel compiled as a launch would have it compiled, whose numbers that are 1 are among the constants."""
    import triton
    from triton.backends.compiler import GPUTarget

    from tiekd_cache.losses import fused_triton_kernels

    function = getattr(fused_triton_kernels, kernel)
    blocks = fused_triton.blocks(dtype, channels)
    constants = {
        **{"C": channels, "WITH_KL": True, "BLOCK_OUT": blocks.out},
        **{"BLOCK_P": blocks.pixels, "BLOCK_K": blocks.bins, "BLOCK_C": blocks.channels},
        **fused_triton.precisions(dtype),
        **constants,
    }
    signature, attributes = {}, {}
    for i, name in enumerate(function.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        if name in ("sigma", "sigma_share"):
            signature[name] = "fp32"
        elif "stride" in name or "tiles" in name or name == "num_pixels":
            signature[name] = "i32"
        else:
            signature[name] = POINTERS[dtype] if name in ("features", "matrix", "grad_features") else "*fp32"
        if name not in ("sigma", "sigma_share") and "tiles" not in name:
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = triton.compiler.ASTSource(
        function, signature, {n: v for n, v in constants.items() if n in signature}, attributes
    )
    options = {"num_warps": blocks.num_warps, "num_stages": blocks.num_stages, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def compile_and_check(kernel: str, capability: int, dtype: torch.dtype, channels: int, **constants: Any) -> None:
    """Machine code is made, and takes at most 32 KB of shared memory and 128 bytes of spilled registers a thread."""
    import triton

    built = build(kernel, capability, dtype, channels, constants)
    assert len(built.asm["cubin"]) > 0
    assert built.metadata.shared <= 32 * 1024
    tool = Path(triton.__path__[0]) / "backends" / "nvidia" / "bin" / "cuobjdump"
    if tool.is_file():
        code = Path(os.environ["TRITON_CACHE_DIR"]) / "code.cubin"
        code.write_bytes(built.asm["cubin"])
        usage = subprocess.run([tool, "-res-usage", code], capture_output=True, text=True, check=True).stdout
        stack = re.search(r"STACK:(\d+)", usage)
        assert stack is not None
        assert int(stack[1]) <= 128


@pytest.fixture
def compiler_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that was compiled before counts, and nothing is left behind."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("compiler_cache")
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_compile_without_a_gpu(kernel: str) -> None:
    compile_and_check(kernel, 80, torch.bfloat16, 128, K=257, T=1, RELEASED=True, **CONTIGUOUS)


@pytest.mark.slow
@pytest.mark.usefixtures("compiler_cache")
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("dtype", "channels", "bins", "teachers", "released", "numbers"),
    [
        (torch.float32, 128, 257, 1, True, CONTIGUOUS),
        (torch.float32, 8, 49, 2, False, ONE_TILE),
        (torch.bfloat16, 128, 257, 1, False, CHANNELS_LAST),
        (torch.bfloat16, 512, 1024, 3, True, {}),
        (torch.float16, 128, 257, 2, True, CONTIGUOUS),
        (torch.float16, 16, 80, 1, False, ONE_TILE),
    ],
)
def test_kernels_of_every_kind_compile(
    kernel: str,
    capability: int,
    dtype: torch.dtype,
    channels: int,
    bins: int,
    teachers: int,
    released: bool,
    numbers: dict[str, int],
) -> None:
    compile_and_check(kernel, capability, dtype, channels, K=bins, T=teachers, RELEASED=released, **numbers)


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "switch", "triton", "expected"),
    [
        ("cuda", torch.float32, (8, 0), None, True, True),
        ("cuda", torch.bfloat16, (9, 0), "1", True, True),
        ("cuda", torch.float16, (8, 6), None, True, True),
        ("cpu", torch.float32, (8, 0), None, True, False),
        ("cuda", torch.float64, (8, 0), None, True, False),
        ("cuda", torch.float32, (7, 5), None, True, False),
        ("cuda", torch.float32, (8, 0), "0", True, False),
        ("cuda", torch.float32, (8, 0), None, False, False),
    ],
)
def test_when_triton_is_used(
    device: str,
    dtype: torch.dtype,
    capability: tuple[int, int],
    switch: str | None,
    triton: bool,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(fused_triton.importlib.util, "find_spec", lambda name: object() if triton else None)
    if switch is None:
        monkeypatch.delenv("TIEKD_TRITON", raising=False)
    else:
        monkeypatch.setenv("TIEKD_TRITON", switch)
    features: Any = SimpleNamespace(device=torch.device(device), dtype=dtype)
    assert fused_triton.use_triton(features) is expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("form", ["released", "gaussian"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_cuda_equals_the_oracle(form: str, dtype: str) -> None:
    case = Case(form, dtype, size=(2, 128, 242, 704), teachers=1, num_bins=257, sigma=0.8, snapped=True)
    check(case, errors(case, "cuda"), slack=10)  # sums over 340736 pixels
