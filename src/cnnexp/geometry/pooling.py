"""The arguments of a pooling, checked and brought into one form; the pooling of a fused block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cnnexp.geometry.described import Described, described, remembered
from cnnexp.geometry.windows import IntPair, WindowGeometry, as_pair, check_image

DEAD = 255  # the code of an element that the ReLU stopped


def pool_geometry(
    input: Tensor,
    op: str,
    kernel_size: IntPair,
    stride: IntPair | None,
    padding: IntPair,
    dilation: IntPair,
    ceil_mode: bool,
) -> WindowGeometry:
    """Check the arguments of a pooling op, as torch does, and compute its geometry.

    Raises:
        RuntimeError: Wrong number of dimensions, an empty image, a value out of range, more padding
            than half the kernel, or a window that does not fit.
        TypeError: An argument is neither an int nor a pair of ints.
    """
    arguments = kernel_size, stride, padding, dilation, ceil_mode
    return remembered(_pool_geometry, (described(input),), op, *arguments)


def _pool_geometry(
    input: Described,
    op: str,
    kernel_size: IntPair,
    stride: IntPair | None,
    padding: IntPair,
    dilation: IntPair,
    ceil_mode: bool,
) -> WindowGeometry:
    check_image(input.shape, op)
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
    size = (input.shape[-2], input.shape[-1])
    dilation = as_pair(dilation, "dilation")
    return WindowGeometry(size, kernel_size, stride, padding, dilation, bool(ceil_mode))


@dataclass(frozen=True)
class Pool:
    """The pooling of a fused block, with the arguments of ``max_pool2d`` or ``avg_pool2d``.

    Attributes:
        kind: ``"max"`` or ``"avg"``.
        kernel_size: Size of the window, int or (K_h, K_w).
        stride: Step of the window; the window's size if None.
        padding: Padding on both sides, at most half the window.
        dilation: Step within the window, max-pooling only.
        ceil_mode: Whether the last window may extend beyond the far edge.
        count_include_pad, divisor_override: As in ``avg_pool2d``, average-pooling only.

    Raises:
        ValueError: ``kind`` is neither ``"max"`` nor ``"avg"``, or an argument is for the other kind.

    Examples:
        >>> from cnnexp.ops import Pool
        >>> Pool("avg", kernel_size=3, stride=2).kernel_size
        3
        >>> Pool("median")
        Traceback (most recent call last):
            ...
        ValueError: pool must be 'max' or 'avg', but got 'median'
    """

    kind: str = "max"
    kernel_size: IntPair = 2
    stride: IntPair | None = None
    padding: IntPair = 0
    dilation: IntPair = 1
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None

    exact: ClassVar[bool] = True  # no float stands for an int in it

    def __post_init__(self) -> None:
        for name in ("kernel_size", "stride", "padding", "dilation"):
            value = getattr(self, name)
            if isinstance(value, list):  # by which nothing could be looked up
                object.__setattr__(self, name, tuple(value))
            if value not in (None, [], ()):  # torch takes an empty stride for none
                as_pair(value, name)
        if self.kind not in ("max", "avg"):
            raise ValueError(f"pool must be 'max' or 'avg', but got {self.kind!r}")
        if self.kind == "avg" and as_pair(self.dilation, "dilation") != (1, 1):
            raise ValueError(f"average-pooling has no dilation, but got {self.dilation}")
        if self.kind == "max" and not (self.count_include_pad and self.divisor_override is None):
            raise ValueError("max-pooling has neither count_include_pad nor divisor_override")

    def geometry(self, image: Described) -> WindowGeometry:
        """The positions of the windows on ``image`` (…, H, W).

        Raises:
            RuntimeError: As :func:`pool_geometry`.
        """
        return remembered(_geometry_of, (image,), self)


def _geometry_of(image: Described, pool: Pool) -> WindowGeometry:
    window = pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode
    return _pool_geometry(image, f"{pool.kind}_pool2d", *window)
