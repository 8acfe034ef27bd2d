"""Kernels are compiled once a machine: that is said, and no figure of speed counts it."""

from __future__ import annotations

import importlib.util
import io
import logging
import shutil
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from numba import config, njit
from numba.core import caching
from torch import nn

from cnnexp.kernels import compilation
from cnnexp.kernels.compilation import clock, said_on, seconds_compiling
from cnnexp.kernels.cpu import vector
from cnnexp.kernels.cpu.numba_internals import cache_folder
from cnnexp.tuning.compiled import compiled


def _kernel(module: str) -> Any:
    """A kernel that has yet to be compiled, of ``module``."""

    def doubled(x: float) -> float:
        return 2 * x

    doubled.__module__ = module
    return njit(doubled)


def test_what_numba_compiles_of_ours_is_said_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    kernel = _kernel("cnnexp.ops.some")
    seconds, time_now, clock_now = seconds_compiling(), time.perf_counter(), clock()
    with caplog.at_level(logging.INFO, "cnnexp"):
        assert kernel(2.0) == 4.0
    took = seconds_compiling() - seconds
    assert took > 0
    assert (time.perf_counter() - time_now) - (clock() - clock_now) == pytest.approx(took, abs=0.01)
    assert "compiled doubled: " in caplog.text
    caplog.clear()
    after = seconds_compiling()
    with caplog.at_level(logging.INFO, "cnnexp"):
        kernel(3.0)  # for this type it is compiled
        _kernel("somebody.else")(2.0)
    assert (seconds_compiling(), caplog.text) == (after, "")


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_what_torch_compiles_is_counted() -> None:
    network = nn.Linear(4, 2)
    module: Any = compiled(network)
    seconds, time_now, clock_now = seconds_compiling(), time.perf_counter(), clock()
    module(torch.ones(3, 4)).sum().backward()
    took = seconds_compiling() - seconds
    assert took > 0
    assert (time.perf_counter() - time_now) - (clock() - clock_now) == pytest.approx(took, abs=0.01)
    after = seconds_compiling()
    module(torch.ones(3, 4)).sum().backward()
    assert seconds_compiling() == after


def test_it_is_announced_once_and_what_is_within_is_part_of_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "_seconds", 0.0)
    outer, inner = _kernel("cnnexp.a").py_func, _kernel("numba.cpython.builtins").py_func
    watch = compilation._Watch("/kept/here")
    with caplog.at_level(logging.INFO, "cnnexp"):
        for _ in range(2):
            watch.begin(outer)
            watch.begin(inner)
            watch.end(inner)
            assert seconds_compiling() == 0 or watch.done == 1
            watch.end(outer)
        watch.begin(inner)  # a user's own function needs it
        watch.end(inner)
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == (
        "compiling kernels for this processor, once a machine: about half a minute (kept in /kept/here)"
    )
    assert [line.partition(" so far")[0] for line in said[1:]] == [
        "compiled doubled: 1",
        "compiled doubled: 2",
    ]


def test_without_a_folder_to_keep_them_in_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch, function = compilation._Watch(""), _kernel("cnnexp.a").py_func
    for _ in range(2):
        watch.begin(function)
        watch.end(function)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warning.startswith(
        "compiling kernels for this processor, about half a minute at every start"
    )
    assert warning.endswith("set NUMBA_CACHE_DIR to one that can")


def _loaded_again(module: ModuleType) -> ModuleType:
    assert module.__file__ is not None
    spec = importlib.util.spec_from_file_location("loaded_again", module.__file__)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_where_results_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    assert Path(cache_folder(_kernel)).parent == tmp_path
    monkeypatch.setattr(config, "CACHE_DIR", "")
    assert Path(cache_folder(_kernel)) == Path(__file__).parent / "__pycache__"
    assert _loaded_again(vector).COMPILE["cache"] is True

    def refuse(self: Any) -> None:
        raise PermissionError("Read-only file system")

    monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", refuse)
    assert cache_folder(_kernel) == ""
    assert (
        _loaded_again(vector).COMPILE["cache"] is False
    )  # compiled in each process, but not refused


def test_commands_without_logging_say_it_on_a_stream() -> None:
    stream = io.StringIO()
    with said_on(stream):
        _kernel("cnnexp.ops.some")(1.0)
    _kernel("cnnexp.ops.some")(1.0)
    assert stream.getvalue().count("compiled doubled: ") == 1


def test_triton_s_time_is_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton")
    heard = []
    monkeypatch.setattr(compilation, "_seconds", 0.0)
    monkeypatch.setattr(
        triton.knobs.compilation, "listener", lambda **details: heard.append(details)
    )
    compilation.watch_triton()

    class Times:
        total = 1_500_000  # microseconds

    listen = triton.knobs.compilation.listener
    for hit in (False, True):
        listen(src=None, metadata={}, metadata_group={}, times=Times(), cache_hit=hit)
    assert seconds_compiling() == 1.5
    assert [each["cache_hit"] for each in heard] == [False, True]  # who listened before still does
