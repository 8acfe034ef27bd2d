"""What cnnexp uses of the private interfaces of numba and llvmlite; no other file of the package does.

Each use is one function, which says what public way was looked for. Tried with numba 0.68.1 and llvmlite
0.50.0. Public, and used where it is needed, are ``numba.extending.intrinsic``, ``numba.types`` and
``llvmlite.ir``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils, event
from numba.core.caching import FunctionCache
from numba.np.ufunc.parallel import _launch_threads

__all__ = [
    "BFloatType",
    "cache_folder",
    "counted_loop",
    "data_of",
    "declared",
    "register_of",
    "size_in_bytes",
    "start_threads",
    "tell_of_compilations",
    "void",
]


def cache_folder(kernel: Callable[..., Any]) -> str:
    """The folder in which numba keeps what it compiles of ``kernel``, a function in a file; "" if none.

    That is a folder in ``NUMBA_CACHE_DIR``, else ``__pycache__`` beside the file, else one in the user's
    cache folder: the first that can be written. Where there is none, numba refuses ``cache=True``.

    ``numba.config.CACHE_DIR`` was looked at: it is one of the places that numba may choose.
    """
    try:
        return FunctionCache(kernel).cache_path
    except RuntimeError:
        return ""


def start_threads() -> None:
    """Start numba's threads now, which the first parallel kernel would do.

    ``numba.set_num_threads`` was looked at: it starts them, too, but only for another number than there are.
    """
    _launch_threads()


def tell_of_compilations(
    begin: Callable[[Callable[..., Any]], None], end: Callable[[Callable[..., Any]], None]
) -> None:
    """Call ``begin`` and ``end`` with each Python function that numba compiles from now on.

    The documentation of numba's events was looked at, which are made for that: it has them in ``numba.core``.
    """

    class Listener(event.Listener):
        def on_start(self, event: Any) -> None:
            begin(event.data["dispatcher"].py_func)

        def on_end(self, event: Any) -> None:
            end(event.data["dispatcher"].py_func)

    event.register("numba:compile", Listener())


# What follows is for intrinsics: the context that ``numba.extending.intrinsic`` hands to the code generator,
# and the helpers that numba's own examples of it use, are in ``numba.core`` alone.


def data_of(context: Any, builder: ir.IRBuilder, kind: Any, array: Any) -> Any:
    """Pointer to the first element of ``array``, of the numba type ``kind``; a pointer is one already."""
    if isinstance(kind, types.CPointer):
        return array
    return context.make_array(kind)(context, builder, array).data


def size_in_bytes(context: Any, kind: Any) -> int:
    """How many bytes a value of the LLVM type ``kind`` has on this machine."""
    return kind.get_abi_size(context.target_data)


def void(context: Any) -> Any:
    """What an intrinsic returns that returns nothing."""
    return context.get_dummy_value()


def register_of(builder: ir.IRBuilder, kind: Any) -> Any:
    """A variable of the LLVM type ``kind``, outside of all loops, which LLVM turns into a register."""
    return cgutils.alloca_once(builder, kind)


def counted_loop(builder: ir.IRBuilder, count: Any) -> AbstractContextManager[Any]:
    """A loop of ``count`` rounds around what is built within it; its ``index`` counts from 0."""
    return cgutils.for_range(builder, count)


def declared(builder: ir.IRBuilder, name: str, kind: ir.FunctionType) -> Any:
    """The LLVM function ``name``, declared once in the module that is built."""
    return cgutils.get_or_insert_function(builder.module, kind, name)


class BFloatType(ir.Type):
    """LLVM's ``bfloat``, which ``llvmlite.ir`` does not have; nothing but bit patterns is cast to it."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloatType)

    def __hash__(self) -> int:
        return hash(BFloatType)
