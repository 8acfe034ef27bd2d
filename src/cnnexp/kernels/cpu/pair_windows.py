"""The inner loops of a convolution with max-pool in bfloat16, written as LLVM instructions (AVX512_BF16).

    out[i, o] = start[o] + Σ_t image[field i, t] · weights[t, o]        rounded to bfloat16

t runs over pairs of neighbours in memory, which one instruction multiplies with the same pair of weights of
sixteen output channels. Eight fields have their sums in registers side by side, so that what is read of the
weights is used eight times. See ``pairs``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnexp.geometry.pooling import DEAD
from cnnexp.kernels.cpu.memory import Memory
from cnnexp.kernels.cpu.numba_internals import (
    BFloatType,
    counted_loop,
    declared,
    register_of,
    void,
)
from cnnexp.kernels.cpu.pairs import dot
from cnnexp.kernels.cpu.vector import splat

__all__ = ["CHANNELS", "FIELDS", "maximum_of_fields", "sums_of_fields"]

FIELDS = 8  # whose sums are in registers together
CHANNELS = 32  # of the output, of each of them
_INDEX, _WORD, _SHORT, _BYTE = (ir.IntType(bits) for bits in (64, 32, 16, 8))
_LANES = 16  # sums in a register
_VECTORS = CHANNELS // _LANES
_FLOATS, _WORDS = ir.VectorType(ir.FloatType(), _LANES), ir.VectorType(_WORD, _LANES)
_ROUNDED = ir.VectorType(BFloatType(), _LANES)


def _starts(memory: Memory, array: int, first: Any, last: Any) -> list[Any]:
    """Where the fields ``first`` … begin; one off the image is read at 0, after the last that again."""
    builder, starts = memory.builder, []
    for i in range(FIELDS):
        number = builder.add(first, ir.Constant(_INDEX, i))
        number = builder.select(builder.icmp_signed("<", number, last), number, last)
        start = memory.load(array, number, _INDEX, 8)
        on_image = builder.icmp_signed(">=", start, ir.Constant(_INDEX, 0))
        starts.append(builder.select(on_image, start, ir.Constant(_INDEX, 0)))
    return starts


def _sums_from(memory: Memory, array: int, channel: Any) -> list[list[Any]]:
    """Registers for the sums of each field, which begin with what ``array`` has for the channels."""
    builder, sums = memory.builder, []
    places = [builder.add(channel, ir.Constant(_INDEX, v * _LANES)) for v in range(_VECTORS)]
    begin = [memory.load(array, place, _FLOATS, 4) for place in places]
    for _ in range(FIELDS):
        sums.append([register_of(builder, _FLOATS) for _ in begin])
        for register, value in zip(sums[-1], begin, strict=True):
            builder.store(value, register)
    return sums


def _add_pairs(memory: Memory, pixels: list[Any], at: Any, sums: list[list[Any]]) -> None:
    """Add to the sums of each field its pair of ``pixels`` times those of the weights from ``at`` on."""
    builder = memory.builder
    places = [builder.add(at, ir.Constant(_INDEX, v * CHANNELS)) for v in range(_VECTORS)]
    kernels = [memory.load(11, place, _WORDS, 4) for place in places]
    for both, of_field in zip(pixels, sums, strict=True):
        spread = splat(builder, both, _WORDS)
        for kernel, register in zip(kernels, of_field, strict=True):
            builder.store(dot(builder, builder.load(register), kernel, spread), register)


def _rounded(builder: ir.IRBuilder, sums: Any) -> Any:
    """Sixteen float32 → the bits of the nearest bfloat16."""
    kind = ir.FunctionType(_ROUNDED, [_FLOATS])
    function = declared(builder, "llvm.x86.avx512bf16.cvtneps2bf16.512", kind)
    return builder.bitcast(builder.call(function, [sums]), ir.VectorType(_SHORT, _LANES))


@intrinsic
def sums_of_fields(
    typing_context,
    out,
    to,
    image,
    places,
    first,
    last,
    groups,
    count,
    rows,
    step,
    pairs,
    weights,
    at,
    start,
    channel,
):
    """out[to + i·CHANNELS + o] = the sum of field ``first`` + i with the kernel of channel ``channel`` + o.

    Fields begin at image[places[…]], up to ``places[last]``, and consist of ``rows`` pieces, ``step`` apart,
    from each of ``count`` groups on, of so many ``pairs`` each. The weights begin at ``at``: for each pair of
    a field the ``CHANNELS`` pairs that it is multiplied with. All arrays are pointers.
    """
    n = types.intp
    layout = groups, n, n, n, n
    signature = types.void(out, n, image, places, n, n, *layout, weights, n, start, n)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        memory = Memory(context, builder, signature.args, arguments)
        _, to, _, _, first, last, _, count, rows, step, pairs, _, at, _, channel = arguments
        starts = _starts(memory, 3, first, last)
        sums = _sums_from(memory, 13, channel)
        weight = register_of(builder, _INDEX)
        builder.store(at, weight)
        with counted_loop(builder, count) as group, counted_loop(builder, rows) as row:
            piece = memory.load(6, group.index, _INDEX, 8)
            piece = builder.add(piece, builder.mul(row.index, step))
            reads = [
                builder.bitcast(memory.element(2, builder.add(start, piece)), _WORD.as_pointer())
                for start in starts
            ]
            with counted_loop(builder, pairs) as pair:
                here = builder.load(weight)
                both = [builder.load(builder.gep(r, [pair.index]), align=2) for r in reads]
                _add_pairs(memory, both, here, sums)
                builder.store(builder.add(here, ir.Constant(_INDEX, 2 * CHANNELS)), weight)
        for i, of_field in enumerate(sums):
            for v, register in enumerate(of_field):
                end = builder.add(to, ir.Constant(_INDEX, i * CHANNELS + v * _LANES))
                memory.store(_rounded(builder, builder.load(register)), 0, end, 2)
        return void(context)

    return signature, codegen


@intrinsic
def maximum_of_fields(typing_context, sums, at, places, first, size, output, codes, to):
    """The maximum of the ReLU of ``size`` elements of a window in output[to + …], and which it is in codes.

    Of ``CHANNELS`` channels each, bits of bfloat16; the elements stand one after the other from ``at`` on,
    those off the image have ``places[first + …]`` < 0. As torch: the first of equals, a NaN over everything.
    """
    n = types.intp
    signature = types.void(sums, n, places, n, n, output, codes, n)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        memory = Memory(context, builder, signature.args, arguments)
        _, at, _, first, size, _, _, to = arguments
        shorts, bytes_kind = ir.VectorType(_SHORT, CHANNELS), ir.VectorType(_BYTE, CHANNELS)
        best, winner = register_of(builder, shorts), register_of(builder, bytes_kind)
        builder.store(ir.Constant(shorts, [0] * CHANNELS), best)
        builder.store(ir.Constant(bytes_kind, [DEAD] * CHANNELS), winner)
        with counted_loop(builder, size) as loop:
            place = memory.load(2, builder.add(first, loop.index), _INDEX, 8)
            on_image = builder.icmp_signed(">=", place, ir.Constant(_INDEX, 0))
            value = memory.load(0, memory.ahead(at, loop.index, CHANNELS), shorts, 2)
            # of two that are not negative the larger has the larger bits; those of a negative are negative
            larger = builder.icmp_signed(">", value, builder.load(best))
            absolute = builder.and_(value, ir.Constant(shorts, [0x7FFF] * CHANNELS))
            is_nan = builder.icmp_signed(">", absolute, ir.Constant(shorts, [0x7F80] * CHANNELS))
            some = ir.VectorType(ir.IntType(1), CHANNELS)
            wins = builder.and_(builder.or_(larger, is_nan), splat(builder, on_image, some))
            # a NaN without its sign, by which it would be less than all that follow
            builder.store(builder.select(wins, absolute, builder.load(best)), best)
            here = splat(builder, builder.trunc(loop.index, _BYTE), bytes_kind)
            builder.store(builder.select(wins, here, builder.load(winner)), winner)
        memory.store(builder.load(best), 5, to, 2)
        memory.store(builder.load(winner), 6, to, 1)
        return void(context)

    return signature, codegen
