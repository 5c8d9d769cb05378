"""The compiled loops of reading give numpy's bits, whatever shape and values; numpy takes over without numba."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numcodecs import Blosc

from tiekd_cache import machine_code
from tiekd_cache.errors import RangeError
from tiekd_cache.machine_code import compile_kept
from tiekd_cache.store import chunks
from tiekd_cache.store.chunks import decode_chunk, encode_chunk, with_crc
from tiekd_cache.store.codec import MISSING_CODE, dequantise, lorenzo_encode, quantise
from tiekd_cache.store.kernels import CompiledKernels, NumpyKernels, kernels
from tiekd_cache.store.resize import _axis

pytest.importorskip("numba", reason="numba cannot be imported here")

ROOT = Path(__file__).resolve().parents[1]
Codes = npt.NDArray[np.uint16]
COMPILED, NUMPY = kernels(), NumpyKernels()

# Widths on both sides of the vectors' 16 and 64 lanes.
sizes = st.tuples(st.integers(1, 12), st.integers(1, 200) | st.sampled_from([15, 16, 17, 63, 64, 65, 80, 128, 144]))


@given(
    residual=hnp.arrays(np.uint16, sizes),
    step=st.integers(-10, 2).map(lambda exponent: 2.0**exponent),
    min_depth=st.floats(1e-4, 3.0),
)
@example(residual=np.full((3, 209), 65535, np.uint16), step=1 / 64, min_depth=1e-3)
@example(residual=np.zeros((1, 1), np.uint16), step=1 / 64, min_depth=1 / 64)
def test_decoding_is_numpys_to_the_bit(residual: Codes, step: float, min_depth: float) -> None:
    expected_codes, codes = residual.copy(), residual.copy()
    expected, depth = np.full((2, *residual.shape), np.float32(-1))
    NUMPY.decode(expected_codes, expected, step, min_depth)
    COMPILED.decode(codes, depth, step, min_depth)
    assert np.array_equal(codes, expected_codes)
    assert np.array_equal(depth.view(np.uint32), expected.view(np.uint32))
    alone = residual.copy()
    COMPILED.codes(alone)
    assert np.array_equal(alone, expected_codes)


@given(
    hnp.arrays(np.uint16, sizes, elements=st.sampled_from([0, 1, 5120, 32767, 32768, MISSING_CODE - 1, MISSING_CODE]))
)
def test_what_was_encoded_comes_back(codes: Codes) -> None:
    for loops in (NUMPY, COMPILED):
        decoded, depth = lorenzo_encode(codes), np.empty(codes.shape, np.float32)
        loops.decode(decoded, depth, 1 / 64, 1e-3)
        assert np.array_equal(decoded, codes)
        assert np.array_equal(depth, dequantise(codes, 1 / 64, 1e-3))


@given(
    planes=st.integers(1, 40).flatmap(lambda eighths: hnp.arrays(np.uint8, 16 * eighths)),
    block=st.integers(1, 40).map(lambda eighths: 8 * eighths),
)
def test_joining_and_splitting_bit_planes_is_numpys_to_the_bit(planes: npt.NDArray[np.uint8], block: int) -> None:
    expected, joined = np.zeros((2, len(planes) // 2), np.uint16)
    NUMPY.join_planes(planes, block, expected)
    COMPILED.join_planes(planes, block, joined)
    assert np.array_equal(joined, expected)
    assert np.array_equal(COMPILED.split_planes(joined, block), planes)
    assert np.array_equal(NUMPY.split_planes(joined, block), planes)


@given(
    codes=hnp.arrays(np.uint16, st.tuples(st.integers(1, 40), st.integers(1, 130))),
    block_bytes=st.sampled_from([128, 512, 2048, 4096]),
    clevel=st.sampled_from([0, 1, 5]),
)
def test_chunks_are_read_alike_with_and_without_numba(codes: Codes, block_bytes: int, clevel: int) -> None:
    # Other levels and block sizes than ours: a store that another encoder wrote is format 1, too.
    chunk = with_crc(Blosc("zstd", clevel, Blosc.BITSHUFFLE, block_bytes).encode(codes))
    for loops in (NUMPY, COMPILED):
        decoded = np.zeros_like(codes)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chunks, "kernels", lambda loops=loops: loops)
            decode_chunk(chunk, decoded)
        assert np.array_equal(decoded, codes)


@given(
    depth=hnp.arrays(np.float32, sizes, elements=st.floats(-2, 100, width=32) | st.sampled_from([0, np.nan, np.inf])),
    only_valid=st.booleans(),
)
def test_encoding_is_numpys_to_the_bit_and_refuses_the_same(depth: npt.NDArray[np.float32], only_valid: bool) -> None:
    if only_valid:
        depth = np.where((depth >= 0.5) & (depth <= 80), depth, np.float32(0))
    try:
        codes, residual = NUMPY.encode(depth, 1 / 64, 0.5, 80.0)
    except RangeError as error:
        with pytest.raises(RangeError, match=re.escape(str(error))):
            COMPILED.encode(depth, 1 / 64, 0.5, 80.0)
        return
    found_codes, found_residual = COMPILED.encode(depth, 1 / 64, 0.5, 80.0)
    assert np.array_equal(found_codes, codes)
    assert np.array_equal(found_residual, residual)


@given(
    codes=hnp.arrays(np.uint16, st.tuples(st.integers(1, 40), st.integers(1, 130)), elements=st.integers(0, 40))
    | hnp.arrays(np.uint16, st.tuples(st.integers(1, 40), st.integers(1, 130))),
    block_bytes=st.sampled_from([128, 512, 2048, 1 << 19]),
)
def test_our_chunks_are_blosc_to_blosc(codes: Codes, block_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "BLOSC_BLOCK_BYTES", block_bytes)
        patch.setattr(chunks, "_SMALLEST", 128)  # below, Blosc itself does not compress
        chunk = encode_chunk(codes)
    assert np.array_equal(np.frombuffer(Blosc().decode(chunk[:-4]), np.uint16), codes.reshape(-1))
    decoded = np.zeros_like(codes)
    decode_chunk(chunk, decoded)
    assert np.array_equal(decoded, codes)


def test_noise_and_flat_maps_are_whole() -> None:
    noise = np.random.default_rng(0).integers(0, 65536, (352, 1216)).astype(np.uint16)
    half_noise = noise.copy()
    half_noise[:220] = 3  # the second block cannot be compressed, the first one can
    for codes in (noise, half_noise, np.zeros_like(noise)):
        chunk = encode_chunk(codes)
        assert len(chunk) <= codes.nbytes + 32
        assert np.array_equal(np.frombuffer(Blosc().decode(chunk[:-4]), np.uint16), codes.reshape(-1))
        decoded = np.ones_like(codes)
        decode_chunk(chunk, decoded)
        assert np.array_equal(decoded, codes)


def test_a_frame_at_kittis_size_with_missing_pixels() -> None:
    rng = np.random.default_rng(0)
    depth = rng.uniform(1e-3, 80, (352, 1216)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.1] = 0
    codes = quantise(depth, 1 / 64, 1e-3, 80.0)
    residual, decoded = lorenzo_encode(codes), np.empty_like(depth)
    COMPILED.decode(residual, decoded, 1 / 64, 1e-3)
    assert np.array_equal(residual, codes)
    assert np.array_equal(decoded == 0, depth == 0)
    assert np.abs(decoded.astype(np.float64) - depth).max() <= 1 / 128


@given(
    source=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    target=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    align_corners=st.booleans(),
    seed=st.integers(0, 99),
)
@example(source=(1, 1), target=(5, 7), align_corners=True, seed=0)
@example(source=(40, 3), target=(1, 1), align_corners=False, seed=0)
def test_resizing_is_numpys_to_the_bit(
    source: tuple[int, int], target: tuple[int, int], align_corners: bool, seed: int
) -> None:
    depth = np.random.default_rng(seed).uniform(1e-3, 80, source).astype(np.float32)
    rows = _axis(source[0], target[0], align_corners)
    columns = _axis(source[1], target[1], align_corners)
    expected, resized = np.full((2, *target), np.float32(-1))
    NUMPY.interpolate(depth, rows, columns, expected)
    COMPILED.interpolate(depth, rows, columns, resized)
    assert np.array_equal(resized.view(np.uint32), expected.view(np.uint32))


def test_numba_is_used_where_it_can_be() -> None:
    assert isinstance(kernels(), CompiledKernels)
    assert kernels() is kernels()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_waits_until_no_thread_is_loading() -> None:
    held = threading.Event()

    def load_slowly() -> None:
        with machine_code._loading:
            held.set()
            time.sleep(0.2)

    thread = threading.Thread(target=load_slowly)
    thread.start()
    held.wait()
    pid = os.fork()
    if not pid:  # the child must find the lock free: no thread of its own would ever release it
        os._exit(0 if machine_code._loading.acquire(blocking=False) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    thread.join()


READ_ONE = """
import sys
{before}
import numpy as np
from tiekd_cache.errors import RangeError
from tiekd_cache.store import chunks
from tiekd_cache.store import kernels as kernels_module
from tiekd_cache.store.chunks import decode_chunk, encode_chunk, with_crc
from tiekd_cache.store.codec import lorenzo_encode
from tiekd_cache.store.kernels import kernels
assert "numba" not in sys.modules or sys.modules["numba"] is None, "numba must be loaded at the first frame only"
codes = np.arange(3 * 70, dtype=np.uint16).reshape(3, 70)
decoded, depth = lorenzo_encode(codes), np.empty((3, 70), np.float32)
kernels().decode(decoded, depth, 0.5, 0.25)
assert (decoded == codes).all() and depth[2, 1] == 70.5 and depth[0, 0] == 0.25
print(type(kernels()).__name__)
"""


def read_one(root: Path, before: str = "", **environment: str) -> str:
    """Decode a frame in a process of its own; returns which loops did it."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", READ_ONE.format(before=before)],
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_numba_numpy_does_it() -> None:
    assert read_one(ROOT, before="sys.modules['numba'] = None") == "NumpyKernels"
    assert read_one(ROOT, NUMBA_DISABLE_JIT="1") == "NumpyKernels"


def test_without_a_folder_to_keep_it_in_it_is_compiled_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    real = numba.njit

    def njit(*signature: Any, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(*signature, **options)

    monkeypatch.setattr(numba, "njit", njit)
    signature = numba.types.int64(numba.types.int64)
    assert compile_kept(lambda number: number + 1, signature)(41) == 42


@pytest.mark.slow
def test_a_torn_cache_file_costs_only_time(tmp_path: Path) -> None:
    assert read_one(ROOT, NUMBA_CACHE_DIR=str(tmp_path)) == "CompiledKernels"
    kept = list(tmp_path.rglob("*.nb*"))
    assert kept, "nothing was kept for the next process"
    for file in kept:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert read_one(ROOT, NUMBA_CACHE_DIR=str(tmp_path)) == "CompiledKernels"
