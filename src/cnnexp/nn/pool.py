"""Pooling layers that compute with ``cnnexp.ops``."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cnnexp import ops

__all__ = ["AvgPool2d", "MaxPool2d"]


class MaxPool2d(nn.MaxPool2d):
    """``torch.nn.MaxPool2d`` with the backward of ``algorithm``.

    Args:
        *args, **kwargs: As ``torch.nn.MaxPool2d``.
        algorithm: A name from ``cnnexp.ops.algorithm_names("max_pool2d")``.

    Raises:
        UnknownAlgorithmError: ``algorithm`` is not registered.
    """

    algorithm: str

    def __init__(self, *args: Any, algorithm: str = "direct", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.algorithm = ops.get_algorithm("max_pool2d", algorithm).name

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(N, C, H, W) or (C, H, W) → (N, C, P, Q) or (C, P, Q); a pair with ``return_indices``."""
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

    def extra_repr(self) -> str:
        """The layer's settings, for ``repr``."""
        return f"{super().extra_repr()}, algorithm={self.algorithm}"


class AvgPool2d(nn.AvgPool2d):
    """``torch.nn.AvgPool2d`` with the backward of ``algorithm``.

    Args:
        *args, **kwargs: As ``torch.nn.AvgPool2d``.
        algorithm: A name from ``cnnexp.ops.algorithm_names("avg_pool2d")``.

    Raises:
        UnknownAlgorithmError: ``algorithm`` is not registered.
    """

    algorithm: str

    def __init__(self, *args: Any, algorithm: str = "direct", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.algorithm = ops.get_algorithm("avg_pool2d", algorithm).name

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) or (C, H, W) → (N, C, P, Q) or (C, P, Q)."""
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

    def extra_repr(self) -> str:
        """The layer's settings, for ``repr``."""
        return f"{super().extra_repr()}, algorithm={self.algorithm}"
