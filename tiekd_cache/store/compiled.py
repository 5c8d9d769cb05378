"""The inner loops of reading a frame, compiled by numba; `kernels.py` holds the same in numpy and chooses.

A running sum looks serial, one pixel after the other. Within a vector it is not: adding the vector to itself shifted
by 1, 2, 4, … pixels sums it in a few steps, and only the last lane is carried on. No compiler finds that by itself, so
these steps are spelled out in LLVM's vector operations, which exist on every processor; the rest is plain numba.
Measured at 352 x 1216 pixels: 0.15 ms, against 0.88 ms for the plain loop and 1.7 ms for numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tiekd_cache.machine_code import compile_kept
from tiekd_cache.store.codec import MISSING_CODE

_WIDE, _NARROW = 64, 16

_INT32 = ir.IntType(32)


def _splat(builder: Any, value: Any, vector: Any) -> Any:
    """A vector that holds one value in every lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    first_lane = ir.Constant(ir.VectorType(_INT32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(builder.insert_element(undefined, value, _INT32(0)), undefined, first_lane)


def constant(vector: Any, value: float) -> Any:
    """A vector that holds one number in every lane."""
    return ir.Constant(vector, [value] * vector.count)


def _running_sum(builder: Any, residual: Any) -> Any:
    """Lane i: the sum of lanes 0..i of the residual, its zigzag undone; wraps at 16 bits."""
    vector = residual.type
    lanes, zero, one = vector.count, constant(vector, 0), constant(vector, 1)
    negative = builder.sub(zero, builder.and_(residual, one))
    total = builder.xor(builder.lshr(residual, one), negative)
    shift = 1
    while shift < lanes:
        # Lanes of the second operand are numbered from `lanes` on; the first `shift` lanes become 0.
        source = [lanes + i - shift if i >= shift else i for i in range(lanes)]
        shifted = builder.shuffle_vector(zero, total, ir.Constant(ir.VectorType(_INT32, lanes), source))
        total = builder.add(total, shifted)
        shift *= 2
    return total


def _to_metres(builder: Any, codes: Any, step: Any, min_depth: Any) -> Any:
    """max(code * step, min_depth) in float32; 0 where the code says missing."""
    lanes = codes.type.count
    floats = ir.VectorType(ir.FloatType(), lanes)
    wide = builder.zext(codes, ir.VectorType(_INT32, lanes))
    depth = builder.fmul(builder.sitofp(wide, floats), _splat(builder, step, floats))
    lowest = _splat(builder, min_depth, floats)
    depth = builder.select(builder.fcmp_ordered(">", depth, lowest), depth, lowest)
    missing = builder.icmp_unsigned("==", codes, constant(codes.type, MISSING_CODE))
    return builder.select(missing, constant(floats, 0.0), depth)


def _decoder(lanes: int) -> Any:
    """A function for numba: decodes `lanes` pixels of a row in place, and returns the row's sum so far.

    Its arguments: addresses of the residual, of the codes above it and of the metres to write; the row's sum before;
    step; min_depth.
    """
    vector = ir.VectorType(ir.IntType(16), lanes)
    floats = ir.VectorType(ir.FloatType(), lanes)

    def decode(
        context: Any, here: Any, above: Any, metres: Any, before: Any, step: Any, min_depth: Any
    ) -> tuple[Any, Any]:
        address, number = types.voidptr, types.float32
        signature = types.uint16(address, address, address, types.uint16, number, number)

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            here, above, metres, before, step, min_depth = values
            place = builder.bitcast(here, vector.as_pointer())
            total = _running_sum(builder, builder.load(place, align=2))
            after = builder.add(builder.extract_element(total, _INT32(lanes - 1)), before)
            total = builder.add(total, _splat(builder, before, vector))
            codes = builder.add(total, builder.load(builder.bitcast(above, vector.as_pointer()), align=2))
            builder.store(codes, place, align=2)
            depth = _to_metres(builder, codes, step, min_depth)
            builder.store(depth, builder.bitcast(metres, floats.as_pointer()), align=4)
            return after

        return signature, generate

    return intrinsic(decode)


def _address(context: Any, array: Any, index: Any) -> Any:
    """For numba: where an element of a contiguous array of one dimension lies."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.bitcast(builder.gep(data, [values[1]]), ir.IntType(8).as_pointer())

    return types.voidptr(array, types.intp), generate


address_of = intrinsic(_address)
_decode_wide = _decoder(_WIDE)
_decode_narrow = _decoder(_NARROW)


def _decode_frame(residual: Any, depth: Any, step: Any, min_depth: Any) -> None:
    height, width = residual.shape
    codes, metres = residual.reshape(-1), depth.reshape(-1)
    outside = np.zeros(width, np.uint16)
    wide = width - width % _WIDE
    narrow = width - width % _NARROW
    for i in range(height):
        row = i * width
        total = np.uint16(0)
        for j in range(0, wide, _WIDE):
            above = address_of(codes, row - width + j) if i else address_of(outside, j)
            total = _decode_wide(address_of(codes, row + j), above, address_of(metres, row + j), total, step, min_depth)
        for j in range(wide, narrow, _NARROW):
            above = address_of(codes, row - width + j) if i else address_of(outside, j)
            total = _decode_narrow(
                address_of(codes, row + j), above, address_of(metres, row + j), total, step, min_depth
            )
        for j in range(narrow, width):
            value = codes[row + j]
            total = np.uint16(total + np.uint16((value >> 1) ^ -(value & 1)))
            code = np.uint16(total + (codes[row - width + j] if i else np.uint16(0)))
            codes[row + j] = code
            metres[row + j] = np.float32(0) if code == MISSING_CODE else max(np.float32(code) * step, min_depth)


def _encode_frame(depth: Any, scale: Any, min_depth: Any, max_depth: Any, codes: Any, residual: Any) -> bool:
    height, width = depth.shape
    good = True
    outside = np.zeros(width, np.uint16)
    for i in range(height):
        metres, row, left_over = depth[i], codes[i], residual[i]
        above = codes[i - 1] if i else outside
        for j in range(width):
            value = metres[j]
            missing = value == 0
            inside = (value >= min_depth) & (value <= max_depth)
            good &= missing | inside
            code = np.uint16(np.int32(np.rint(np.float64(value) * scale if inside else 0.0)))
            row[j] = np.uint16(MISSING_CODE) if missing else code
        for j in range(width):
            change = np.uint16(row[j] - above[j])
            if j:
                change = np.uint16(change - np.uint16(row[j - 1] - above[j - 1]))
            left_over[j] = np.uint16(change << 1) ^ np.uint16(np.int16(change) >> 15)
    return good


def _interpolate(
    source: Any,
    first_row: Any,
    second_row: Any,
    first_row_weight: Any,
    second_row_weight: Any,
    first_column: Any,
    second_column: Any,
    first_column_weight: Any,
    second_column_weight: Any,
    result: Any,
) -> None:
    # Each row of the source is widened once and serves all rows of the result that lie near it; four together, because
    # looking up the columns costs more than blending them. Two groups of four hold any two neighbouring rows.
    last, width = source.shape[0] - 1, result.shape[1]
    rows = np.empty((8, width), np.float32)
    held = np.full(2, -1, np.int64)
    for i in range(result.shape[0]):
        above, below = np.int64(first_row[i]), np.int64(second_row[i])
        for group in (above // 4, below // 4):
            if held[group % 2] == group:
                continue
            held[group % 2] = group
            at = 4 * (group % 2)
            a, b = source[4 * group], source[min(4 * group + 1, last)]
            c, d = source[min(4 * group + 2, last)], source[min(4 * group + 3, last)]
            for j in range(width):
                left, right = first_column[j], second_column[j]
                left_weight, right_weight = first_column_weight[j], second_column_weight[j]
                rows[at, j] = a[left] * left_weight + a[right] * right_weight
                rows[at + 1, j] = b[left] * left_weight + b[right] * right_weight
                rows[at + 2, j] = c[left] * left_weight + c[right] * right_weight
                rows[at + 3, j] = d[left] * left_weight + d[right] * right_weight
        upper, lower, blended = rows[above % 8], rows[below % 8], result[i]
        upper_weight, lower_weight = first_row_weight[i], second_row_weight[i]
        for j in range(width):
            blended[j] = upper[j] * upper_weight + lower[j] * lower_weight


def _sum_image(differences: Any, image: Any) -> None:
    # The three planes side by side: three sums that do not wait for each other.
    for i in range(image.shape[0]):
        red, green, blue, row = differences[0, i], differences[1, i], differences[2, i], image[i]
        r = g = b = np.uint8(0)
        for j in range(image.shape[1]):
            r, g, b = np.uint8(r + red[j]), np.uint8(g + green[j]), np.uint8(b + blue[j])
            row[j, 0], row[j, 1], row[j, 2] = r, g, b


_MAP, _PLACES, _WEIGHTS = types.float32[:, ::1], types.uint64[::1], types.float32[::1]
_AXIS = (_PLACES, _PLACES, _WEIGHTS, _WEIGHTS)

decode_frame = compile_kept(_decode_frame, types.void(types.uint16[:, ::1], _MAP, types.float32, types.float32))
interpolate = compile_kept(_interpolate, types.void(_MAP, *_AXIS, *_AXIS, _MAP))
encode_frame = compile_kept(
    _encode_frame,
    types.boolean(
        types.float32[:, ::1], types.float64, types.float32, types.float32, types.uint16[:, ::1], types.uint16[:, ::1]
    ),
)
sum_image = compile_kept(
    _sum_image, types.void(types.Array(types.uint8, 3, "C", readonly=True), types.uint8[:, :, ::1])
)
