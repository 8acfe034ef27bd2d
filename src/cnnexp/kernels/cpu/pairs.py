"""Inner loops of the CPU kernels in bfloat16, written as LLVM instructions (AVX512_BF16).

    acc[i] += weights[j] · source[offset_j + i] + weights[j + 1] · source[offset_{j+1} + i]

One instruction (``vdpbf16ps``) multiplies sixteen pairs of bfloat16 and adds both products to sixteen
float32 sums, twice the products of a float32 multiply-add. The two factors of a pair must be neighbours in
memory, and those of two winners are not: the 32 numbers of one are interleaved with those of the other in
registers, which also is one instruction for sixteen pairs. That works within each quarter of a register, so
the sums of 32 neighbours come out in another order: the first, third, fifth and seventh four of them, then
the others.

bfloat16 is a bit pattern here, uint16.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from cnnexp.kernels.cpu.memory import Memory, shuffled, zipped
from cnnexp.kernels.cpu.numba_internals import (
    BFloatType,
    counted_loop,
    declared,
    register_of,
    void,
)
from cnnexp.kernels.cpu.vector import COMPILE, splat

__all__ = ["LANES", "dot", "pair_sums_of_rows", "paired", "rounded"]

LANES = 32  # bfloat16 in a vector register
_INDEX, _SHORT, _WORD = ir.IntType(64), ir.IntType(16), ir.IntType(32)
_SHORTS = ir.VectorType(_SHORT, LANES)
_HALVES = ir.VectorType(BFloatType(), LANES)
_FLOATS = ir.VectorType(ir.FloatType(), LANES // 2)
_LOW = [8 * quarter + i for quarter in range(4) for i in range(4)]
_HIGH = [i + 4 for i in _LOW]


def dot(builder: ir.IRBuilder, total: Any, one: Any, other: Any) -> Any:
    """``total`` + the sums of the products of neighbours, all three in registers."""
    kind = ir.FunctionType(_FLOATS, [_FLOATS, _HALVES, _HALVES])
    function = declared(builder, "llvm.x86.avx512bf16.dpbf16ps.512", kind)
    halves = [builder.bitcast(each, _HALVES) for each in (one, other)]
    return builder.call(function, [total, *halves])


def rounded(builder: ir.IRBuilder, numbers: Any) -> Any:
    """The numbers of a register, in bfloat16, to the nearest and the even one: half a register of 16 bits."""
    kind = ir.FunctionType(ir.VectorType(BFloatType(), LANES // 2), [_FLOATS])
    function = declared(builder, "llvm.x86.avx512bf16.cvtneps2bf16.512", kind)
    return builder.bitcast(builder.call(function, [numbers]), ir.VectorType(_SHORT, LANES // 2))


def paired(builder: ir.IRBuilder, one: Any, other: Any) -> Any:
    """The numbers of two registers, rounded to bfloat16, as pairs: one of each, in 32 bits."""
    kind = ir.FunctionType(_HALVES, [_FLOATS, _FLOATS])
    function = declared(builder, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", kind)
    halves = builder.bitcast(builder.call(function, [other, one]), _SHORTS)
    order = [i for lane in range(LANES // 2) for i in (lane, LANES // 2 + lane)]
    pairs = shuffled(builder, halves, halves, order)
    return builder.bitcast(pairs, ir.VectorType(_WORD, LANES // 2))


def _pair_sums_of(rows: int, vectors: int) -> Any:
    """Sums for ``rows`` rows of ``vectors`` times 32 numbers, each 16 sums in a register of their own."""

    @intrinsic
    def pair_sums(
        typing_context,
        acc,
        acc_at,
        acc_step,
        source,
        source_at,
        source_step,
        table,
        entries,
        weights,
        first,
        pairs,
    ):
        n = types.intp
        signature = types.void(acc, n, n, source, n, n, table, entries, weights, n, n)
        grid = [(row, vector) for row in range(rows) for vector in range(vectors)]

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            memory = Memory(context, builder, signature.args, arguments)
            _, to, to_step, _, at, step, _, _, _, first, pairs = arguments
            places = [
                memory.ahead(to, to_step, row, vector * LANES + half)
                for row, vector in grid
                for half in (0, LANES // 2)
            ]
            registers = [register_of(builder, _FLOATS) for _ in places]
            for register, place in zip(registers, places, strict=True):
                builder.store(memory.load(0, place, _FLOATS, 4), register)
            with counted_loop(builder, pairs) as loop:
                here = memory.ahead(first, loop.index, 2)
                starts = []
                for which in range(2):
                    entry = memory.load(7, memory.ahead(here, here, 0, which), _SHORT, 2)
                    offset = memory.load(6, builder.zext(entry, _INDEX), _INDEX, 8)
                    starts.append(builder.add(at, offset))
                both = memory.load(8, here, _WORD, 2)
                factors = splat(builder, both, ir.VectorType(_WORD, LANES // 2))
                for i, (row, vector) in enumerate(grid):
                    one, other = (
                        memory.load(3, memory.ahead(start, step, row, vector * LANES), _SHORTS, 2)
                        for start in starts
                    )
                    for half, lanes in enumerate((_LOW, _HIGH)):
                        register = registers[2 * i + half]
                        read = zipped(builder, one, other, lanes)
                        total = dot(builder, builder.load(register), read, factors)
                        builder.store(total, register)
            for register, place in zip(registers, places, strict=True):
                memory.store(builder.load(register), 0, place, 4)
            return void(context)

        return signature, codegen

    return pair_sums


_grid_3, _grid_2, _grid_1 = (_pair_sums_of(3, n) for n in (3, 2, 1))
_row_3, _row_2, _row_1 = (_pair_sums_of(1, n) for n in (3, 2, 1))


@njit(**COMPILE)
def pair_sums_of_rows(
    acc,
    acc_at,
    acc_step,
    source,
    source_at,
    source_step,
    rows,
    table,
    entries,
    weights,
    first,
    pairs,
    begin,
    end,
):
    """acc[acc_at + r·acc_step + i] += Σ_j weights[first + j] · source[… + r·source_step + i].

    The source of winner j begins at source_at + table[entries[first + j]]; j runs over 2·``pairs``, r over
    ``rows``, i from ``begin`` to ``end``, multiples of 32; each 32 sums are in the order that is said above.
    """
    if rows == 3:
        to, of, left, by = acc_at + begin, source_at + begin, end - begin, source_step
        while left >= 96:
            _grid_3(acc, to, acc_step, source, of, by, table, entries, weights, first, pairs)
            to, of, left = to + 96, of + 96, left - 96
        if left == 64:
            _grid_2(acc, to, acc_step, source, of, by, table, entries, weights, first, pairs)
        if left == 32:
            _grid_1(acc, to, acc_step, source, of, by, table, entries, weights, first, pairs)
        return
    for row in range(rows):
        to, of = acc_at + row * acc_step + begin, source_at + row * source_step + begin
        left = end - begin
        while left >= 96:
            _row_3(acc, to, 0, source, of, 0, table, entries, weights, first, pairs)
            to, of, left = to + 96, of + 96, left - 96
        if left == 64:
            _row_2(acc, to, 0, source, of, 0, table, entries, weights, first, pairs)
        if left == 32:
            _row_1(acc, to, 0, source, of, 0, table, entries, weights, first, pairs)
