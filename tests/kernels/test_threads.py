"""The number of threads holds for torch and for the kernels, whichever has started its threads before."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cnnexp.kernels.threads import with_threads

_PROGRAM = """
import numba, torch
from cnnexp.kernels.threads import use_threads, with_threads
{before}
use_threads(1)
x = torch.randn(2, 3, 8, 8, requires_grad=True)
from cnnexp import ops
ops.conv_relu_pool(x, torch.randn(4, 3, 3, 3), None, algorithm="fused").sum().backward()
assert (torch.get_num_threads(), numba.get_num_threads()) == (1, 1)
with with_threads(2):
    assert (torch.get_num_threads(), numba.get_num_threads()) == (2, 2)
assert (torch.get_num_threads(), numba.get_num_threads()) == (1, 1)
"""


@pytest.mark.parametrize("before", ["", "numba.set_num_threads(2)", "torch.set_num_threads(2)"])
def test_both_compute_with_that_many(before: str) -> None:
    environment = {"NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    program = f"import os; os.environ |= {environment!r}" + _PROGRAM.format(before=before)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("environment", "before", "kernels"),
    [
        ({"OMP_NUM_THREADS": "1"}, "", 1),  # as torchrun sets it
        ({}, "torch.set_num_threads(1)", 1),
        ({"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "3"}, "", 3),
    ],
)
def test_kernels_follow_torch(environment: dict[str, str], before: str, kernels: int) -> None:
    program = f"""
import numba, torch
{before}
import cnnexp.kernels.cpu.vector
assert (torch.get_num_threads(), numba.get_num_threads()) == (1, {kernels})
"""
    others = {
        k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
    }
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=others | environment
    )
    assert ran.returncode == 0, ran.stderr


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="number of threads"), with_threads(10_000):
        pass
