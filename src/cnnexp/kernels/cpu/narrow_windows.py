"""Windows 2×2 side by side, a vector of pixels at a time, for what is behind convolutions of few channels.

    mean_of_two_rows     means[s] = Σ of window s / D
    shares_and_slopes    planes[j] = g[j // 2]/D · (1 − a[j]²)        its transpose, through a tanh a

Each writes whole vectors: what comes behind a row is written again with the next, or is room. numba caches a
compiled kernel by the kernel's own file: after a change here, touch ``narrow_kernels`` and
``narrow_pair_kernels``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnexp.kernels.cpu.depthwise_pixels import Code, number_of
from cnnexp.kernels.cpu.depthwise_tables import LANES
from cnnexp.kernels.cpu.memory import shuffled
from cnnexp.kernels.cpu.numba_internals import void
from cnnexp.kernels.cpu.vector import fused_multiply_add, splat

__all__ = ["mean_of_two_rows", "shares_and_slopes"]

_N = types.intp
_INDEX = ir.IntType(64)


@intrinsic
def mean_of_two_rows(typing_context, planes, above, below, divisor, means, to):
    """means[to + s] = (p[above + 2s] + the next + p[below + 2s] + the next)/divisor for ``LANES`` s."""
    signature = types.void(planes, _N, _N, divisor, means, _N)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        code, number = Code(context, builder, signature.args, arguments), number_of(planes)
        total: Any = None
        for row in arguments[1:3]:
            start = code.place(0, row)
            both = code.load(start, number), code.load(code.off(start, LANES, 1), number)
            for which in (0, 1):
                part = shuffled(builder, *both, [2 * s + which for s in range(LANES)])
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
