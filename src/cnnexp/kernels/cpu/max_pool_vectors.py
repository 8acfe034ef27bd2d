"""The inner loops of max-pooling, written as LLVM instructions: channels of a window, or windows in a row.

    winners_of     y[c] = max_k x[pixel(k), c], and the code of the element that is it
    share, add     ∂L/∂x[pixel(k), c] = ∂L/∂y[c] where element k won, else 0; or is added to what stands there
    picked         x[pixel(k), c] of the element k that won
    winners_along  y[q] = max_k x[offset(k) + q·stride], and the code of the element that is it

What numba makes of a Python loop over the channels is one number at a time where there are few of them, and
reads and writes the greatest so far for each element. Here it stays in a register, and so many channels as a
power of two up to ``_LANES`` are taken at once: 12 are 8 and 4. bfloat16 is compared as float32 and copied as
its 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnexp.kernels.cpu.depthwise_pixels import number_of
from cnnexp.kernels.cpu.numba_internals import counted_loop, register_of, size_in_bytes, void

__all__ = ["add", "picked", "share", "winners_along_of", "winners_of"]

_LANES = 16
_INDEX, _WORD, _BYTE, _HALF = (ir.IntType(bits) for bits in (64, 32, 8, 16))
_N = types.intp


class _Channels:
    """The code of one call of an intrinsic, for ``count`` channels from ``first`` on."""

    def __init__(self, context: Any, builder: ir.IRBuilder, first: Any, count: int) -> None:
        self.context, self.builder, self.first, self.count = context, builder, first, count

    def vector(self, element: Any) -> Any:
        return ir.VectorType(element, self.count)

    def place(self, start: Any, element: Any) -> tuple[Any, int]:
        """Where the channels of a pixel are whose first number ``start`` points to, and its alignment."""
        at = self.builder.gep(start, [self.first])
        kind = self.vector(element).as_pointer()
        return self.builder.bitcast(at, kind), size_in_bytes(self.context, element)

    def load(self, start: Any, element: Any) -> Any:
        place, align = self.place(start, element)
        return self.builder.load(place, align=align)

    def store(self, value: Any, start: Any, element: Any) -> None:
        place, align = self.place(start, element)
        self.builder.store(value, place, align=align)

    def wide(self, value: Any) -> Any:
        """bfloat16 as float32, any other number as it is."""
        if value.type.element != _HALF:
            return value
        words = self.vector(_WORD)
        shifted = self.builder.shl(self.builder.zext(value, words), self.all(16, _WORD))
        return self.builder.bitcast(shifted, self.vector(ir.FloatType()))

    def compare(self, found: Any, greatest: Any) -> Any:
        """Where ``found`` wins over the greatest so far: the first of equals, a NaN over everything."""
        wins = self.builder.fcmp_ordered(">", found, greatest)
        return self.builder.or_(wins, self.builder.fcmp_unordered("uno", found, found))

    def every(self, start: Any, stride: int | Any, element: Any) -> Any:
        """The numbers that are ``stride`` apart, an int or a value, from the place of the first on."""
        number = ir.Constant(_INDEX, stride) if isinstance(stride, int) else stride
        start = self.builder.gep(start, [self.builder.mul(self.first, number)])
        align = size_in_bytes(self.context, element)
        if isinstance(stride, int):
            kind = ir.VectorType(element, self.count * stride)
            row = self.builder.load(self.builder.bitcast(start, kind.as_pointer()), align=align)
            places = [lane * stride for lane in range(self.count)]
            return self.builder.shuffle_vector(row, row, ir.Constant(self.vector(_WORD), places))
        made: Any = ir.Constant(self.vector(element), ir.Undefined)
        for lane in range(self.count):
            at = self.builder.gep(start, [self.builder.mul(number, ir.Constant(_INDEX, lane))])
            made = self.builder.insert_element(
                made, self.builder.load(at), ir.Constant(_WORD, lane)
            )
        return made

    def all(self, number: Any, element: Any) -> Any:
        """A vector of one number, a Python number or a value."""
        kind = self.vector(element)
        if not isinstance(number, ir.Value):
            return ir.Constant(kind, [number] * self.count)
        empty, zero = ir.Constant(kind, ir.Undefined), ir.Constant(_WORD, 0)
        zeros = ir.Constant(self.vector(_WORD), [0] * self.count)
        first = self.builder.insert_element(empty, number, zero)
        return self.builder.shuffle_vector(first, empty, zeros)


def _each(
    context: Any, builder: ir.IRBuilder, channels: Any, code: Callable[[_Channels], None]
) -> None:
    """Build ``code`` for all ``channels``: so many lanes at a time, then the rest by halves."""
    lanes = ir.Constant(_INDEX, _LANES)
    with counted_loop(builder, builder.sdiv(channels, lanes)) as loop:
        code(_Channels(context, builder, builder.mul(loop.index, lanes), _LANES))
    count = _LANES // 2
    while count:
        bit = builder.and_(channels, ir.Constant(_INDEX, count))
        with builder.if_then(builder.icmp_signed("!=", bit, ir.Constant(_INDEX, 0))):
            # what is before it is a multiple of twice as many
            first = builder.and_(channels, ir.Constant(_INDEX, -2 * count))
            code(_Channels(context, builder, first, count))
        count //= 2


def _pixel(builder: ir.IRBuilder, pixels: Any, at: Any) -> Any:
    return builder.load(builder.gep(pixels, [at]))


@intrinsic
def winners_of(typing_context, source, pixels, first, size, codes, best, won, channels):
    """The maxima of those of ``size`` pixels, from ``pixels[first]`` on, that are on the image, at least one.

    As torch: the first of equals, a NaN over everything. All are pointers or numbers; ``best`` and ``won``
    get a number and a byte a channel.
    """
    number = number_of(source)
    signature = types.void(source, pixels, _N, _N, codes, best, won, _N)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, pixels, first, size, codes, best, won, channels = arguments

        def code(some: _Channels) -> None:
            kinds = some.vector(number), some.vector(_WORD), ir.IntType(1)
            greatest, winner, begun = (register_of(builder, kind) for kind in kinds)
            builder.store(ir.Constant(kinds[0], None), greatest)
            builder.store(ir.Constant(kinds[1], None), winner)
            builder.store(ir.Constant(kinds[2], 0), begun)
            with counted_loop(builder, size) as k:
                pixel = _pixel(builder, pixels, builder.add(first, k.index))
                inside = builder.icmp_signed(">=", pixel, ir.Constant(_INDEX, 0))
                with builder.if_then(inside):
                    at = builder.gep(source, [builder.mul(pixel, channels)])
                    value = some.load(at, number)
                    before = builder.load(greatest)
                    found, known = some.wide(value), some.wide(before)
                    new = builder.not_(builder.load(begun))
                    wins = builder.or_(some.compare(found, known), some.all(new, ir.IntType(1)))
                    sign = builder.zext(builder.load(builder.gep(codes, [k.index])), _WORD)
                    builder.store(builder.select(wins, value, before), greatest)
                    builder.store(
                        builder.select(wins, some.all(sign, _WORD), builder.load(winner)), winner
                    )
                    builder.store(ir.Constant(ir.IntType(1), 1), begun)
            some.store(builder.load(greatest), best, number)
            some.store(builder.trunc(builder.load(winner), some.vector(_BYTE)), won, _BYTE)

        _each(context, builder, channels, code)
        return void(context)

    return signature, codegen


def _spread(adds: bool) -> Any:
    @intrinsic
    def spread(typing_context, grad, won, pixels, first, size, codes, target, channels):
        """Hand ``grad``, a number a channel, to the pixels of ``target`` that won, and 0 to the others."""
        number, of_target = number_of(grad), number_of(target)
        signature = types.void(grad, won, pixels, _N, _N, codes, target, _N)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            grad, won, pixels, first, size, codes, target, channels = arguments

            def code(some: _Channels) -> None:
                value, winner = some.load(grad, number), some.load(won, _BYTE)
                value = some.wide(value) if of_target != number else value
                nothing = ir.Constant(value.type, None)
                winner = builder.zext(winner, some.vector(_WORD))
                with counted_loop(builder, size) as k:
                    pixel = _pixel(builder, pixels, builder.add(first, k.index))
                    inside = builder.icmp_signed(">=", pixel, ir.Constant(_INDEX, 0))
                    with builder.if_then(inside):
                        at = builder.gep(target, [builder.mul(pixel, channels)])
                        sign = builder.zext(builder.load(builder.gep(codes, [k.index])), _WORD)
                        wins = builder.icmp_unsigned("==", winner, some.all(sign, _WORD))
                        share = builder.select(wins, value, nothing)
                        if adds:
                            share = builder.fadd(some.load(at, of_target), share)
                        some.store(share, at, of_target)

            _each(context, builder, channels, code)
            return void(context)

        return signature, codegen

    return spread


share, add = _spread(False), _spread(True)


@intrinsic
def picked(typing_context, source, won, pixels, first, size, codes, to, channels):
    """``to[c]`` becomes the number of ``source`` that won: the transpose of ``share`` and ``add``."""
    number = number_of(source)
    signature = types.void(source, won, pixels, _N, _N, codes, to, _N)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, won, pixels, first, size, codes, to, channels = arguments

        def code(some: _Channels) -> None:
            found = register_of(builder, some.vector(number))
            builder.store(ir.Constant(some.vector(number), None), found)
            winner = builder.zext(some.load(won, _BYTE), some.vector(_WORD))
            with counted_loop(builder, size) as k:
                pixel = _pixel(builder, pixels, builder.add(first, k.index))
                inside = builder.icmp_signed(">=", pixel, ir.Constant(_INDEX, 0))
                with builder.if_then(inside):
                    value = some.load(builder.gep(source, [builder.mul(pixel, channels)]), number)
                    sign = builder.zext(builder.load(builder.gep(codes, [k.index])), _WORD)
                    wins = builder.icmp_unsigned("==", winner, some.all(sign, _WORD))
                    builder.store(builder.select(wins, value, builder.load(found)), found)
            some.store(builder.load(found), to, number)

        _each(context, builder, channels, code)
        return void(context)

    return signature, codegen


def winners_along_of(stride: int | None) -> Any:
    """The intrinsic ``winners_along`` for windows that are ``stride`` apart; None for those of any."""

    @intrinsic
    def winners_along(
        typing_context, source, apart, offsets, codes, size, firsts, best, won, columns
    ):
        """The maxima of ``columns`` windows, which are ``apart``, and the codes of the elements.

        Element k of the first stands at ``offsets[k]``, and ``columns · apart`` numbers after it can be read.
        Where all of a window is −∞ its code is that of ``firsts``.
        """
        number, of_best = number_of(source), number_of(best)
        signature = types.void(source, _N, offsets, codes, _N, firsts, best, won, _N)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            source, apart, offsets, codes, size, firsts, best, won, columns = arguments
            step = apart if stride is None else stride

            def code(some: _Channels) -> None:
                greatest = register_of(builder, some.vector(number))
                winner = register_of(builder, some.vector(_WORD))
                builder.store(some.all(float("-inf"), number), greatest)
                first = builder.zext(some.load(firsts, _BYTE), some.vector(_WORD))
                builder.store(first, winner)
                with counted_loop(builder, size) as k:
                    offset = builder.load(builder.gep(offsets, [k.index]))
                    value = some.every(builder.gep(source, [offset]), step, number)
                    known = builder.load(greatest)
                    wins = some.compare(value, known)
                    sign = builder.zext(builder.load(builder.gep(codes, [k.index])), _WORD)
                    builder.store(builder.select(wins, value, known), greatest)
                    builder.store(
                        builder.select(wins, some.all(sign, _WORD), builder.load(winner)), winner
                    )
                found = builder.load(greatest)
                if of_best != number:  # bits that were a bfloat16's before
                    found = builder.bitcast(found, some.vector(_WORD))
                    found = builder.trunc(
                        builder.lshr(found, some.all(16, _WORD)), some.vector(_HALF)
                    )
                some.store(found, best, of_best)
                some.store(builder.trunc(builder.load(winner), some.vector(_BYTE)), won, _BYTE)

            _each(context, builder, columns, code)
            return void(context)

        return signature, codegen

    return winners_along
