"""Numbers of half precision inside numba kernels, which know no bfloat16: 16 bits in an array of uint16.

    wide(bits)            the number, in float32
    narrow(number, like)  the number in the form of an element of the array ``like``, rounded to even

Both leave float32 and float64 as they are, so that one kernel serves all.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnexp.kernels.cpu.numba_internals import declared

_WORD, _HALF = ir.IntType(32), ir.IntType(16)


@intrinsic
def wide(typing_context, value):
    """``value``, if it is the 16 bits of a bfloat16, as float32."""
    halved = value == types.uint16

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        if not halved:
            return arguments[0]
        word = builder.shl(builder.zext(arguments[0], _WORD), ir.Constant(_WORD, 16))
        return builder.bitcast(word, ir.FloatType())

    return (types.float32 if halved else value)(value), codegen


@intrinsic
def narrow(typing_context, value, like):
    """``value``, float32 or float64, as the elements of the array ``like`` are."""
    halved = like.dtype == types.uint16

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        if not halved:
            return context.cast(builder, arguments[0], signature.args[0], like.dtype)
        word = builder.bitcast(arguments[0], _WORD)
        top = builder.lshr(word, ir.Constant(_WORD, 16))
        # to the nearest, and of two equally near ones to the even
        odd = builder.and_(top, ir.Constant(_WORD, 1))
        rounded = builder.add(builder.add(word, ir.Constant(_WORD, 0x7FFF)), odd)
        rounded = builder.lshr(rounded, ir.Constant(_WORD, 16))
        is_nan = builder.fcmp_unordered("uno", arguments[0], arguments[0])
        quiet = builder.or_(top, ir.Constant(_WORD, 0x40))  # which a carry would make an infinity
        return builder.trunc(builder.select(is_nan, quiet, rounded), _HALF)

    return like.dtype(value, like), codegen


@intrinsic
def power_of_two(typing_context, exponent):
    """2ⁿ of a whole number n, float32 or float64, within the range of normal numbers."""
    single = exponent == types.float32

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        kind = ir.IntType(32 if single else 64)
        bias, mantissa = (127, 23) if single else (1023, 52)
        whole = builder.add(builder.fptosi(arguments[0], kind), ir.Constant(kind, bias))
        bits = builder.shl(whole, ir.Constant(kind, mantissa))
        return builder.bitcast(bits, ir.FloatType() if single else ir.DoubleType())

    return exponent(exponent), codegen


@intrinsic
def of_kind(typing_context, number, like):
    """``number``, a float64 as all that is written in Python, in the precision of ``like``."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return context.cast(builder, arguments[0], signature.args[0], like)

    return like(number, like), codegen


@intrinsic
def numbers_at(typing_context, address, element):
    """A pointer to numbers of the kind of ``element`` at ``address``, for ``numba.carray``."""
    kind = types.CPointer(element)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(kind))

    return kind(address, element), codegen


@intrinsic
def floor(typing_context, value):
    """The largest whole number up to ``value``; numba's own calls a function, which stops vectors."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        name = f"llvm.floor.f{32 if value == types.float32 else 64}"
        return builder.call(declared(builder, name, ir.FunctionType(kind, [kind])), arguments)

    return value(value), codegen


@intrinsic
def is_double(typing_context, value):
    """Whether ``value`` is a float64, which is known when the kernel is compiled."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return ir.Constant(ir.IntType(1), value == types.float64)

    return types.boolean(value), codegen


@intrinsic
def is_half(typing_context, like):
    """Whether the array ``like`` holds the bits of bfloat16, which is known when the kernel is compiled."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return ir.Constant(ir.IntType(1), like.dtype == types.uint16)

    return types.boolean(like), codegen
