"""The GPU kernels of the fused block as torch operators, which torch.compile and vmap can carry.

Tensors are images (N, C, H, W) in channels_last memory. The convolution and its two gradients are
cuDNN's; what is fused is all that lies between it and the pooled result. Triton compiles at the
first call and is imported only then.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from cnnexp.environment import variable
from cnnexp.geometry.windows import WindowGeometry
from cnnexp.kernels.limits import pool_refusal
from cnnexp.kernels.operators import gathered_image, new_image, operator, spread_image

_HAS_TRITON = find_spec("triton") is not None  # asked here, since torch.compile does not trace it
_INTERPRETED = variable("TRITON_INTERPRET") == "1"  # as Triton, once for all
_BLOCK = 1024  # elements of a program
_INTERPRETED_BLOCK = 1 << 16  # an interpreted program costs milliseconds, whatever its size


def has_kernels_for(image: Tensor) -> bool:
    """Whether ``image`` is where these kernels run: on a GPU, or anywhere if Triton interprets."""
    return _HAS_TRITON and (image.is_cuda or _INTERPRETED)


def _pooled_and_code(
    image: Tensor, bias: Tensor | None, pool: WindowGeometry, divisor: Tensor | None
) -> tuple[Tensor, Tensor]:
    if reason := pool_refusal(pool, average=divisor is not None):
        raise RuntimeError(
            f"the GPU kernels of conv_relu_pool take {reason}; use algorithm='direct'"
        )
    size, channels = pool.output_size, image.size(1)
    return new_image(image, channels, size), new_image(image, channels, size, torch.uint8)


@operator("gpu_bias_relu_pool_forward", _pooled_and_code)
def gpu_pool_forward(
    image: Tensor, bias: Tensor | None, pool: WindowGeometry, divisor: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Convolution's output without bias (N, C, H, W) → pooled ReLU of it (N, C, P, Q), its code."""
    output, code = _pooled_and_code(image, bias, pool, divisor)
    tensors = _in_order(image), image if bias is None else bias.detach().contiguous()
    results = output, code
    _launch("pool_forward", tensors, divisor, results, pool, HAS_BIAS=bias is not None)
    return output, code


@operator("gpu_bias_relu_pool_spread", spread_image)
def gpu_pool_spread(
    grad_output: Tensor, code: Tensor, pool: WindowGeometry, divisor: Tensor | None
) -> Tensor:
    """∂L/∂(pooled) (N, C, P, Q) → ∂L/∂(convolution's output) (N, C, H, W)."""
    image = spread_image(grad_output, code, pool, divisor)
    tensors = _in_order(grad_output), _in_order(code)
    _launch("pool_spread", tensors, divisor, (image,), pool)
    return image


@operator("gpu_bias_relu_pool_gather", gathered_image)
def gpu_pool_gather(
    image: Tensor, code: Tensor, pool: WindowGeometry, divisor: Tensor | None
) -> Tensor:
    """The transpose of ``gpu_pool_spread``: (N, C, H, W) → (N, C, P, Q)."""
    output = gathered_image(image, code, pool, divisor)
    _launch("pool_gather", (_in_order(image), _in_order(code)), divisor, (output,), pool)
    return output


def _in_order(image: Tensor) -> Tensor:
    return image.detach().contiguous(memory_format=torch.channels_last)


def _launch(
    kernel: str,
    tensors: Sequence[Tensor],
    divisor: Tensor | None,
    results: Sequence[Tensor],
    g: WindowGeometry,
    **flags: bool,
) -> None:
    from cnnexp.kernels.gpu import pooling

    first = results[0]
    count = first.numel()
    if count == 0:
        return
    block = _BLOCK if first.is_cuda else _INTERPRETED_BLOCK
    block = min(block, 1 << (count - 1).bit_length())
    sizes, window = _numbers(g)
    with _on_device_of(first):
        getattr(pooling, kernel)[(-(-count // block),)](
            *tensors,
            tensors[0] if divisor is None else divisor,  # without one it is never read
            *results,
            count,
            first.size(1),
            *sizes,
            AVERAGE=divisor is not None,
            **flags,
            **window,
            SUM=_sum_type(first.dtype),
            BLOCK=block,
        )


def _on_device_of(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """A context in which the GPU of ``tensor`` is the current one, as Triton wants it."""
    if not tensor.is_cuda or tensor.device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(tensor.device)


@functools.lru_cache(maxsize=256)
def _numbers(g: WindowGeometry) -> tuple[tuple[int, ...], dict[str, int]]:
    """The sizes of image and result, and the window as the kernels name its numbers."""
    pairs = {"K": g.kernel_size, "S": g.stride, "P": g.padding, "D": g.dilation}
    window = {
        f"{name}_{axis}": value
        for name, pair in pairs.items()
        for axis, value in zip("HW", pair, strict=True)
    }
    return (*g.input_size, *g.output_size), window


def _sum_type(dtype: torch.dtype) -> Any:
    import triton.language as tl

    return tl.float64 if dtype == torch.float64 else tl.float32
