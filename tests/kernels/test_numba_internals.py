"""What cnnexp uses of numba's and llvmlite's private interfaces does what its name says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llvmlite import ir
from numba import get_num_threads, njit, types
from numba.core import caching
from numba.extending import intrinsic

from cnnexp.kernels.cpu.numba_internals import (
    cache_folder,
    counted_loop,
    data_of,
    declared,
    register_of,
    size_in_bytes,
    start_threads,
    tell_of_compilations,
    void,
)


def _kernel() -> Any:
    return njit(lambda x: x + 1)


def test_where_compiled_kernels_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel() -> None: ...

    folder = cache_folder(kernel)
    assert folder
    assert Path(folder).parts[-1] == "__pycache__" or Path(folder).is_absolute()
    for locator in caching.CacheImpl._locator_classes:
        monkeypatch.setattr(locator, "from_function", classmethod(lambda *_: None))
    assert cache_folder(kernel) == ""


def test_compilations_are_told_of() -> None:
    told: list[tuple[str, Callable[..., Any]]] = []
    tell_of_compilations(lambda f: told.append(("begin", f)), lambda f: told.append(("end", f)))
    kernel = _kernel()
    assert kernel(1) == 2
    mine = [what for what, function in told if function is kernel.py_func]
    assert mine == ["begin", "end"]
    kernel(2)
    assert len([what for what, function in told if function is kernel.py_func]) == 2


@intrinsic
def _add_fused(typing_context, values, times, to):
    """to[0] += times · values[i]² for each of 3 elements, by the helpers under test."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        double = ir.DoubleType()
        assert size_in_bytes(context, double) == 8
        source = data_of(context, builder, signature.args[0], arguments[0])
        target = data_of(context, builder, signature.args[2], arguments[2])
        fused = declared(builder, "llvm.fma.f64", ir.FunctionType(double, [double] * 3))
        assert declared(builder, "llvm.fma.f64", ir.FunctionType(double, [double] * 3)) is fused
        total = register_of(builder, double)
        builder.store(builder.load(target), total)
        with counted_loop(builder, arguments[1]) as loop:
            value = builder.load(builder.gep(source, [loop.index]))
            builder.store(builder.call(fused, [value, value, builder.load(total)]), total)
        builder.store(builder.load(total), target)
        return void(context)

    return types.void(values, types.intp, to), codegen


def test_an_intrinsic_made_of_the_helpers_computes() -> None:
    @njit
    def kernel(values, to):
        _add_fused(values, len(values), to)  # pyright: ignore[reportCallIssue]

    to = np.array([0.5])
    kernel(np.array([1.0, 2.0, 3.0]), to)
    assert to[0] == 0.5 + 1 + 4 + 9


def test_threads_are_started_once() -> None:
    start_threads()
    start_threads()
    assert get_num_threads() >= 1


def test_numbas_threads_leave_the_number_of_torchs_alone() -> None:
    """Sums of torch's depend on it: a resumed run would have other bits than one that was not stopped."""
    program = (
        "import torch; from cnnexp import ops; before = torch.get_num_threads();"
        "ops.conv_relu_pool(torch.rand(2, 3, 8, 8), torch.rand(4, 3, 3, 3));"
        "print(before, torch.get_num_threads())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "1"]
