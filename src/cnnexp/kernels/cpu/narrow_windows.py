"""Windows 2×2 side by side, a vector of pixels at a time, for what is behind convolutions of few channels.

    mean_of_two_rows     means[s] = Σ of window s / D
    shares_and_slopes    planes[j] = g[j // 2]/D · (1 − a[j]²)        its transpose, through a tanh a
    maxima_of_two_rows   the greatest of window s and 0, and who it is
    winners_of_row       its transpose: g[s] where the row has the winner of window s, else 0

Each writes whole vectors: behind a row zeros, which the margin between rows has anyway, or what the next row,
or the next plane, writes again.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnexp.geometry.pooling import DEAD
from cnnexp.kernels.cpu.depthwise_pixels import Code, number_of
from cnnexp.kernels.cpu.depthwise_tables import LANES
from cnnexp.kernels.cpu.memory import shuffled
from cnnexp.kernels.cpu.numba_internals import void
from cnnexp.kernels.cpu.vector import fused_multiply_add, splat

__all__ = ["maxima_of_two_rows", "mean_of_two_rows", "shares_and_slopes", "winners_of_row"]

_N = types.intp
_INDEX, _BYTE = ir.IntType(64), ir.IntType(8)


def _evens_and_odds(code: Code, start: Any, number: Any) -> list[Any]:
    """Of 2·``LANES`` numbers those at even places, and those at odd ones."""
    both = code.load(start, number), code.load(code.off(start, LANES, 1), number)
    return [
        shuffled(code.builder, *both, [2 * s + which for s in range(LANES)]) for which in (0, 1)
    ]


@intrinsic
def mean_of_two_rows(typing_context, planes, above, below, divisor, means, to):
    """means[to + s] = (p[above + 2s] + the next + p[below + 2s] + the next)/divisor for ``LANES`` s."""
    signature = types.void(planes, _N, _N, divisor, means, _N)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        code, number = Code(context, builder, signature.args, arguments), number_of(planes)
        total: Any = None
        for row in arguments[1:3]:
            for part in _evens_and_odds(code, code.place(0, row), number):
                total = part if total is None else builder.fadd(total, part)
        made = builder.fdiv(total, splat(builder, arguments[3], total.type))
        code.store(made, code.place(4, arguments[5]))
        return void(context)

    return signature, codegen


@intrinsic
def shares_and_slopes(typing_context, grads, grad, divisor, kept, of, planes, at, count):
    """planes[at + j] = grads[grad + j//2]/divisor · (1 − kept[of + j]²) for j < count; 0 up to ``LANES``."""
    signature = types.void(grads, _N, divisor, kept, _N, planes, _N, _N)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        code, number = Code(context, builder, signature.args, arguments), number_of(planes)
        _, grad, divisor, _, of, _, at, count = arguments
        some = ir.VectorType(number, LANES // 2)
        start = builder.bitcast(code.place(0, grad), some.as_pointer())
        given = builder.load(start, align=4 if number == ir.FloatType() else 8)
        share = builder.fdiv(given, splat(builder, divisor, some))
        spread = shuffled(builder, share, share, [j // 2 for j in range(LANES)])
        kind = spread.type
        a = code.widened(code.load(code.place(3, of), number_of(kept)))
        one, nothing = (ir.Constant(kind, [value] * LANES) for value in (1.0, 0.0))
        minus = builder.fsub(nothing, a)
        slope = builder.call(fused_multiply_add(builder, kind), [minus, a, one])
        lanes = ir.VectorType(_INDEX, LANES)
        inside = builder.icmp_signed(
            "<", ir.Constant(lanes, list(range(LANES))), splat(builder, count, lanes)
        )
        made = builder.select(inside, builder.fmul(spread, slope), nothing)
        code.store(made, code.place(5, at))
        return void(context)

    return signature, codegen


@intrinsic
def maxima_of_two_rows(typing_context, planes, above, below, maxima, codes, to):
    """maxima[to + s] = the greatest of window s and 0, codes[to + s] = who it is, or DEAD, ``LANES`` of s.

    The first of equals wins, and a NaN over everything.
    """
    signature = types.void(planes, _N, _N, maxima, codes, _N)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        code, number = Code(context, builder, signature.args, arguments), number_of(planes)
        rows = [_evens_and_odds(code, code.place(0, row), number) for row in arguments[1:3]]
        kind, bytes_ = rows[0][0].type, ir.VectorType(_BYTE, LANES)
        greatest, winner = ir.Constant(kind, [0.0] * LANES), ir.Constant(bytes_, [DEAD] * LANES)
        for e, value in enumerate([*rows[0], *rows[1]]):
            wins = builder.or_(
                builder.fcmp_ordered(">", value, greatest),
                builder.fcmp_unordered("uno", value, value),
            )
            greatest = builder.select(wins, value, greatest)
            winner = builder.select(wins, ir.Constant(bytes_, [e] * LANES), winner)
        code.store(greatest, code.place(3, arguments[5]))
        code.store(winner, code.place(4, arguments[5]))
        return void(context)

    return signature, codegen


@intrinsic
def winners_of_row(typing_context, grads, at, codes, first, count, planes, to):
    """planes[to + 2s + e] = grads[at + s] where codes[at + s] is first + e, e = 0 and 1, else 0.

    Of s < count; 0 up to ``LANES`` of s.
    """
    signature = types.void(grads, _N, codes, _N, _N, planes, _N)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        code, number = Code(context, builder, signature.args, arguments), number_of(planes)
        _, at, _, first, count, _, to = arguments
        bytes_, lanes = ir.VectorType(_BYTE, LANES), ir.VectorType(_INDEX, LANES)
        grad, winner = code.load(code.place(0, at), number), code.load(code.place(2, at), _BYTE)
        inside = builder.icmp_signed(
            "<", ir.Constant(lanes, list(range(LANES))), splat(builder, count, lanes)
        )
        nothing = ir.Constant(grad.type, [0.0] * LANES)
        grad, parts = builder.fadd(grad, nothing), []  # as a sum has it: no −0
        for which in (0, 1):
            sought = builder.trunc(builder.add(first, ir.Constant(_INDEX, which)), _BYTE)
            wins = builder.icmp_unsigned("==", winner, splat(builder, sought, bytes_))
            parts.append(builder.select(builder.and_(wins, inside), grad, nothing))
        for half in (0, 1):
            order = [
                s + LANES * which
                for s in range(half * LANES // 2, (half + 1) * LANES // 2)
                for which in (0, 1)
            ]
            start = code.off(code.place(5, to), LANES, half)
            code.store(shuffled(builder, parts[0], parts[1], order), start)
        return void(context)

    return signature, codegen
