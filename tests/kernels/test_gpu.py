"""The block's GPU kernels where there is no GPU: interpreted, and through Triton's real compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

INTERPRETED = {**os.environ, "TRITON_INTERPRET": "1"}
TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
}

pytest.importorskip("triton", reason="Triton is not installed: there are no GPU kernels")


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    # the interpreter computes both sides of a masked division with numpy, which warns
    command = [sys.executable, "-W", "ignore", "-m", *arguments]
    return subprocess.run(command, env=INTERPRETED, capture_output=True, text=True, check=False)


def test_interpreted_kernels_pass_their_tests() -> None:
    inner = Path(__file__).with_name("interpreted_gpu.py")
    done = _python("pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", str(inner))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


@pytest.mark.long
def test_interpreted_kernels_are_proved() -> None:
    done = _python("cnnexp.gradcheck", "--op", "conv_relu_pool", "--algorithm", "fused", "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all proved" in done.stdout


@pytest.mark.parametrize("average", [False, True], ids=["max", "avg"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_triton_compiles_the_kernels(
    dtype: torch.dtype, average: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To machine code for an H100, with the arguments that ``gpu`` launches them with."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from cnnexp.geometry.windows import WindowGeometry
    from cnnexp.kernels.gpu import conv_relu_pool as gpu
    from cnnexp.kernels.gpu import pooling as triton_pooling

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    _, window = gpu._numbers(
        WindowGeometry((8, 8), (3, 2), (2, 2), (1, 1), (1, 1), ceil_mode=False)
    )
    flags = {"AVERAGE": average, "SUM": gpu._sum_type(dtype), "BLOCK": gpu._BLOCK, **window}
    for name in ("pool_forward", "pool_gather", "pool_spread"):
        kernel = getattr(triton_pooling, name)
        constants = {**flags, "HAS_BIAS": True} if name == "pool_forward" else flags
        types = {n: _type(n, dtype) for n in kernel.arg_names if n not in constants}
        source = ASTSource(
            kernel,
            {**types, **dict.fromkeys(constants, "constexpr")},
            constexprs={(kernel.arg_names.index(n),): value for n, value in constants.items()},
        )
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
        assert f".visible .entry {name}" in compiled.asm["ptx"]
        assert compiled.asm["cubin"]


def _type(name: str, dtype: torch.dtype) -> str:
    if name == "code":
        return "*u8"
    if name == "divisors":
        return "*fp64" if dtype == torch.float64 else "*fp32"
    if name in ("image", "bias", "output", "grad_output"):
        return f"*{TYPES[dtype]}"
    return "i32"
