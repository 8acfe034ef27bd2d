"""Inner loops of the CPU kernels in bfloat16, written as LLVM instructions (AVX512_BF16).

    acc[i] += weights[j] · source[offset_j + i] + weights[j + 1] · source[offset_{j+1} + i]

One instruction (``vdpbf16ps``) multiplies sixteen pairs of bfloat16 and adds both products to sixteen
float32 sums, twice the products of a float32 multiply-add. The two factors of a pair must be neighbours in
memory, and those of two winners are not: the 32 numbers of one are interleaved with those of the other in
registers, which also is one instruction for sixteen pairs. That works within each quarter of a register, so
the sums of 32 neighbours come out in another order: the first, third, fifth and seventh four of them, then
the others.

bfloat16 is a bit pattern here, uint16. numba caches a compiled kernel by the kernel's own file: after a
change here, touch the files that call it, ``pairs_sparse.py`` and ``pairs_forward.py``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from cnnexp.geometry.pooling import DEAD
from cnnexp.kernels.cpu.numba_internals import (
    BFloatType,
    counted_loop,
    data_of,
    declared,
    register_of,
    void,
)
from cnnexp.kernels.cpu.vector import COMPILE, splat

__all__ = [
    "LANES",
    "Memory",
    "dot",
    "pair_sums_of_rows",
    "winners_by_channel",
    "winners_by_offset",
]

LANES = 32  # bfloat16 in a vector register
_INDEX, _SHORT, _WORD = ir.IntType(64), ir.IntType(16), ir.IntType(32)
_SHORTS = ir.VectorType(_SHORT, LANES)
_HALVES = ir.VectorType(BFloatType(), LANES)
_FLOATS = ir.VectorType(ir.FloatType(), LANES // 2)
_LOW = [8 * quarter + i for quarter in range(4) for i in range(4)]
_HIGH = [i + 4 for i in _LOW]


def _shuffled(builder: ir.IRBuilder, one: Any, other: Any, order: list[int]) -> Any:
    mask = ir.Constant(ir.VectorType(_WORD, len(order)), order)
    return builder.shuffle_vector(one, other, mask)


def _zipped(builder: ir.IRBuilder, one: Any, other: Any, lanes: list[int]) -> Any:
    """One lane of ``one``, the same of ``other``, and so on."""
    return _shuffled(builder, one, other, [i for lane in lanes for i in (lane, LANES + lane)])


class Memory:
    """Loads and stores of vectors in numba arrays of one call of an intrinsic."""

    def __init__(self, context: Any, builder: ir.IRBuilder, kinds: Any, arguments: Any) -> None:
        self.context, self.builder, self.kinds, self.arguments = context, builder, kinds, arguments

    def element(self, array: int, at: Any) -> Any:
        """The pointer to element ``at`` of the argument ``array``."""
        data = data_of(self.context, self.builder, self.kinds[array], self.arguments[array])
        return self.builder.gep(data, [at])

    def ahead(self, start: Any, by: Any, times: int, more: int = 0) -> Any:
        """``start`` + ``by``·``times`` + ``more``, of indices."""
        step = self.builder.mul(by, ir.Constant(_INDEX, times))
        return self.builder.add(self.builder.add(start, step), ir.Constant(_INDEX, more))

    def load(self, array: int, at: Any, kind: Any, align: int) -> Any:
        """What of the LLVM type ``kind`` begins at element ``at`` of the argument ``array``."""
        return self.builder.load(self._place(array, at, kind), align=align)

    def store(self, value: Any, array: int, at: Any, align: int) -> None:
        """Write ``value`` from element ``at`` of the argument ``array`` on."""
        self.builder.store(value, self._place(array, at, value.type), align=align)

    def _place(self, array: int, at: Any, kind: Any) -> Any:
        return self.builder.bitcast(self.element(array, at), kind.as_pointer())


def dot(builder: ir.IRBuilder, total: Any, one: Any, other: Any) -> Any:
    """``total`` + the sums of the products of neighbours, all three in registers."""
    kind = ir.FunctionType(_FLOATS, [_FLOATS, _HALVES, _HALVES])
    function = declared(builder, "llvm.x86.avx512bf16.dpbf16ps.512", kind)
    halves = [builder.bitcast(each, _HALVES) for each in (one, other)]
    return builder.call(function, [total, *halves])


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
                        read = _zipped(builder, one, other, lanes)
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


def _kept(builder: ir.IRBuilder, values: Any, mask: Any) -> Any:
    """The lanes of ``values`` where ``mask`` is set, one after the other from lane 0 on."""
    kind = values.type
    name = f"llvm.experimental.vector.compress.v{kind.count}i16"
    function = declared(builder, name, ir.FunctionType(kind, [kind, mask.type, kind]))
    return builder.call(function, [values, mask, ir.Constant(kind, ir.Undefined)])


def _number_set(builder: ir.IRBuilder, mask: Any) -> Any:
    bits = builder.bitcast(mask, ir.IntType(mask.type.count))
    return builder.zext(builder.ctpop(bits), _INDEX)


def _short(builder: ir.IRBuilder, index: Any, kind: ir.VectorType) -> Any:
    return splat(builder, builder.trunc(index, _SHORT), kind)


@intrinsic
def winners_by_channel(
    typing_context, codes, grads, at, step, valid, window, base, entries, weights, to, apart, counts
):
    """Append to the lists of 16 channels what of up to 32 pooled positions is alive.

    Codes and gradients of position r, 16 channels, begin at ``at`` + r·``step``; r < ``valid`` ≤ 32. Winner k
    of position r in channel o becomes entry ``base`` + r·``window`` + k, and its gradient, of the list that
    begins at ``to`` + o·``apart`` and has counts[o] elements; 32 are written, alive or not.
    """
    n = types.intp
    signature = types.void(codes, grads, n, n, n, n, n, entries, weights, n, n, counts)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        memory = Memory(context, builder, signature.args, arguments)
        _, _, at, step, valid, window, base, _, _, to, apart, _ = arguments
        last = builder.sub(valid, ir.Constant(_INDEX, 1))
        row_kind = ir.VectorType(_SHORT, 16)
        wins, shares = [], []
        for first in range(0, 32, 2):
            pair = []
            for row in (ir.Constant(_INDEX, first), ir.Constant(_INDEX, first + 1)):
                inside = builder.icmp_signed("<", row, last)
                start = builder.add(at, builder.mul(builder.select(inside, row, last), step))
                code = memory.load(0, start, ir.VectorType(ir.IntType(8), 16), 1)
                pair.append((builder.zext(code, row_kind), memory.load(1, start, row_kind, 2)))
            for made, (one, other) in zip((wins, shares), zip(*pair, strict=True), strict=True):
                made.append(_shuffled(builder, one, other, list(range(32))))
        wins, shares = (_transposed(builder, each) for each in (wins, shares))
        lanes = ir.Constant(_SHORTS, list(range(32)))
        inside = builder.icmp_unsigned("<", lanes, _short(builder, valid, _SHORTS))
        entry = builder.mul(lanes, _short(builder, window, _SHORTS))
        entry = builder.add(entry, _short(builder, base, _SHORTS))
        for o, (code, share) in enumerate(zip(wins, shares, strict=True)):
            alive = builder.icmp_unsigned("!=", code, ir.Constant(_SHORTS, [DEAD] * 32))
            mask = builder.and_(alive, inside)
            place = memory.element(11, ir.Constant(_INDEX, o))
            count = builder.load(place)
            end = builder.add(memory.ahead(to, apart, o), count)
            memory.store(_kept(builder, builder.add(entry, code), mask), 7, end, 2)
            memory.store(_kept(builder, share, mask), 8, end, 2)
            builder.store(builder.add(count, _number_set(builder, mask)), place)
        return void(context)

    return signature, codegen


def _transposed(builder: ir.IRBuilder, rows: list[Any]) -> list[Any]:
    """32 rows of 16 numbers, two in a vector → 16 vectors of 32."""
    for _ in range(5):  # each brings the first bit of a number's place to the end
        rows = [
            _zipped(builder, one, other, list(range(half, half + 16)))
            for one, other in zip(rows[:8], rows[8:], strict=True)
            for half in (0, 16)
        ]
    return rows


@intrinsic
def winners_by_offset(
    typing_context, codes, grads, at, channel, window, entries, weights, apart, counts
):
    """Append to the lists of the ``window`` offsets which of 16 channels of one position won there.

    Codes and gradients begin at ``at``, the first of them of the channel ``channel``. Channel and gradient go
    to the list that begins at k·``apart`` and has counts[k] elements; 16 are written, winners or not.
    """
    n = types.intp
    signature = types.void(codes, grads, n, n, n, entries, weights, n, counts)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        memory = Memory(context, builder, signature.args, arguments)
        _, _, at, channel, window, _, _, apart, _ = arguments
        bytes_kind, kind = ir.VectorType(ir.IntType(8), 16), ir.VectorType(_SHORT, 16)
        code, share = memory.load(0, at, bytes_kind, 1), memory.load(1, at, kind, 2)
        channels = builder.add(ir.Constant(kind, list(range(16))), _short(builder, channel, kind))
        with counted_loop(builder, window) as loop:
            k = splat(builder, builder.trunc(loop.index, ir.IntType(8)), bytes_kind)
            mask = builder.icmp_unsigned("==", code, k)
            place = memory.element(8, loop.index)
            count = builder.load(place)
            end = builder.add(builder.mul(apart, loop.index), count)
            memory.store(_kept(builder, channels, mask), 5, end, 2)
            memory.store(_kept(builder, share, mask), 6, end, 2)
            builder.store(builder.add(count, _number_set(builder, mask)), place)
        return void(context)

    return signature, codegen
