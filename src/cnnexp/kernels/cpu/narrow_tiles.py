"""The inner loops of a convolution of few channels, written as LLVM instructions.

    sums     out[o, p] = start[o] + Σ_t source[reads[t] + p] · weights[t, o]      a register a vector of p
             of pairs of bfloat16: the products of both are added to out[o, p] at once
    shares   out[t, o] = Σ_n Σ_p source[n, reads[t] + p] · grads[n, o, p]         a register a pair (t, o)
             of bfloat16: two neighbours are multiplied at once

Positions p run on through all rows of a padded image, so that vectors are full whatever the width of a row
and the number of channels. Of ``sums`` each position is a sum of its own; a sum of ``shares`` has a fixed
number of lanes, one for every so many positions, which are added up in a fixed order in the end, and LLVM
lays them into the registers of the machine. So no bit depends on how many sums run side by side, nor on
the machine.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnexp.kernels.cpu.depthwise_pixels import number_of
from cnnexp.kernels.cpu.depthwise_tables import LANES  # of a share as well
from cnnexp.kernels.cpu.numba_internals import (
    counted_loop,
    data_of,
    register_of,
    size_in_bytes,
    void,
)
from cnnexp.kernels.cpu.pairs import dot
from cnnexp.kernels.cpu.vector import VECTOR_BYTES, fused_multiply_add, splat, vector_type

__all__ = ["LANES", "SHARES", "SPARE", "TILES", "shares_of", "sums_of"]

_INDEX, _WORD = ir.IntType(64), ir.IntType(32)
_N = types.intp
_WIDE = VECTOR_BYTES == 64  # there are 32 registers, else 16

# output channels whose sums are in registers together, and vectors of each
TILES = (
    ((8, 3), (6, 4), (4, 6), (2, 9), (1, 9)) if _WIDE else ((6, 2), (4, 3), (3, 3), (2, 4), (1, 8))
)
# taps and output channels whose shares are; of the second not more outputs are than there are left
SHARES = ((4, 4), (7, 2)) if _WIDE else ((3, 2), (3, 2))
SPARE = (
    max(taps for taps, _ in SHARES) - 1
)  # taps after the last that are summed, and read by nobody


class _Code:
    """The code of one call of an intrinsic, whose sums are vectors of ``kind``.

    What is multiplied is of this kind as well; or pairs of bfloat16 where argument ``read`` holds them: as 32
    bits, or as 16, of which a pair then begins at each.
    """

    def __init__(
        self, context: Any, builder: ir.IRBuilder, kinds: Any, arguments: Any, kind: Any, read: int
    ) -> None:
        self.context, self.builder, self.kinds, self.arguments = context, builder, kinds, arguments
        self.kind, self.align = kind, kinds[read].dtype.bitwidth // 8
        self.pairs = kinds[read].dtype in (types.uint16, types.uint32)
        self.factors = ir.VectorType(_WORD, kind.count) if self.pairs else kind

    def index(self, number: int) -> Any:
        return ir.Constant(_INDEX, number)

    def pointer(self, array: int, at: Any) -> Any:
        """To element ``at`` of the argument ``array``."""
        at = self.index(at) if isinstance(at, int) else at
        data = data_of(self.context, self.builder, self.kinds[array], self.arguments[array])
        return self.builder.gep(data, [at])

    def off(self, start: Any, step: Any, times: int = 1) -> Any:
        """The pointer ``start`` moved by so many times ``step``, an int or a value."""
        if isinstance(step, int):
            return self.builder.gep(start, [self.index(step * times)])
        return self.builder.gep(start, [self.builder.mul(step, self.index(times))])

    def load(self, start: Any) -> Any:
        """The vector of factors from ``start`` on."""
        place = self.builder.bitcast(start, self.factors.as_pointer())
        return self.builder.load(place, align=self.align)

    def store(self, vector: Any, start: Any) -> None:
        """Leave a vector of sums at ``start``."""
        place = self.builder.bitcast(start, self.kind.as_pointer())
        self.builder.store(vector, place, align=size_in_bytes(self.context, self.kind.element))

    def spread(self, scalar: Any, kind: Any) -> Any:
        return splat(self.builder, scalar, kind)

    def registers(self, begin: list[Any]) -> list[Any]:
        made = [register_of(self.builder, self.kind) for _ in begin]
        for register, value in zip(made, begin, strict=True):
            self.builder.store(value, register)
        return made

    def add(self, one: Any, other: Any, register: Any) -> None:
        """``register`` += ``one`` · ``other``, rounded once; the products of pairs, rounded twice."""
        if self.pairs:
            total = dot(self.builder, self.builder.load(register), one, other)
            self.builder.store(total, register)
            return
        function = fused_multiply_add(self.builder, self.kind)
        factors = [one, other, self.builder.load(register)]
        self.builder.store(self.builder.call(function, factors), register)

    def totals(self, vectors: list[Any]) -> Any:
        """A vector of the sums over the lanes of each of ``vectors``, at most as many as there are lanes.

        Halves are added until there is one number, of all vectors at once: a vector holds what is left of
        one, then of two, of four.
        """
        lanes = self.kind.count
        nothing = ir.Constant(self.kind, ir.Undefined)
        left, size = [*vectors, *[nothing] * (lanes - len(vectors))], lanes
        while len(left) > 1:
            size //= 2
            first = [at for at in range(2 * lanes) if at // size % 2 == 0]
            halves = [
                ir.Constant(ir.VectorType(_WORD, lanes), [at + half for at in first])
                for half in (0, size)
            ]
            pairs, shuffle = zip(left[::2], left[1::2], strict=True), self.builder.shuffle_vector
            left = [
                self.builder.fadd(shuffle(one, other, halves[0]), shuffle(one, other, halves[1]))
                for one, other in pairs
            ]
        return left[0]


def sums_of(outputs: int, vectors: int) -> Any:
    """The intrinsic ``sums`` of so many output channels, and so many vectors of positions."""

    @intrinsic
    def sums(
        typing_context, out, to, step, source, reads, count, weights, w_at, start, start_at, tiles
    ):
        """out[to + o·step + p] = start[start_at + o] + Σ_t source[reads[t] + p]·weights[w_at + t·N + o].

        N is ``outputs``; t runs over ``count``, p over ``tiles`` times ``vectors`` vectors.
        """
        signature = types.void(out, _N, _N, source, reads, _N, weights, _N, start, _N, _N)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            kind = vector_type(signature.args[0])
            code = _Code(context, builder, signature.args, arguments, kind, 3)
            _, to, step, _, _, count, _, w_at, _, start_at, tiles = arguments
            source, table, to = code.pointer(3, 0), code.pointer(4, 0), code.pointer(0, to)
            taps, first = code.pointer(6, w_at), code.pointer(8, start_at)
            begin = [code.spread(builder.load(code.off(first, o)), kind) for o in range(outputs)]
            totals = code.registers([each for each in begin for _ in range(vectors)])
            with counted_loop(builder, tiles) as tile:
                shift = builder.mul(tile.index, code.index(vectors * kind.count))
                of_tile = builder.gep(source, [shift])
                for o, value in enumerate(begin):
                    for v in range(vectors):
                        builder.store(value, totals[o * vectors + v])
                with counted_loop(builder, count) as t:
                    read = builder.gep(of_tile, [builder.load(builder.gep(table, [t.index]))])
                    values = [code.load(code.off(read, v * kind.count)) for v in range(vectors)]
                    row = builder.gep(taps, [builder.mul(t.index, code.index(outputs))])
                    for o in range(outputs):
                        tap = code.spread(builder.load(code.off(row, o)), code.factors)
                        for v, value in enumerate(values):
                            code.add(tap, value, totals[o * vectors + v])
                there = builder.gep(to, [shift])
                for o in range(outputs):
                    line = code.off(there, step, o)
                    for v in range(vectors):
                        total = builder.load(totals[o * vectors + v])
                        code.store(total, code.off(line, v * kind.count))
            return void(context)

        return signature, codegen

    return sums


def shares_of(taps: int, outputs: int) -> Any:
    """The intrinsic ``shares`` of so many taps and output channels, together at most ``LANES``."""

    @intrinsic
    def shares(typing_context, out, to, source, reads, tap, grads, at, step, count, images, steps):
        """out[to + t·outputs + o] = Σ_n Σ_p source[reads[tap + t] + p + n·a] · grads[at + o·step + p + n·b].

        t runs over ``taps``, o over ``outputs``, p over ``count`` times ``LANES``, of bfloat16 twice as
        many, n over ``images``; ``steps`` is (a, b).
        """
        signature = types.void(out, _N, source, reads, _N, grads, _N, _N, _N, _N, steps)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            kind = ir.VectorType(number_of(signature.args[0]), LANES)
            numbers = 2 * LANES if signature.args[2].dtype == types.uint16 else LANES
            code = _Code(context, builder, signature.args, arguments, kind, 2)
            _, to, _, _, tap, _, at, step, count, images, steps = arguments
            table, grads, to = code.pointer(3, tap), code.pointer(5, at), code.pointer(0, to)
            begin = [code.pointer(2, builder.load(code.off(table, t))) for t in range(taps)]
            of_output = [code.off(grads, step, o) for o in range(outputs)]
            apart = [builder.extract_value(steps, which) for which in (0, 1)]
            zero = ir.Constant(kind, [0.0] * LANES)
            totals = code.registers([zero] * (taps * outputs))
            with counted_loop(builder, images) as n:
                of_image = [builder.mul(n.index, each) for each in apart]
                with counted_loop(builder, count) as s:
                    shift = builder.mul(s.index, code.index(numbers))
                    in_source, in_grads = (builder.add(each, shift) for each in of_image)
                    values = [code.load(builder.gep(each, [in_grads])) for each in of_output]
                    for t, start in enumerate(begin):
                        read = code.load(builder.gep(start, [in_source]))
                        for o, value in enumerate(values):
                            code.add(read, value, totals[t * outputs + o])
            all_of = code.totals([builder.load(total) for total in totals])
            for k in range(len(totals)):
                one = builder.extract_element(all_of, ir.Constant(_WORD, k))
                builder.store(one, code.off(to, k))
            return void(context)

        return signature, codegen

    return shares
