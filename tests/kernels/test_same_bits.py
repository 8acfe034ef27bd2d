"""Neither the number of threads nor the instructions of the processor are in a result of our CPU kernels."""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
import sys
from typing import Any

import pytest

from cnnexp import ops
from tests.kernels.same_bits import algorithm_of, cases

DTYPES = ("float32", "float64")
SETTINGS: dict[str, dict[str, str]] = {
    "1 thread": {"threads": "1"},
    "2 threads": {"threads": "2"},
    "3 threads": {"threads": "3"},
    "AVX2": {"threads": "2", "NUMBA_CPU_NAME": "haswell"},
}
LONG = "AVX2"


@functools.cache
def _process(setting: str, dtype: str) -> subprocess.CompletedProcess[str]:
    changes = dict(SETTINGS[setting])
    threads = changes.pop("threads")
    known = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_CPU")}
    variables = {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
    return subprocess.run(
        [sys.executable, "-m", "tests.kernels.same_bits", dtype],
        env={**known, **variables, **changes},
        capture_output=True,
        text=True,
        check=False,
    )


def _found(setting: str, dtype: str) -> dict[str, Any]:
    """The bits that a process of its own prints in ``setting``."""
    done = _process(setting, dtype)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["threads"] == int(SETTINGS[setting]["threads"])
    assert found["processor"] == SETTINGS[setting].get("NUMBA_CPU_NAME")
    return found["bits"]


def _settings() -> list[Any]:
    """Each other one and dtype; what compiles all kernels anew takes minutes."""
    return [
        pytest.param(setting, dtype, marks=[pytest.mark.long] if setting == LONG else [])
        for setting in SETTINGS
        for dtype in DTYPES
        if setting != "1 thread"
    ]


@pytest.mark.parametrize("case", cases())
@pytest.mark.parametrize(("setting", "dtype"), _settings())
def test_the_bits_are_those_of_one_thread(setting: str, dtype: str, case: str) -> None:
    if setting == "AVX2" and platform.machine() != "x86_64":
        pytest.skip("an instruction set of x86")
    assert _found(setting, dtype)[case] == _found("1 thread", dtype)[case]


def test_every_way_of_our_kernels_is_looked_at() -> None:
    looked_at = {call.op for call in cases().values()}
    assert {op for op in ops.op_names() if algorithm_of(op)} == looked_at
    assert {"conv_relu_pool", "batch_norm_act", "linear", "cross_entropy"} <= looked_at


def test_other_numbers_have_other_bits() -> None:
    float32, float64 = (_found("1 thread", dtype) for dtype in DTYPES)
    assert all(float32[case] != float64[case] for case in float32)
    assert all(len(set(hashes)) == len(hashes) for hashes in float32.values())
