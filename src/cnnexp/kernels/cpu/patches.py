"""The inner loops of ∂L/∂x over one window of a 2×2 max-pool, written as LLVM instructions.

    acc[i + a, j + b] += Σ_{n of list (a, b)} weights[n] · source[offsets[n] + 3·i + j]    i, j < 3;  a, b < 2

with pixels of 16 channels for numbers. The fields of the four elements of a window lie over each other, 4×4
pixels in all: sixteen registers hold them through all four lists, where a list by itself would read and write
its nine.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnexp.kernels.cpu.memory import Memory
from cnnexp.kernels.cpu.numba_internals import counted_loop, register_of, void
from cnnexp.kernels.cpu.vector import VECTOR_BYTES, fused_multiply_add, splat

__all__ = ["PIXEL", "add_patch", "fits"]

PIXEL = 16  # channels
_INDEX = ir.IntType(64)
_KIND = ir.VectorType(ir.FloatType(), PIXEL)


@intrinsic
def fits(typing_context, numbers):
    """Whether a register holds a pixel of the dtype of ``numbers``, a pointer, and there are enough."""
    able = VECTOR_BYTES == 64 and numbers.dtype == types.float32

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return ir.Constant(ir.IntType(1), able)

    return types.boolean(numbers), codegen


@intrinsic
def add_patch(typing_context, acc, at, step, source, offsets, weights, starts):
    """Add the lists that begin at starts[0] … starts[3], the last ending at starts[4], to a patch of ``acc``.

    All arrays are pointers, those of numbers to float32. The patch begins at acc[at], rows ``step`` apart.
    """
    n = types.intp
    signature = types.void(acc, n, n, source, offsets, weights, starts)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        memory = Memory(context, builder, signature.args, arguments)
        _, at, step, _, _, _, _ = arguments
        places = [
            [memory.ahead(at, step, row, PIXEL * column) for column in range(4)] for row in range(4)
        ]
        patch = [[register_of(builder, _KIND) for _ in row] for row in places]
        for registers, row in zip(patch, places, strict=True):
            for register, place in zip(registers, row, strict=True):
                builder.store(memory.load(0, place, _KIND, 4), register)
        begins = [memory.load(6, ir.Constant(_INDEX, k), _INDEX, 8) for k in range(5)]
        multiply_add = fused_multiply_add(builder, _KIND)
        for k, (first, last) in enumerate(pairwise(begins)):
            with counted_loop(builder, builder.sub(last, first)) as loop:
                here = builder.add(first, loop.index)
                start = builder.zext(memory.load(4, here, ir.IntType(32), 4), _INDEX)
                weight = splat(builder, memory.load(5, here, ir.FloatType(), 4), _KIND)
                for tap in range(9):
                    pixel = builder.add(start, ir.Constant(_INDEX, PIXEL * tap))
                    register = patch[k // 2 + tap // 3][k % 2 + tap % 3]
                    value = memory.load(3, pixel, _KIND, 4)
                    total = builder.call(multiply_add, [weight, value, builder.load(register)])
                    builder.store(total, register)
        for registers, row in zip(patch, places, strict=True):
            for register, place in zip(registers, row, strict=True):
                memory.store(builder.load(register), 0, place, 4)
        return void(context)

    return signature, codegen
