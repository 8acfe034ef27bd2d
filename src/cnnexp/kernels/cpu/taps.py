"""The inner loops of a convolution of few input channels, written as LLVM instructions.

Vectors run along the output channels, and every sum stays in a register: of the forward those of four
elements of a window, of ∂L/∂w those of nine weights. bfloat16 is a bit pattern, uint16, and widened where it
is read.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnexp.geometry.pooling import DEAD
from cnnexp.kernels.cpu.depthwise_pixels import narrowed
from cnnexp.kernels.cpu.numba_internals import counted_loop, data_of, register_of, void
from cnnexp.kernels.cpu.vector import (
    VECTOR_BYTES,
    fused_multiply_add,
    lanes_at,
    splat,
    vector_type,
)

__all__ = ["MOST_TAPS", "alive_of", "shares_of", "window_of"]

_INDEX = ir.IntType(64)
MOST_TAPS = 9 if VECTOR_BYTES == 64 else 5  # of 32 registers or 16


class _Lanes:
    """Loads and stores of vectors of ``lanes`` numbers (None: as many as fit) in numba arrays."""

    def __init__(
        self, context: Any, builder: ir.IRBuilder, kinds: Any, arguments: Any, lanes: int | None
    ) -> None:
        self.context, self.builder, self.kinds, self.arguments = context, builder, kinds, arguments
        full = vector_type(kinds[0])
        self.kind = full if lanes is None else ir.VectorType(full.element, lanes)
        self.bytes = ir.VectorType(ir.IntType(8), self.kind.count)

    def index(self, value: int) -> Any:
        return ir.Constant(_INDEX, value)

    def place(self, array: int, at: Any, kind: Any) -> Any:
        data = data_of(self.context, self.builder, self.kinds[array], self.arguments[array])
        return lanes_at(self.builder, self.builder.gep(data, [at]), 0, kind)

    def scalar(self, array: int, at: Any) -> Any:
        data = data_of(self.context, self.builder, self.kinds[array], self.arguments[array])
        return self.builder.load(self.builder.gep(data, [at]))

    def load(self, array: int, at: Any) -> Any:
        """A vector of numbers, of codes if ``array`` holds bytes, widened if it holds bfloat16."""
        dtype = self.kinds[array].dtype
        if dtype == types.uint8:
            return self.builder.load(self.place(array, at, self.bytes), align=1)
        if dtype != types.uint16:
            return self.builder.load(self.place(array, at, self.kind), align=dtype.bitwidth // 8)
        halves = ir.VectorType(ir.IntType(16), self.kind.count)
        words = ir.VectorType(ir.IntType(32), self.kind.count)
        read = self.builder.zext(self.builder.load(self.place(array, at, halves), align=2), words)
        sixteen = ir.Constant(words, [16] * words.count)
        return self.builder.bitcast(self.builder.shl(read, sixteen), self.kind)

    def store(self, value: Any, array: int, at: Any) -> None:
        if self.kinds[array].dtype == types.uint16:
            value = narrowed(self.builder, value)
        align = 1 if value.type.element == ir.IntType(8) else self.kinds[array].dtype.bitwidth // 8
        self.builder.store(value, self.place(array, at, value.type), align=align)

    def multiply_add(self, scalar: Any, vector: Any, total: Any) -> Any:
        function = fused_multiply_add(self.builder, self.kind)
        return self.builder.call(function, [splat(self.builder, scalar, self.kind), vector, total])

    def starts(self, first: Any, count: Any) -> tuple[list[Any], list[Any]]:
        """Where the fields of four elements of a window begin, and whether these are on the image."""
        builder, starts, inside = self.builder, [], []
        for k in range(4):
            counts = builder.icmp_signed("<", self.index(k), count)
            place = builder.select(counts, builder.add(first, self.index(k)), first)
            start = self.scalar(1, place)
            on_image = builder.icmp_signed(">=", start, self.index(0))
            inside.append(builder.and_(counts, on_image))
            starts.append(builder.select(on_image, start, self.index(0)))
        return starts, inside

    def nothing(self) -> tuple[Any, Any]:
        """Zeros, and the codes of windows that nobody has won."""
        dead = ir.Constant(self.bytes, [DEAD] * self.bytes.count)
        return ir.Constant(self.kind, [0.0] * self.kind.count), dead

    def better(self, each: Any, value: Any, inside: Any) -> Any:
        """Where ``each`` wins over ``value``, as torch: the first of equals, a NaN over everything."""
        builder = self.builder
        larger = builder.fcmp_ordered(">", each, value)
        wins = builder.or_(larger, builder.fcmp_unordered("uno", each, each))
        some = ir.VectorType(ir.IntType(1), self.kind.count)
        return builder.and_(wins, splat(builder, inside, some))

    def code_of(self, number: Any) -> Any:
        """The index ``number`` in a byte of every lane."""
        return splat(self.builder, self.builder.trunc(number, ir.IntType(8)), self.bytes)

    def where_equal(self, one: Any, other: Any, vector: Any) -> Any:
        """``vector`` where two codes are equal, else 0."""
        zero = ir.Constant(self.kind, [0.0] * self.kind.count)
        return self.builder.select(self.builder.icmp_unsigned("==", one, other), vector, zero)

    def sums_from(self, array: int, places: list[Any]) -> list[Any]:
        """Registers that hold what stands at ``places`` of ``array``."""
        registers = [register_of(self.builder, self.kind) for _ in places]
        for register, place in zip(registers, places, strict=True):
            self.builder.store(self.load(array, place), register)
        return registers

    def add(self, scalar: Any, vector: Any, register: Any) -> None:
        """``register`` += ``scalar`` · ``vector``, rounded once."""
        total = self.multiply_add(scalar, vector, self.builder.load(register))
        self.builder.store(total, register)


def window_of(vectors: int, lanes: int | None, whole: bool = False) -> Any:
    """Convolution, bias and maximum of four elements of a window, ``vectors`` of output channels.

    With ``whole`` these are all that it has: nothing is read of the results, which may be of bfloat16.
    """

    @intrinsic
    def window(
        typing_context,
        image,
        places,
        first,
        count,
        reads,
        taps,
        kernels,
        bias,
        channel,
        channels,
        best,
        winner,
        offset,
    ):
        """Update best and winner[channel + i] with ``count`` ≤ 4 elements of a window from ``offset`` on,
        whose receptive fields begin at image[places[first + …]], below 0 off the image.
        """
        n = types.intp
        tensors = image, places, n, n, reads, n, kernels, bias
        signature = types.void(*tensors, n, n, best, winner, n)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            code = _Lanes(context, builder, signature.args, arguments, lanes)
            _, _, first, count, _, taps, _, _, channel, channels, _, _, offset = arguments
            at = [builder.add(channel, code.index(v * code.kind.count)) for v in range(vectors)]
            starts, inside = code.starts(first, count)
            sums = [code.sums_from(7, at) for _ in starts]
            with counted_loop(builder, taps) as loop:
                read = code.scalar(4, loop.index)
                row = builder.mul(loop.index, channels)
                weights = [code.load(6, builder.add(row, to)) for to in at]
                for start, of_element in zip(starts, sums, strict=True):
                    pixel = code.scalar(0, builder.add(start, read))
                    for weight, total in zip(weights, of_element, strict=True):
                        code.add(pixel, weight, total)
            for v, to in enumerate(at):
                value, won = code.nothing() if whole else (code.load(10, to), code.load(11, to))
                for k in range(4):
                    each = builder.load(sums[k][v])
                    wins = code.better(each, value, inside[k])
                    value = builder.select(wins, each, value)
                    here = code.code_of(builder.add(offset, code.index(k)))
                    won = builder.select(wins, here, won)
                code.store(value, 10, to)
                code.store(won, 11, to)
            return void(context)

        return signature, codegen

    return window


def shares_of(taps: int, vectors: int, lanes: int | None) -> Any:
    """∂L/∂w of ``taps`` weights and ``vectors`` of output channels from one image."""

    @intrinsic
    def shares(
        typing_context,
        total,
        to,
        image,
        places,
        positions,
        window,
        reads,
        tap,
        codes,
        grads,
        at,
        channels,
    ):
        """total[to + t·channels + i] += Σ_{l,k} grads[l, i] · [codes[l, i] = k] · image[place(l, k, t)].

        Codes and gradients of position l begin at ``at`` + l·``channels``, its places at l·``window``;
        place(l, k, t) = places[l·window + k] + reads[tap + t].
        """
        n = types.intp
        signature = types.void(total, n, image, places, n, n, reads, n, codes, grads, n, n)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            code = _Lanes(context, builder, signature.args, arguments, lanes)
            _, to, _, _, positions, window, _, tap, _, _, at, channels = arguments
            steps = [code.index(v * code.kind.count) for v in range(vectors)]
            read = [code.scalar(6, builder.add(tap, code.index(t))) for t in range(taps)]
            rows = [builder.add(to, builder.mul(channels, code.index(t))) for t in range(taps)]
            ends = [builder.add(row, step) for row in rows for step in steps]
            sums = code.sums_from(0, ends)
            with counted_loop(builder, positions) as position:
                here = builder.add(at, builder.mul(position.index, channels))
                winners = [code.load(8, builder.add(here, step)) for step in steps]
                gradients = [code.load(9, builder.add(here, step)) for step in steps]
                first = builder.mul(position.index, window)
                with counted_loop(builder, window) as element:
                    place = code.scalar(3, builder.add(first, element.index))
                    on_image = builder.icmp_signed(">=", place, code.index(0))
                    start = builder.select(on_image, place, code.index(0))
                    k = code.code_of(element.index)
                    parts = [
                        code.where_equal(winner, k, gradient)
                        for winner, gradient in zip(winners, gradients, strict=True)
                    ]
                    for t in range(taps):
                        pixel = code.scalar(2, builder.add(start, read[t]))
                        for v, part in enumerate(parts):
                            code.add(pixel, part, sums[t * vectors + v])
            for end, register in zip(ends, sums, strict=True):
                code.store(builder.load(register), 0, end)
            return void(context)

        return signature, codegen

    return shares


def alive_of(vectors: int, lanes: int | None) -> Any:
    """∂L/∂b of ``vectors`` of output channels from one image."""

    @intrinsic
    def alive(typing_context, total, to, codes, grads, at, positions, channels):
        """total[to + i] += Σ_l grads[l, i] · [codes[l, i] ≠ DEAD], position l at ``at`` + l·``channels``."""
        n = types.intp
        signature = types.void(total, n, codes, grads, n, n, n)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            code = _Lanes(context, builder, signature.args, arguments, lanes)
            _, to, _, _, at, positions, channels = arguments
            steps = [code.index(v * code.kind.count) for v in range(vectors)]
            ends = [builder.add(to, step) for step in steps]
            sums = code.sums_from(0, ends)
            dead = ir.Constant(code.bytes, [DEAD] * code.bytes.count)
            nothing = ir.Constant(code.kind, [0.0] * code.kind.count)
            with counted_loop(builder, positions) as position:
                here = builder.add(at, builder.mul(position.index, channels))
                for step, register in zip(steps, sums, strict=True):
                    place = builder.add(here, step)
                    lives = builder.icmp_unsigned("!=", code.load(2, place), dead)
                    grad = builder.select(lives, code.load(3, place), nothing)
                    builder.store(builder.fadd(builder.load(register), grad), register)
            for end, register in zip(ends, sums, strict=True):
                code.store(builder.load(register), 0, end)
            return void(context)

        return signature, codegen

    return alive
