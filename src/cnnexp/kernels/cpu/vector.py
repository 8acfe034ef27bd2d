"""The inner loop of the CPU kernels, written as LLVM instructions.

    acc[i] += Σ_j weights[j] · source[offsets[j] + i]        0 ≤ i < length

What numba compiles from a Python loop keeps the running sums in memory. Here they stay in vector
registers while j runs, which is where the speed of the sparse gradients comes from.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import config, njit, types
from numba.extending import intrinsic

from cnnexp.kernels.compilation import watch_numba
from cnnexp.kernels.cpu.numba_internals import (
    cache_folder,
    counted_loop,
    data_of,
    declared,
    register_of,
    size_in_bytes,
    tell_of_compilations,
    void,
)
from cnnexp.kernels.cpu.stale import forget_stale

_FEATURES = llvm.get_host_cpu_features()
# of processors that numba may be told to compile for instead (NUMBA_CPU_NAME), bytes of a vector
_TOLD = {"generic": 16, "x86-64": 16, "x86-64-v2": 16, "x86-64-v3": 32, "haswell": 32}
VECTOR_BYTES = min(
    64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx2") else 16,
    _TOLD.get(getattr(config, "CPU_NAME", None) or "", 64),
)

# contract: a·b + c in one rounding; the order of a sum is never changed, so that results are the
# same on every run
COMPILE: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "nsz"},
}

_INDEX = ir.IntType(64)

_FOLDER = cache_folder(lambda: None)
COMPILE["cache"] = bool(_FOLDER)
if _FOLDER:
    _forget_own = forget_stale(_FOLDER)

    def _nothing(_kernel: Any) -> None:
        """When it begins."""

    def _look_again(_kernel: Any) -> None:
        """What this process saves of sources that are others by now is no good for the next one."""
        _forget_own()

    tell_of_compilations(begin=_nothing, end=_look_again)
watch_numba(_FOLDER)


def vector_type(array: types.Array) -> ir.VectorType:
    """The LLVM type of as many elements of ``array`` as fit into a vector register."""
    element = ir.FloatType() if array.dtype == types.float32 else ir.DoubleType()
    return ir.VectorType(element, VECTOR_BYTES // (4 if array.dtype == types.float32 else 8))


def splat(builder: ir.IRBuilder, scalar: Any, kind: ir.VectorType) -> Any:
    """A vector that holds ``scalar`` in every lane."""
    empty = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(empty, scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, empty, zeros)


def fused_multiply_add(builder: ir.IRBuilder, kind: ir.VectorType) -> Any:
    """The LLVM function that computes a·b + c of vectors of the type ``kind``, rounded once."""
    name = f"llvm.fma.v{kind.count}f{32 if isinstance(kind.element, ir.FloatType) else 64}"
    return declared(builder, name, ir.FunctionType(kind, [kind, kind, kind]))


@intrinsic
def lanes_of(typing_context, numbers):
    """How many of the ``numbers``, an array or a pointer, fit into a vector register."""
    count = VECTOR_BYTES // (numbers.dtype.bitwidth // 8)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return ir.Constant(_INDEX, count)

    return types.intp(numbers), codegen


def lanes_at(builder: ir.IRBuilder, pointer: Any, vector: int, kind: ir.VectorType) -> Any:
    """Pointer to the ``vector``-th vector from ``pointer`` on."""
    start = builder.gep(pointer, [ir.Constant(_INDEX, vector * kind.count)])
    return builder.bitcast(start, kind.as_pointer())


@intrinsic
def copy_vector(typing_context, source, target):
    """Copy 16 numbers from ``source`` to ``target``, pointers."""
    bits = source.dtype.bitwidth

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        kind = ir.VectorType(ir.IntType(bits), 16)
        of, to = (builder.bitcast(each, kind.as_pointer()) for each in arguments)
        builder.store(builder.load(of, align=bits // 8), to, align=bits // 8)
        return void(context)

    return types.void(source, target), codegen


@intrinsic
def add_vectors(typing_context, acc, source, count):
    """acc[i] += source[16·j + i] for i < 16, j < ``count`` in order, of pointers; bfloat16 as its bits."""
    bits, of_acc = source.dtype.bitwidth, acc.dtype.bitwidth

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        kind = ir.VectorType(ir.FloatType() if of_acc == 32 else ir.DoubleType(), 16)
        read = ir.VectorType(ir.IntType(bits), 16)
        place = builder.bitcast(arguments[0], kind.as_pointer())
        total = register_of(builder, kind)
        builder.store(builder.load(place, align=of_acc // 8), total)
        start = builder.bitcast(arguments[1], read.as_pointer())
        with counted_loop(builder, arguments[2]) as loop:
            value = builder.load(builder.gep(start, [loop.index]), align=bits // 8)
            if bits < of_acc:
                words = ir.VectorType(ir.IntType(of_acc), 16)
                value = builder.zext(value, words)
                value = builder.shl(value, ir.Constant(words, [of_acc - bits] * 16))
            value = builder.bitcast(value, kind)
            builder.store(builder.fadd(builder.load(total), value), total)
        builder.store(builder.load(total), place, align=of_acc // 8)
        return void(context)

    return types.void(acc, source, types.intp), codegen


class _Sums:
    """The code of one call of an intrinsic that :func:`weighted_sums_of` makes."""

    def __init__(self, context: Any, builder: ir.IRBuilder, kinds: Any, arguments: Any) -> None:
        self.context, self.builder, self.kinds, self.arguments = context, builder, kinds, arguments
        self.kind = vector_type(kinds[0])
        self.align = size_in_bytes(context, self.kind.element)

    def element(self, array: int, at: Any) -> Any:
        data = data_of(self.context, self.builder, self.kinds[array], self.arguments[array])
        return self.builder.gep(data, [at])

    def step(self, start: Any, by: Any, times: int) -> Any:
        return self.builder.gep(start, [self.builder.mul(by, ir.Constant(_INDEX, times))])

    def load(self, start: Any, vector: int) -> Any:
        place = lanes_at(self.builder, start, vector, self.kind)
        return self.builder.load(place, align=self.align)

    def places(self, rows: int, vectors: int) -> list[Any]:
        """Pointers to the vectors of the result, row by row."""
        at, apart = self.arguments[1], self.arguments[2]
        return [
            lanes_at(self.builder, self.step(self.element(0, at), apart, row), vector, self.kind)
            for row in range(rows)
            for vector in range(vectors)
        ]

    def build(self, rows: int, vectors: int, weights_differ: bool, fresh: bool) -> None:
        builder, (at, first, apart, count) = self.builder, (self.arguments[i] for i in (4, 7, 8, 9))
        places = self.places(rows, vectors)
        registers = []
        for place in places:
            registers.append(register_of(builder, self.kind))
            nothing = ir.Constant(self.kind, [0.0] * self.kind.count)
            begin = nothing if fresh else builder.load(place, align=self.align)
            builder.store(begin, registers[-1])
        start, weight_of = self.element(3, at), self.element(6, first)
        offset_of = self.element(5, first)
        multiply_add = fused_multiply_add(builder, self.kind)
        with counted_loop(builder, count) as loop:
            offset = builder.load(builder.gep(offset_of, [loop.index]))
            read = builder.gep(
                start, [offset if offset.type == _INDEX else builder.zext(offset, _INDEX)]
            )
            weight = None
            values = [self.load(read, v) for v in range(vectors if weights_differ else 0)]
            for row in range(rows):
                if weights_differ or weight is None:
                    of_row = self.step(weight_of, apart, row) if weights_differ else weight_of
                    scalar = builder.load(builder.gep(of_row, [loop.index]))
                    weight = splat(builder, scalar, self.kind)
                if not weights_differ:
                    of_row = self.step(read, apart, row)
                    values = [self.load(of_row, vector) for vector in range(vectors)]
                for vector, value in enumerate(values):
                    register = registers[row * vectors + vector]
                    total = [weight, value, builder.load(register)]
                    builder.store(builder.call(multiply_add, total), register)
        for register, place in zip(registers, places, strict=True):
            builder.store(builder.load(register), place, align=self.align)


def weighted_sums_of(
    vectors: int, rows: int = 1, weights_differ: bool = False, fresh: bool = False
) -> Any:
    """Sums for ``rows`` rows of ``vectors`` vectors, each vector in a register of its own.

    Row r is added to at ``acc_at + r·acc_step``; with ``fresh`` it is written there, whatever there was. What
    is read differs from row to row, by ``other_step`` in ``source``; or, with ``weights_differ``, what it is
    multiplied with, by ``other_step`` in ``weights``, and ``source`` is read once for all rows.
    """

    @intrinsic
    def weighted_sums(
        typing_context,
        acc,
        acc_at,
        acc_step,
        source,
        source_at,
        offsets,
        weights,
        first,
        other_step,
        count,
    ):
        n = types.intp
        signature = types.void(acc, n, n, source, n, offsets, weights, n, n, n)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            code = _Sums(context, builder, signature.args, arguments)
            code.build(rows, vectors, weights_differ, fresh)
            return void(context)

        return signature, codegen

    return weighted_sums


_sum_16, _sum_8, _sum_6, _sum_4, _sum_2, _sum_1 = (weighted_sums_of(n) for n in (16, 8, 6, 4, 2, 1))
_grid_6, _grid_4, _grid_3, _grid_2 = (weighted_sums_of(n, rows=3) for n in (6, 4, 3, 2))
_fresh_4, _fresh_2, _fresh_1 = (weighted_sums_of(n, 4, True, fresh=True) for n in (4, 2, 1))
_MANY_REGISTERS = VECTOR_BYTES == 64  # 32 of them, else 16


@njit(**COMPILE)
def weighted_sum(acc, acc_at, source, source_at, offsets, weights, first, count, length):
    """acc[acc_at + i] += Σ_j weights[first + j] · source[source_at + offsets[first + j] + i].

    All arrays are one-dimensional and contiguous, or pointers to their first number; j runs over ``count``, i
    over ``length``.
    """
    lanes = lanes_of(acc)
    i = 0
    while _MANY_REGISTERS and length - i >= 16 * lanes:
        _sum_16(acc, acc_at + i, 0, source, source_at + i, offsets, weights, first, 0, count)
        i += 16 * lanes
    while length - i >= 8 * lanes:
        _sum_8(acc, acc_at + i, 0, source, source_at + i, offsets, weights, first, 0, count)
        i += 8 * lanes
    while length - i >= 6 * lanes:
        _sum_6(acc, acc_at + i, 0, source, source_at + i, offsets, weights, first, 0, count)
        i += 6 * lanes
    while length - i >= 4 * lanes:
        _sum_4(acc, acc_at + i, 0, source, source_at + i, offsets, weights, first, 0, count)
        i += 4 * lanes
    while length - i >= 2 * lanes:
        _sum_2(acc, acc_at + i, 0, source, source_at + i, offsets, weights, first, 0, count)
        i += 2 * lanes
    while length - i >= lanes:
        _sum_1(acc, acc_at + i, 0, source, source_at + i, offsets, weights, first, 0, count)
        i += lanes
    for k in range(i, length):
        total = acc[acc_at + k]
        for j in range(first, first + count):
            total += weights[j] * source[source_at + offsets[j] + k]
        acc[acc_at + k] = total


@njit(**COMPILE)
def weighted_sum_of_rows(
    acc,
    acc_at,
    acc_step,
    source,
    source_at,
    source_step,
    rows,
    offsets,
    weights,
    first,
    count,
    length,
):
    """``weighted_sum`` for each of ``rows`` rows, acc_step and source_step apart.

    Kernels of three rows, the most common, are summed together: each weight is read once.
    """
    i = 0
    if rows == 3:
        lanes = lanes_of(acc)
        while _MANY_REGISTERS and length - i >= 6 * lanes:
            to, of = acc_at + i, source_at + i
            _grid_6(acc, to, acc_step, source, of, offsets, weights, first, source_step, count)
            i += 6 * lanes
        if length - i == 3 * lanes:
            to, of = acc_at + i, source_at + i
            _grid_3(acc, to, acc_step, source, of, offsets, weights, first, source_step, count)
            i += 3 * lanes
        while length - i >= 4 * lanes:
            to, of = acc_at + i, source_at + i
            _grid_4(acc, to, acc_step, source, of, offsets, weights, first, source_step, count)
            i += 4 * lanes
        while length - i >= 2 * lanes:
            to, of = acc_at + i, source_at + i
            _grid_2(acc, to, acc_step, source, of, offsets, weights, first, source_step, count)
            i += 2 * lanes
        if i == length:
            return
    for row in range(rows):
        weighted_sum(
            acc,
            acc_at + row * acc_step + i,
            source,
            source_at + row * source_step + i,
            offsets,
            weights,
            first,
            count,
            length - i,
        )


@njit(**COMPILE)
def four_sums(acc, acc_at, step, source, source_at, offsets, weights, count, length):
    """acc[r, i] = Σ_j weights[r, j] · source[source_at + offsets[j] + i] for four rows r, ``step`` apart.

    ``weights`` is (4, count), all are flat.
    """
    lanes = lanes_of(acc)
    i = 0
    while _MANY_REGISTERS and length - i >= 4 * lanes:
        to, of = acc_at + i, source_at + i
        _fresh_4(acc, to, step, source, of, offsets, weights, 0, count, count)
        i += 4 * lanes
    while length - i >= 2 * lanes:
        to, of = acc_at + i, source_at + i
        _fresh_2(acc, to, step, source, of, offsets, weights, 0, count, count)
        i += 2 * lanes
    while length - i >= lanes:
        to, of = acc_at + i, source_at + i
        _fresh_1(acc, to, step, source, of, offsets, weights, 0, count, count)
        i += lanes
    for row in range(4):
        for k in range(i, length):
            to = acc_at + row * step + k
            acc[to] = 0
            for j in range(count):
                acc[to] += weights[row * count + j] * source[source_at + offsets[j] + k]
