"""Print the bits of every way that is computed by our CPU kernels: outputs and gradients, as hashes.

    python -m tests.kernels.same_bits float32

The number of threads and the processor that numba compiles for come from the environment.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator

import numba
import torch

from cnnexp import ops
from cnnexp.kernels.cpu.implicit import FEWEST_CHANNELS
from tests.ops.calls import CALLS, Call

IN_TRAINING = {"running_mean": None, "running_var": None, "training": True}

# large enough to be shared out among threads, and for all parts of a sum
LARGE = {
    "linear, long sums": Call("linear", ((150, 1100), (170, 1100), (170,))),
    "linear, few outputs": Call("linear", ((128, 256), (10, 256), (10,))),
    "linear_act, odd": Call(
        "linear_act",
        ((75, 301), (50, 301), (50,), (33, 50), (33,), (7, 33), (7,)),
        {"activations": ("tanh", "relu", "none")},
    ),
    "conv_relu_pool, first": Call(
        "conv_relu_pool", ((32, 1, 28, 28), (32, 1, 3, 3), (32,)), {"padding": 1}
    ),
    "conv_relu_pool, later": Call(
        "conv_relu_pool", ((32, 32, 14, 14), (64, 32, 3, 3), (64,)), {"padding": 1}
    ),
    "batch_norm_act, many": Call("batch_norm_act", ((64, 32, 9, 9), (32,), (32,)), IN_TRAINING),
    "conv2d depthwise, large": Call(
        "conv2d", ((16, 48, 20, 20), (48, 1, 3, 3), (48,)), {"padding": 1, "groups": 48}
    ),
    "conv2d narrow, large": Call(
        "conv2d", ((33, 7, 13, 14), (11, 7, 5, 3), (11,)), {"padding": (2, 1)}
    ),
    "conv2d implicit_gemm, large": Call(
        "conv2d", ((41, 70, 6, 5), (90, 70, 3, 3), (90,)), {"padding": 1}
    ),
    "conv2d implicit_gemm, long sums": Call(
        "conv2d", ((36, 18, 9, 9), (20, 18, 3, 3), (20,)), {"stride": 2}
    ),
    "conv_tanh_pool, first": Call(
        "conv_tanh_pool",
        ((32, 1, 28, 28), (6, 1, 5, 5), (6,)),
        {"padding": 2, "pool": ops.Pool("avg")},
    ),
    "conv_tanh_pool, later": Call(
        "conv_tanh_pool",
        ((32, 6, 14, 14), (16, 6, 5, 5), (16,)),
        {"pool": ops.Pool("avg", 3, 2, 1)},
    ),
    "cross_entropy, classes": Call(
        "cross_entropy", ((500, 10),), {"target": torch.arange(500) * 7 % 10}
    ),
}
_KERNELS = ("fused", "depthwise")
_LOSS = "direct"  # of the loss, which has no other way of ours


def algorithm_of(op: str, groups: int = 2, channels: int = 0) -> str | None:
    """The way whose bits are fixed: that of our kernels, or that of the loss."""
    if op == "conv2d" and groups == 1:
        return "narrow" if channels < FEWEST_CHANNELS else "implicit_gemm"
    for name in _KERNELS:
        if name in ops.algorithm_names(op):
            return name
    return _LOSS if op == "cross_entropy" else None


def _is_ours(call: Call) -> bool:
    """Whether all its sums are our kernels'; blocks in groups and averages have the library's gradients."""
    pool, groups = call.arguments.get("pool"), call.arguments.get("groups", 1)
    average = pool is not None and pool.kind == "avg"
    if call.op == "conv2d":
        return groups == call.shapes[0][1] == call.shapes[1][0]
    if call.op == "conv_tanh_pool":
        return groups == 1
    return algorithm_of(call.op) in _KERNELS and not average and groups == 1


def cases() -> dict[str, Call]:
    """The small calls of every such op, of more images, and the large ones."""
    small = {
        name: call._replace(shapes=((24, *call.shapes[0][1:]), *call.shapes[1:]))
        for name, call in CALLS.items()
        if _is_ours(call)
    }
    return {**small, **LARGE}


def bits(dtype: torch.dtype) -> Iterator[tuple[str, list[str]]]:
    """For each case the hashes of the output and of each gradient."""
    for name, call in cases().items():
        tensors = call.tensors(dtype)
        way = algorithm_of(call.op, call.arguments.get("groups", 1), call.shapes[0][1])
        output = call.function(way)(*tensors)
        generator = torch.Generator().manual_seed(1)
        given = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(dtype)
        grads = torch.autograd.grad(output, tensors, given)
        parts = [each.detach().contiguous().numpy().tobytes() for each in (output, *grads)]
        yield name, [hashlib.sha256(part).hexdigest()[:16] for part in parts]


if __name__ == "__main__":
    found = {
        "threads": numba.get_num_threads(),
        "processor": numba.config.CPU_NAME,  # pyright: ignore[reportAttributeAccessIssue]
        "bits": dict(bits(getattr(torch, sys.argv[1]))),
    }
    print(json.dumps(found))
