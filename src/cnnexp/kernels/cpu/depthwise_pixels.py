"""What the intrinsics of depthwise convolution are written with: LLVM's vectors of ``LANES`` channels.

    widen_…      images of any kind of number → pixels of float32 or float64
    narrow_…     the other way, rounded once

Whatever the registers of the machine are, a vector has ``LANES`` numbers, which LLVM lays into one, two or
four of them: no bit depends on the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnexp.kernels.cpu.depthwise_tables import LANES
from cnnexp.kernels.cpu.numba_internals import (
    counted_loop,
    data_of,
    size_in_bytes,
    void,
)
from cnnexp.kernels.cpu.vector import fused_multiply_add, splat

_INDEX, _HALF, _WORD = ir.IntType(64), ir.IntType(16), ir.IntType(32)
_N = types.intp


def number_of(kind: Any) -> Any:
    """The LLVM type of what an array of ``kind`` holds; bfloat16 as its 16 bits."""
    if kind.dtype == types.uint16:
        return _HALF
    return ir.FloatType() if kind.dtype == types.float32 else ir.DoubleType()


def narrowed(builder: ir.IRBuilder, vector: Any) -> Any:
    """A vector of float32 as bfloat16, as ``precision.narrow``."""
    lanes = vector.type.count
    words = ir.VectorType(_WORD, lanes)

    def all_lanes(value: int) -> Any:
        return ir.Constant(words, [value] * lanes)

    bits = builder.bitcast(vector, words)
    top = builder.lshr(bits, all_lanes(16))
    odd = builder.and_(top, all_lanes(1))
    rounded = builder.add(builder.add(bits, all_lanes(0x7FFF)), odd)
    is_nan = builder.fcmp_unordered("uno", vector, vector)
    quiet = builder.or_(top, all_lanes(0x40))
    nearest = builder.select(is_nan, quiet, builder.lshr(rounded, all_lanes(16)))
    return builder.trunc(nearest, ir.VectorType(_HALF, lanes))


class Code:
    """The code of one call of an intrinsic."""

    def __init__(self, context: Any, builder: ir.IRBuilder, kinds: Any, arguments: Any) -> None:
        self.context, self.builder, self.kinds, self.arguments = context, builder, kinds, arguments

    def place(self, array: int, at: Any) -> Any:
        """Pointer to element ``at`` of the argument ``array``."""
        data = data_of(self.context, self.builder, self.kinds[array], self.arguments[array])
        return self.builder.gep(data, [at])

    def off(self, start: Any, step: Any, times: int) -> Any:
        """``start`` moved by so many times ``step``, an int or a value."""
        if isinstance(step, int):
            return self.builder.gep(start, [ir.Constant(_INDEX, step * times)])
        return self.builder.gep(start, [self.builder.mul(step, ir.Constant(_INDEX, times))])

    def load(self, start: Any, number: Any) -> Any:
        """The vector of ``number`` at the pointer ``start``."""
        kind = ir.VectorType(number, LANES)
        place = self.builder.bitcast(start, kind.as_pointer())
        return self.builder.load(place, align=size_in_bytes(self.context, number))

    def store(self, vector: Any, start: Any) -> None:
        """Leave ``vector`` at the pointer ``start``."""
        place = self.builder.bitcast(start, vector.type.as_pointer())
        self.builder.store(vector, place, align=size_in_bytes(self.context, vector.type.element))

    def widened(self, vector: Any) -> Any:
        """A vector of bfloat16 as float32; others as they are."""
        if vector.type.element != _HALF:
            return vector
        words = ir.VectorType(_WORD, LANES)
        shifted = self.builder.shl(
            self.builder.zext(vector, words), splat(self.builder, ir.Constant(_WORD, 16), words)
        )
        return self.builder.bitcast(shifted, ir.VectorType(ir.FloatType(), LANES))

    def narrowed(self, vector: Any, number: Any) -> Any:
        """A vector of float32 as bfloat16, as ``precision.narrow``, if ``number`` is that."""
        return narrowed(self.builder, vector) if number == _HALF else vector

    def transposed(self, rows: list[Any]) -> list[Any]:
        """``LANES`` vectors as a matrix, transposed: blocks change places, of half the size each time."""
        rows, size = list(rows), LANES // 2
        lanes = range(LANES)
        while size:
            first = [i if not i & size else LANES + i - size for i in lanes]
            second = [i + size if not i & size else LANES + i for i in lanes]
            for i in [i for i in lanes if not i & size]:
                pair = rows[i], rows[i + size]
                rows[i], rows[i + size] = (self._picked(pair, each) for each in (first, second))
            size //= 2
        return rows

    def _picked(self, pair: tuple[Any, Any], lanes: list[int]) -> Any:
        mask = ir.Constant(ir.VectorType(_WORD, LANES), lanes)
        return self.builder.shuffle_vector(*pair, mask)

    def line(self, begin: Any, totals: list[Any], taps: list[Any], apart: int) -> list[Any]:
        """``totals``, of pixels whose sources lie ``apart``, and the products with a line of taps."""
        columns, width, kind = len(totals), len(taps), totals[0].type
        multiply_add = fused_multiply_add(self.builder, kind)
        places = sorted({c * apart + v for c in range(columns) for v in range(width)})
        values = {x: self.load(self.off(begin, LANES, x), kind.element) for x in places}
        for v, tap in enumerate(taps):
            for c in range(columns):
                factors = [tap, values[c * apart + v], totals[c]]
                totals = [*totals[:c], self.builder.call(multiply_add, factors), *totals[c + 1 :]]
        return totals

    def pixels(self, columns: int, apart: int, totals: Callable[[Any, Any], list[Any]]) -> None:
        """The loops of ``sums`` and ``line_sums``, whose arguments these are, around ``totals``."""
        builder, number = self.builder, number_of(self.kinds[0])
        _, out_at, out_row, out_column, rows, across, _, at, row_step, pitch = self.arguments[:10]
        begin, to = self.place(6, at), self.place(0, out_at)
        size = ir.Constant(_INDEX, columns)
        last = builder.sub(across, size)
        tiles = builder.udiv(builder.add(across, ir.Constant(_INDEX, columns - 1)), size)
        with counted_loop(builder, rows) as p:
            of_row = builder.gep(begin, [builder.mul(p.index, row_step)])
            to_row = builder.gep(to, [builder.mul(p.index, out_row)])
            with counted_loop(builder, tiles) as k:
                q = builder.mul(k.index, size)
                q = builder.select(builder.icmp_signed("<", q, last), q, last)
                shift = builder.mul(q, ir.Constant(_INDEX, LANES * apart))
                found = totals(builder.gep(of_row, [shift]), pitch)
                there = builder.gep(to_row, [builder.mul(q, out_column)])
                for c, total in enumerate(found):
                    place = self.off(there, out_column, c) if c else there
                    self.store(self.narrowed(total, number), place)

    def correlated(
        self, kind: Any, of_grad: list[Any], source: Any, registers: list[Any], taps: Any
    ) -> None:
        """Add to the sums of all taps in ``registers`` what some pixels side by side have a part in."""
        (begin, pitch), (height, width), columns = source, taps, len(of_grad)
        multiply_add = fused_multiply_add(self.builder, kind)
        for u in range(height):
            line = self.off(begin, pitch, u) if u else begin
            values = [
                self.load(self.off(line, LANES, x), kind.element)
                for x in range(columns + width - 1)
            ]
            for c in range(columns):
                for v in range(width):
                    register = registers[u * width + v]
                    total = [of_grad[c], values[c + v], self.builder.load(register)]
                    self.builder.store(self.builder.call(multiply_add, total), register)


@intrinsic
def widen_pixels(typing_context, image, at, step, count, places, pixels):
    """Pixel f of ``image``, at ``at`` + f·``step``, goes to ``places[f]`` in ``pixels``; f < ``count``."""
    signature = types.void(image, _N, _N, _N, places, pixels)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        code = Code(context, builder, signature.args, arguments)
        _, at, step, count, _, _ = arguments
        begin, table = code.place(0, at), code.place(4, ir.Constant(_INDEX, 0))
        number = number_of(signature.args[0])
        with counted_loop(builder, count) as f:
            vector = code.load(builder.gep(begin, [builder.mul(f.index, step)]), number)
            place = builder.load(builder.gep(table, [f.index]))
            code.store(code.widened(vector), code.place(5, place))
        return void(context)

    return signature, codegen


@intrinsic
def narrow_pixels(typing_context, pixels, image, at, step, count):
    """Pixel f of ``pixels`` goes to ``at`` + f·``step`` in ``image``; f < ``count``."""
    signature = types.void(pixels, image, _N, _N, _N)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        code = Code(context, builder, signature.args, arguments)
        _, _, at, step, count = arguments
        begin, to = code.place(0, ir.Constant(_INDEX, 0)), code.place(1, at)
        number = number_of(signature.args[1])
        with counted_loop(builder, count) as f:
            shift = builder.mul(f.index, ir.Constant(_INDEX, LANES))
            vector = code.load(builder.gep(begin, [shift]), number_of(signature.args[0]))
            place = builder.gep(to, [builder.mul(f.index, step)])
            code.store(code.narrowed(vector, number), place)
        return void(context)

    return signature, codegen


@intrinsic
def widen_tile(typing_context, image, at, apart, places, first, pixels):
    """``LANES`` pixels of as many planes, ``apart``, go to ``places[first:]`` in ``pixels``."""
    signature = types.void(image, _N, _N, places, _N, pixels)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        code = Code(context, builder, signature.args, arguments)
        _, at, apart, _, first, _ = arguments
        number = number_of(signature.args[0])
        begin, table = code.place(0, at), code.place(3, first)
        planes = [code.load(code.off(begin, apart, c), number) for c in range(LANES)]
        for f, vector in enumerate(code.transposed([code.widened(each) for each in planes])):
            place = builder.load(code.off(table, 1, f))
            code.store(vector, code.place(5, place))
        return void(context)

    return signature, codegen


@intrinsic
def narrow_tile(typing_context, pixels, pixels_at, image, at, apart):
    """``LANES`` pixels from ``pixels_at`` on go to as many planes, ``apart``, of ``image``."""
    signature = types.void(pixels, _N, image, _N, _N)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        code = Code(context, builder, signature.args, arguments)
        _, pixels_at, _, at, apart = arguments
        begin, to = code.place(0, pixels_at), code.place(2, at)
        number = number_of(signature.args[2])
        wide = number_of(signature.args[0])
        rows = [code.load(code.off(begin, LANES, f), wide) for f in range(LANES)]
        for c, vector in enumerate(code.transposed(rows)):
            code.store(code.narrowed(vector, number), code.off(to, apart, c))
        return void(context)

    return signature, codegen
