"""The inner loops of depthwise convolution as LLVM instructions; a vector is one pixel of ``LANES`` channels.

    sums         out[t] = start + Σ_{u,v} w[u, v] · src[t, u, v]      some pixels t, one register each
    correlate    acc[u, v] += Σ_{p,q} g[p, q] · src[p, q, u, v]       U × V taps, one register each

Each number's own sum runs in the order that stands above: no bit depends on how many pixels share their loads
of a tap.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnexp.kernels.cpu.depthwise_pixels import Code, number_of
from cnnexp.kernels.cpu.depthwise_tables import LANES
from cnnexp.kernels.cpu.numba_internals import counted_loop, register_of, void
from cnnexp.kernels.cpu.vector import fused_multiply_add

_INDEX = ir.IntType(64)
_N = types.intp


def sums_of(columns: int, height: int, width: int, apart: int) -> Any:
    """The intrinsic ``sums`` of ``height`` × ``width`` taps, which stay in registers, or nearly so.

    It goes over ``rows`` × ``across`` pixels, ``columns`` side by side at a time; the last ones overlap with
    those before where they would be fewer. Their sources are ``apart`` vectors apart.
    """

    @intrinsic
    def sums(
        typing_context,
        out,
        out_at,
        out_row,
        out_column,
        rows,
        across,
        source,
        at,
        row_step,
        pitch,
        weights,
        weights_at,
        start,
        start_at,
    ):
        signature = types.void(out, _N, _N, _N, _N, _N, source, _N, _N, _N, weights, _N, start, _N)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            code = Code(context, builder, signature.args, arguments)
            number = number_of(signature.args[6])
            taps = code.place(10, arguments[11])
            first = code.load(code.place(12, arguments[13]), number)
            loaded = [code.load(code.off(taps, LANES, k), number) for k in range(height * width)]

            def totals(here: Any, pitch: Any) -> list[Any]:
                found = [first] * columns
                for u in range(height):
                    line = code.off(here, pitch, u) if u else here
                    found = code.line(line, found, loaded[u * width : (u + 1) * width], apart)
                return found

            code.pixels(columns, apart, totals)
            return void(context)

        return signature, codegen

    return sums


def line_sums_of(columns: int, width: int, apart: int) -> Any:
    """The intrinsic ``line_sums``: as ``sums``, but of ``height`` × ``width`` taps of any height.

    The taps of one line at a time are in registers, and so are the sums.
    """

    @intrinsic
    def line_sums(
        typing_context,
        out,
        out_at,
        out_row,
        out_column,
        rows,
        across,
        source,
        at,
        row_step,
        pitch,
        weights,
        weights_at,
        start,
        start_at,
        height,
    ):
        signature = types.void(
            out, _N, _N, _N, _N, _N, source, _N, _N, _N, weights, _N, start, _N, _N
        )

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            code = Code(context, builder, signature.args, arguments)
            number = number_of(signature.args[6])
            taps, height = code.place(10, arguments[11]), arguments[14]
            first = code.load(code.place(12, arguments[13]), number)
            registers = [register_of(builder, first.type) for _ in range(columns)]

            def totals(here: Any, pitch: Any) -> list[Any]:
                for register in registers:
                    builder.store(first, register)
                with counted_loop(builder, height) as u:
                    line = builder.gep(here, [builder.mul(u.index, pitch)])
                    tap_line = builder.gep(
                        taps, [builder.mul(u.index, ir.Constant(_INDEX, width * LANES))]
                    )
                    some = [code.load(code.off(tap_line, LANES, v), number) for v in range(width)]
                    begin = [builder.load(register) for register in registers]
                    found = code.line(line, begin, some, apart)
                    for register, total in zip(registers, found, strict=True):
                        builder.store(total, register)
                return [builder.load(register) for register in registers]

            code.pixels(columns, apart, totals)
            return void(context)

        return signature, codegen

    return line_sums


def any_sums_of(columns: int) -> Any:
    """The intrinsic ``any_sums`` of ``columns`` pixels and as many taps as there are."""

    @intrinsic
    def any_sums(
        typing_context,
        out,
        out_at,
        out_column,
        source,
        at,
        column_step,
        pitch,
        weights,
        weights_at,
        height,
        width,
        start,
        start_at,
    ):
        signature = types.void(out, _N, _N, source, _N, _N, _N, weights, _N, _N, _N, start, _N)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            code = Code(context, builder, signature.args, arguments)
            _, out_at, out_column, _, at, column_step, pitch = arguments[:7]
            _, weights_at, height, width, _, start_at = arguments[7:]
            number = number_of(signature.args[3])
            kind = ir.VectorType(number, LANES)
            first = code.load(code.place(11, start_at), number)
            registers = [register_of(builder, kind) for _ in range(columns)]
            for register in registers:
                builder.store(first, register)
            multiply_add = fused_multiply_add(builder, kind)
            begin, taps = code.place(3, at), code.place(7, weights_at)
            lanes = ir.Constant(_INDEX, LANES)
            with counted_loop(builder, height) as u:
                line = builder.gep(begin, [builder.mul(u.index, pitch)])
                of_line = builder.mul(builder.mul(u.index, width), lanes)
                with counted_loop(builder, width) as v:
                    shift = builder.mul(v.index, lanes)
                    tap = builder.gep(taps, [builder.add(of_line, shift)])
                    weight, here = code.load(tap, number), builder.gep(line, [shift])
                    for c, register in enumerate(registers):
                        value = code.load(code.off(here, column_step, c), number)
                        total = [weight, value, builder.load(register)]
                        builder.store(builder.call(multiply_add, total), register)
            to = code.place(0, out_at)
            for c, register in enumerate(registers):
                rounded = code.narrowed(builder.load(register), number_of(signature.args[0]))
                code.store(rounded, code.off(to, out_column, c))
            return void(context)

        return signature, codegen

    return any_sums


def _over_pixels(code: Code, begins: Any, steps: Any, extent: Any, of: Any) -> None:
    """The loops of ``correlate``: as many pixels at a time as share what is loaded, the rest one by one."""
    builder, (registers, taps, columns) = code.builder, of
    (grads, begin), (rows, across, pitch) = begins, extent
    grad_row, grad_column, row_step, column_step = steps
    zero, size = ir.Constant(_INDEX, 0), ir.Constant(_INDEX, columns)
    side_by_side = builder.icmp_signed("==", column_step, ir.Constant(_INDEX, LANES))
    together = builder.select(side_by_side, builder.udiv(across, size), zero)
    done = builder.mul(together, size)
    pieces = (columns, zero, together), (1, done, builder.sub(across, done))
    kind = ir.VectorType(number_of(code.kinds[9]), LANES)
    with counted_loop(builder, rows) as p:
        of_grad = builder.gep(grads, [builder.mul(p.index, grad_row)])
        of_source = builder.gep(begin, [builder.mul(p.index, row_step)])
        for some, first, count in pieces:
            with counted_loop(builder, count) as k:
                q = builder.add(first, builder.mul(k.index, ir.Constant(_INDEX, some)))
                here = builder.gep(of_source, [builder.mul(q, column_step)])
                there = builder.gep(of_grad, [builder.mul(q, grad_column)])
                values = [code.off(there, grad_column, c) for c in range(some)]
                values = [code.load(each, number_of(code.kinds[3])) for each in values]
                values = [code.widened(each) for each in values]
                code.correlated(kind, values, (here, pitch), registers, taps)


def correlate_of(height: int, width: int, columns: int) -> Any:
    """The intrinsic ``correlate`` for ``height`` × ``width`` taps; each tap's sum begins at zero.

    The sum of tap (u, v) is left at u·``line`` + v vectors from ``taps_at`` on. So many ``columns`` of pixels
    share what is loaded, if ``column_step`` is one vector.
    """

    @intrinsic
    def correlate(
        typing_context,
        taps,
        taps_at,
        line,
        grad,
        grad_at,
        grad_row,
        grad_column,
        rows,
        across,
        source,
        at,
        row_step,
        column_step,
        pitch,
    ):
        signature = types.void(taps, _N, _N, grad, *(_N,) * 5, source, _N, _N, _N, _N)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            code = Code(context, builder, signature.args, arguments)
            _, taps_at, line, _, grad_at, grad_row, grad_column, rows, across, *_ = arguments
            at, row_step, column_step, pitch = arguments[10:]
            number = number_of(signature.args[9])
            kind = ir.VectorType(number, LANES)
            registers = [register_of(builder, kind) for _ in range(height * width)]
            for register in registers:
                builder.store(ir.Constant(kind, [0.0] * LANES), register)
            grads, begin = code.place(3, grad_at), code.place(9, at)
            steps = grad_row, grad_column, row_step, column_step
            of = registers, (height, width), columns
            _over_pixels(code, (grads, begin), steps, (rows, across, pitch), of)
            to = code.place(0, taps_at)
            for u in range(height):
                for v in range(width):
                    place = code.off(code.off(to, line, u), LANES, v)
                    code.store(builder.load(registers[u * width + v]), place)
            return void(context)

        return signature, codegen

    return correlate
