"""The arguments of a pooling op, checked and brought into one form."""

from __future__ import annotations

from torch import Tensor

from cnnexp.ops.geometry import IntPair, WindowGeometry, as_pair, check_image

__all__ = ["pool_geometry"]


def pool_geometry(
    input: Tensor,
    op: str,
    kernel_size: IntPair,
    stride: IntPair | None,
    padding: IntPair,
    dilation: IntPair,
    ceil_mode: bool,
) -> WindowGeometry:
    """Check the arguments of a pooling op, as torch does, and work out its geometry.

    Raises:
        RuntimeError: Wrong number of dimensions, an empty image, a value out of range, more padding
            than half the kernel, or a window that does not fit.
        TypeError: An argument is neither an int nor a pair of ints.
    """
    check_image(input, op)
    if any(size == 0 for size in input.shape[-3:]):
        raise RuntimeError(
            f"{op} takes an empty batch, but no empty images and no images without channels, and "
            f"got input of size {list(input.shape)}"
        )
    kernel_size = as_pair(kernel_size, "kernel_size")
    # torch takes an empty sequence for "not given", too
    if stride is None or stride in ([], ()):
        stride = kernel_size
    stride = as_pair(stride, "stride")
    padding = as_pair(padding, "padding")
    if any(p > k // 2 for p, k in zip(padding, kernel_size, strict=True)):
        raise RuntimeError(
            f"padding should be at most half of the kernel size, but got padding={padding} "
            f"and kernel_size={kernel_size}"
        )
    size = (input.size(-2), input.size(-1))
    dilation = as_pair(dilation, "dilation")
    return WindowGeometry(size, kernel_size, stride, padding, dilation, bool(ceil_mode))
