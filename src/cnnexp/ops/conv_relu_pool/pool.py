"""What the pooling of a fused block is, and where its windows stand."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cnnexp.ops.geometry import IntPair, WindowGeometry, as_pair
from cnnexp.ops.pool_geometry import pool_geometry

__all__ = ["DEAD", "Pool"]

DEAD = 255  # the code of an element that the ReLU stopped


@dataclass(frozen=True)
class Pool:
    """The pooling of a fused block, with the arguments of ``max_pool2d`` or ``avg_pool2d``.

    Attributes:
        kind: ``"max"`` or ``"avg"``.
        kernel_size: Window, int or (K_h, K_w).
        stride: Step of the window; the window's size if None.
        padding: On both sides, at most half the window.
        dilation: Step within the window, max-pooling only.
        ceil_mode: Let the last window hang over the far edge.
        count_include_pad, divisor_override: As in ``avg_pool2d``, average-pooling only.

    Raises:
        ValueError: ``kind`` is neither ``"max"`` nor ``"avg"``, or an argument is not one of its own.
    """

    kind: str = "max"
    kernel_size: IntPair = 2
    stride: IntPair | None = None
    padding: IntPair = 0
    dilation: IntPair = 1
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("max", "avg"):
            raise ValueError(f"pool must be 'max' or 'avg', but got {self.kind!r}")
        if self.kind == "avg" and as_pair(self.dilation, "dilation") != (1, 1):
            raise ValueError(f"average-pooling has no dilation, but got {self.dilation}")
        if self.kind == "max" and not (self.count_include_pad and self.divisor_override is None):
            raise ValueError("max-pooling has neither count_include_pad nor divisor_override")

    def geometry(self, image: Tensor) -> WindowGeometry:
        """Where the windows stand on ``image`` (…, H, W); raises what the pooling op raises."""
        return pool_geometry(
            image,
            f"{self.kind}_pool2d",
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
        )
