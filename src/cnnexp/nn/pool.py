"""Pooling layers that compute with ``cnnexp.ops``."""

from __future__ import annotations

from torch import Tensor, nn

from cnnexp import ops
from cnnexp.nn.layer import Layer
from cnnexp.nn.twins import replaces


@replaces(nn.MaxPool2d)
class MaxPool2d(Layer, nn.MaxPool2d):
    """``torch.nn.MaxPool2d`` with the backward of ``algorithm``."""

    op = "max_pool2d"
    recompute = False  # whether ``fuse_blocks`` is to save memory

    def compute(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Map (N, C, H, W) or (C, H, W) to (N, C, P, Q) or (C, P, Q); with ``return_indices``,
        return a pair.
        """
        return ops.max_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
            algorithm=self.algorithm,
        )

    def way_by(self, algorithm: str) -> str:
        """See ``Layer.way_by``: ``fused``, and what saves memory, is the one with kernels of its own."""
        kernels = self.recompute or algorithm == "fused"
        return "small_indices" if kernels else super().way_by(algorithm)

    def extra_repr(self) -> str:
        """Describe the layer's settings for ``repr``."""
        return f"{super().extra_repr()}{', recompute=True' if self.recompute else ''}"


@replaces(nn.AvgPool2d)
class AvgPool2d(Layer, nn.AvgPool2d):
    """``torch.nn.AvgPool2d`` with the backward of ``algorithm``."""

    op = "avg_pool2d"

    def compute(self, input: Tensor) -> Tensor:
        """Map (N, C, H, W) or (C, H, W) to (N, C, P, Q) or (C, P, Q)."""
        return ops.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
            algorithm=self.algorithm,
        )


@replaces(nn.AdaptiveAvgPool2d)
class AdaptiveAvgPool2d(Layer, nn.AdaptiveAvgPool2d):
    """``torch.nn.AdaptiveAvgPool2d`` with the backward of ``algorithm``."""

    op = "adaptive_avg_pool2d"

    def compute(self, input: Tensor) -> Tensor:
        """Map (N, C, H, W) or (C, H, W) to (N, C, P, Q) or (C, P, Q)."""
        return ops.adaptive_avg_pool2d(input, self.output_size, algorithm=self.algorithm)
