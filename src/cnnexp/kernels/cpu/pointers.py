"""Pointers for the inner loops of kernels: what numba does not count.

numba counts who uses an array, by atomic additions wherever one is handed on or put into a tuple. A handful
of them takes fifty nanoseconds, in which a core multiplies some ten thousand numbers: more than many an inner
loop has. Nobody counts pointers. In return nothing keeps what they point to: each array is held until after
the last use of its pointer.

    a = start_of(array)
    …                        loops that read a[i] and hand a on
    hold(array)          or hold((array, another))
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import TypingError, types
from numba.extending import intrinsic

from cnnexp.kernels.cpu.numba_internals import data_of, void

__all__ = ["ahead", "hold", "start_of"]


@intrinsic
def start_of(typing_context, array):
    """A pointer to the first number of ``array``; ``array`` is to be held (:func:`hold`) while it is used.

    Raises:
        TypingError: The numbers of ``array`` do not stand one after the other.
    """
    if array.layout != "C":
        raise TypingError(f"start_of takes an array whose numbers stand in a row, not {array}")

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return data_of(context, builder, signature.args[0], arguments[0])

    return types.CPointer(array.dtype)(array), codegen


@intrinsic
def ahead(typing_context, start, by):
    """The pointer ``by`` numbers after ``start``."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.gep(arguments[0], [arguments[1]])

    return start(start, types.intp), codegen


@intrinsic
def hold(typing_context, arrays):
    """Nothing: numba keeps ``arrays``, one or a tuple, at least until here."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return void(context)

    return types.void(arrays), codegen
