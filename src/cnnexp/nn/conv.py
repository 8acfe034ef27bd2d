"""Convolution layers that compute with ``cnnexp.ops``."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from cnnexp import ops

__all__ = ["Conv2d"]


class Conv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` with the backward of ``algorithm``; state dicts are interchangeable.

    Args:
        *args, **kwargs: As ``torch.nn.Conv2d``.
        algorithm: A name from ``cnnexp.ops.algorithm_names("conv2d")``.

    Raises:
        UnknownAlgorithmError: ``algorithm`` is not registered.
    """

    algorithm: str

    def __init__(self, *args: Any, algorithm: str = "direct", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.algorithm = ops.get_algorithm("conv2d", algorithm).name

    def forward(self, input: Tensor) -> Tensor:
        """(N, C_in, H, W) or (C_in, H, W) → (N, C_out, P, Q) or (C_out, P, Q)."""
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        return ops.conv2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            algorithm=self.algorithm,
        )

    def extra_repr(self) -> str:
        """The layer's settings, for ``repr``."""
        return f"{super().extra_repr()}, algorithm={self.algorithm}"
