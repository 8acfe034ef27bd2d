"""Vectors in the memory of numba's arrays, and their lanes, for intrinsics that write LLVM instructions."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from cnnexp.kernels.cpu.numba_internals import data_of

__all__ = ["Memory", "shuffled", "zipped"]

_INDEX = ir.IntType(64)


def shuffled(builder: ir.IRBuilder, one: Any, other: Any, order: list[int]) -> Any:
    """The lanes ``order`` of ``one`` and, counted on, ``other``."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order)
    return builder.shuffle_vector(one, other, mask)


def zipped(builder: ir.IRBuilder, one: Any, other: Any, lanes: list[int]) -> Any:
    """One lane of ``one``, the same of ``other``, and so on."""
    order = [i for lane in lanes for i in (lane, one.type.count + lane)]
    return shuffled(builder, one, other, order)


class Memory:
    """Loads and stores of vectors in numba arrays of one call of an intrinsic."""

    def __init__(self, context: Any, builder: ir.IRBuilder, kinds: Any, arguments: Any) -> None:
        self.context, self.builder, self.kinds, self.arguments = context, builder, kinds, arguments

    def element(self, array: int, at: Any) -> Any:
        """The pointer to element ``at`` of the argument ``array``."""
        data = data_of(self.context, self.builder, self.kinds[array], self.arguments[array])
        return self.builder.gep(data, [at])

    def ahead(self, start: Any, by: Any, times: int, more: int = 0) -> Any:
        """``start`` + ``by``·``times`` + ``more``, of indices."""
        step = self.builder.mul(by, ir.Constant(_INDEX, times))
        return self.builder.add(self.builder.add(start, step), ir.Constant(_INDEX, more))

    def load(self, array: int, at: Any, kind: Any, align: int) -> Any:
        """What of the LLVM type ``kind`` begins at element ``at`` of the argument ``array``."""
        return self.builder.load(self._place(array, at, kind), align=align)

    def store(self, value: Any, array: int, at: Any, align: int) -> None:
        """Write ``value`` from element ``at`` of the argument ``array`` on."""
        self.builder.store(value, self._place(array, at, value.type), align=align)

    def _place(self, array: int, at: Any, kind: Any) -> Any:
        return self.builder.bitcast(self.element(array, at), kind.as_pointer())
