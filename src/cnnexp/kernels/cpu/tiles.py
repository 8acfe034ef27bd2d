"""The three transforms of Winograd's convolution of one tile, written as LLVM instructions.

    kernel_tile:  u = G w Gᵀ        w (3, 3), u (4, 4)
    input_tile:   v = Bᵀ d B        d, v (4, 4)
    output_tile:  y = Aᵀ m A        m (4, 4), y (2, 2), then bias, ReLU and the maximum of the four

for ``lanes`` channels at once, each of the sixteen numbers of a tile in a vector register.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnexp.geometry.pooling import DEAD
from cnnexp.kernels.cpu.numba_internals import data_of, size_in_bytes, void
from cnnexp.kernels.cpu.vector import fused_multiply_add, lanes_at, splat, vector_type

_Matrix = list[list[Any]]


def _transposed(matrix: _Matrix) -> _Matrix:
    return [list(column) for column in zip(*matrix, strict=True)]


class _Tiles:
    """Loads and stores of vectors of ``lanes`` numbers (None: as many as fit) in numba arrays."""

    def __init__(
        self, context: Any, builder: ir.IRBuilder, kinds: Any, arguments: Any, lanes: int | None
    ) -> None:
        self.context, self.builder, self.kinds, self.arguments = context, builder, kinds, arguments
        full = vector_type(kinds[0])
        self.kind = full if lanes is None else ir.VectorType(full.element, lanes)
        self.align = size_in_bytes(context, self.kind.element)

    def place(self, array: int, at: Any, kind: Any = None) -> Any:
        data = data_of(self.context, self.builder, self.kinds[array], self.arguments[array])
        return lanes_at(self.builder, self.builder.gep(data, [at]), 0, kind or self.kind)

    def load(self, array: int, at: Any) -> Any:
        return self.builder.load(self.place(array, at), align=self.align)

    def store(self, value: Any, array: int, at: Any) -> None:
        self.builder.store(value, self.place(array, at), align=self.align)

    def ahead(self, start: Any, by: Any, times: int) -> Any:
        return self.builder.add(start, self.builder.mul(by, ir.Constant(by.type, times)))


def _kernel_tile_of(lanes: int | None) -> Any:
    @intrinsic
    def kernel_tile(typing_context, source, at, apart, kernels, to, size):
        """kernels[to + (4·i + j)·size] = u[i, j], with w[i, j] = source[at + (3·i + j)·apart]."""
        n = types.intp
        signature = types.void(source, n, n, kernels, n, n)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            tile = _Tiles(context, builder, signature.args, arguments, lanes)
            _, at, apart, _, to, size = arguments
            half = splat(builder, ir.Constant(tile.kind.element, 0.5), tile.kind)

            def transform(rows: _Matrix) -> _Matrix:
                """G · rows."""
                made = []
                for first, middle, last in zip(*rows, strict=True):
                    outer = builder.fadd(first, last)
                    sums = builder.fadd(outer, middle), builder.fsub(outer, middle)
                    made.append([first, *(builder.fmul(half, each) for each in sums), last])
                return _transposed(made)

            data = [
                [tile.load(0, tile.ahead(at, apart, 3 * i + j)) for j in range(3)] for i in range(3)
            ]
            made = _transposed(transform(_transposed(transform(data))))
            for k in range(16):
                tile.store(made[k // 4][k % 4], 3, tile.ahead(to, size, k))
            return void(context)

        return signature, codegen

    return kernel_tile


def _input_tile_of(lanes: int | None) -> Any:
    @intrinsic
    def input_tile(typing_context, source, at, down, right, tiles, to, apart):
        """tiles[to + (4·i + j)·apart] = v[i, j], with d[i, j] = source[at + i·down + j·right]."""
        n = types.intp
        signature = types.void(source, n, n, n, tiles, n, n)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            tile = _Tiles(context, builder, signature.args, arguments, lanes)
            _, at, down, right, _, to, apart = arguments

            def transform(rows: _Matrix) -> _Matrix:
                """Bᵀ · rows."""
                pairs = [(0, 2, builder.fsub), (1, 2, builder.fadd)]
                pairs += [(2, 1, builder.fsub), (1, 3, builder.fsub)]
                return [
                    [combine(a, b) for a, b in zip(rows[one], rows[other], strict=True)]
                    for one, other, combine in pairs
                ]

            data = [
                [tile.load(0, tile.ahead(tile.ahead(at, down, i), right, j)) for j in range(4)]
                for i in range(4)
            ]
            made = _transposed(transform(_transposed(transform(data))))
            for k in range(16):
                tile.store(made[k // 4][k % 4], 4, tile.ahead(to, apart, k))
            return void(context)

        return signature, codegen

    return input_tile


def _output_tile_of(lanes: int | None) -> Any:
    @intrinsic
    def output_tile(typing_context, products, at, apart, bias, channel, values, codes, to, check):
        """Maximum and code of y in values[to] and codes[to], m[i, j] = products[at + (4·i + j)·apart].

        ``check`` becomes NaN if anything of y is not finite; else it stays as it is.
        """
        n = types.intp
        signature = types.void(products, n, n, bias, n, values, codes, n, check)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            tile = _Tiles(context, builder, signature.args, arguments, lanes)
            _, at, apart, _, channel, _, _, to, _ = arguments

            def transform(rows: _Matrix) -> _Matrix:
                """Aᵀ · rows."""
                made = []
                for a, b, c, d in zip(*rows, strict=True):
                    middle, difference = builder.fadd(b, c), builder.fsub(b, c)
                    made.append([builder.fadd(a, middle), builder.fsub(difference, d)])
                return _transposed(made)

            products = [
                [tile.load(0, tile.ahead(at, apart, 4 * i + j)) for j in range(4)] for i in range(4)
            ]
            results = _transposed(transform(_transposed(transform(products))))
            shift = tile.load(3, channel)
            zero = splat(builder, ir.Constant(tile.kind.element, 0.0), tile.kind)
            byte = ir.VectorType(ir.IntType(8), tile.kind.count)
            best = zero
            code = splat(builder, ir.Constant(byte.element, DEAD), byte)
            for k in range(4):
                value = builder.fadd(results[k // 2][k % 2], shift)
                # as torch: the first of equals (a NaN is left to the check)
                wins = builder.fcmp_ordered(">", value, best)
                best = builder.select(wins, value, best)
                won = splat(builder, ir.Constant(byte.element, k), byte)
                code = builder.select(wins, won, code)
            tile.store(best, 5, to)
            builder.store(code, tile.place(6, to, byte), align=1)
            pairs = [builder.fadd(left, right) for left, right in results]
            total = builder.call(
                fused_multiply_add(builder, tile.kind),
                [
                    zero,
                    builder.fadd(pairs[0], pairs[1]),
                    tile.load(8, ir.Constant(channel.type, 0)),
                ],
            )
            tile.store(total, 8, ir.Constant(channel.type, 0))
            return void(context)

        return signature, codegen

    return output_tile


kernel_tile, kernel_channel = _kernel_tile_of(None), _kernel_tile_of(1)
input_tile, input_channel = _input_tile_of(None), _input_tile_of(1)
output_tile, output_channel = _output_tile_of(None), _output_tile_of(1)
