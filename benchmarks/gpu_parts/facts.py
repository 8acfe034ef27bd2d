"""What the device and its libraries are, and what they reach in the simplest tasks."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable

import torch
from torch.cuda import nccl

from gpu_parts.rows import NeedsCudaError, Rows

__all__ = ["run"]

_PACKAGES = ("torchvision", "lightning", "triton", "numba", "numpy", "hydra-core", "omegaconf")


def run(rows: Rows) -> None:
    """Facts first, which need nothing, then what is measured."""
    rows.add("processor", value=os.cpu_count(), unit="cores", note=platform.processor())
    rows.add("python", note=platform.python_version())
    for name in _PACKAGES:
        try:
            rows.add(name, note=importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            rows.add(name, state="failed", note="is not installed")
    compiler = shutil.which("cc") or shutil.which("gcc")
    rows.add("C compiler", note=compiler or "there is none: Triton needs one")
    if rows.on_gpu:
        _device(rows)
    n = 8192 if rows.on_gpu else 128
    for name, dtype, tf32 in (
        ("bfloat16", torch.bfloat16, False),
        ("float16", torch.float16, False),
        ("TF32", torch.float32, True),
        ("float32", torch.float32, False),
    ):
        with rows.trying(f"matrix product of {n}²", name) as row:
            seconds = _product(n, dtype, tf32, rows.device)
            row |= {"value": 2 * n**3 / seconds / 1e12, "unit": "TFLOP/s"}
    with rows.trying("copy", "device to device") as row:
        source = torch.empty(2**30 if rows.on_gpu else 2**20, dtype=torch.uint8, device=rows.device)
        target = torch.empty_like(source)
        seconds = _seconds(lambda: target.copy_(source), rows.device)
        row |= {"value": 2 * source.numel() / seconds / 1e9, "unit": "GB/s read and written"}
    with rows.trying("small kernel", "launches in a row") as row:
        small = torch.zeros(1, device=rows.device)
        row |= {"value": 1e6 * _seconds(lambda: small.add_(1), rows.device, 1000), "unit": "µs"}
    with rows.trying("Triton", "first kernel compiled and run") as row:
        row |= {"value": _first_kernel(rows.device), "unit": "s"}


def _device(rows: Rows) -> None:
    about = torch.cuda.get_device_properties(rows.device)
    rows.add(about.name, f"capability {about.major}.{about.minor}",
             value=about.total_memory / 1e9, unit="GB",
             note=f"{about.multi_processor_count} multiprocessors")  # fmt: skip
    rows.add("CUDA", note=str(torch.version.cuda))
    rows.add("cuDNN", note=str(torch.backends.cudnn.version()))
    with rows.trying("NCCL") as row:
        row["note"] = ".".join(map(str, nccl.version()))
    with rows.trying("driver") as row:
        query = ["nvidia-smi", "--query-gpu=driver_version,memory.used", "--format=csv,noheader"]
        row["note"] = subprocess.run(
            query, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()


def _product(n: int, dtype: torch.dtype, tf32: bool, device: torch.device) -> float:
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        return _seconds(lambda: a @ b, device)
    finally:
        torch.set_float32_matmul_precision("highest")


def _seconds(function: Callable[[], object], device: torch.device, times: int = 10) -> float:
    """Mean of so many calls in a row, after two that do not count."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(2):
        function()
    wait()
    start = time.perf_counter()
    for _ in range(times):
        function()
    wait()
    return (time.perf_counter() - start) / times


def _first_kernel(device: torch.device) -> float:
    from cnnexp.geometry.windows import WindowGeometry
    from cnnexp.kernels.gpu import conv_relu_pool as gpu

    image = torch.randn(2, 3, 8, 8, device=device)
    if not gpu.has_kernels_for(image):
        raise NeedsCudaError("the kernels of the fused block are Triton's")
    window = WindowGeometry((8, 8), (2, 2), (2, 2))
    start = time.perf_counter()
    output, _ = gpu.gpu_pool_forward(image, None, window, None)
    found = output.cpu()  # waits
    seconds = time.perf_counter() - start
    expected = torch.nn.functional.max_pool2d(image.relu(), 2).cpu()
    if not torch.equal(found, expected):
        raise RuntimeError("the kernel's result is not torch's")
    return seconds
