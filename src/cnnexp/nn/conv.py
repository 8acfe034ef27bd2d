"""Convolution layers that compute with ``cnnexp.ops``."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from cnnexp import ops
from cnnexp.geometry.convolution import padding_by_side
from cnnexp.nn.heads import Head, forget
from cnnexp.nn.layer import Layer
from cnnexp.nn.steps import pooled
from cnnexp.nn.twins import become, replaces
from cnnexp.ops.conv2d.unkept import conv2d as of_unkept
from cnnexp.ops.recomputed import can_be_recomputed
from cnnexp.ops.recomputed_inputs import INPUTS
from cnnexp.ops.registry import recorded

DEPTHWISE = "depthwise"


@replaces(nn.Conv2d)
class Conv2d(Layer, nn.Conv2d):
    """``torch.nn.Conv2d`` with the backward of ``algorithm``; state dicts are interchangeable."""

    op = "conv2d"
    reads: str | None = (
        None  # which of ``INPUTS`` its input is, where ``fuse_blocks`` is to save memory
    )

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, C_in, H, W) or (C_in, H, W) to (N, C_out, P, Q) or (C_out, P, Q)."""
        if self.reads is not None and not recorded():
            input = INPUTS[self.reads](input)
        again = self.algorithm == ops.NATIVE and can_be_recomputed(input)
        if again and self.weight.requires_grad and not recorded():
            return of_unkept(*_arguments(self, input))
        return super().forward(input)

    def compute(self, input: Tensor) -> Tensor:
        """Map (N, C_in, H, W) or (C_in, H, W) to (N, C_out, P, Q) or (C_out, P, Q)."""
        return ops.conv2d(*_arguments(self, input), algorithm=self.algorithm)

    def way_by(self, algorithm: str) -> str:
        """See ``Layer.way_by``: ``fused`` is ``depthwise`` where each channel has a kernel of its own."""
        if algorithm not in ("fused", DEPTHWISE):
            return super().way_by(algorithm)
        each_its_own = self.groups == self.in_channels == self.out_channels > 0
        return DEPTHWISE if each_its_own and tuple(self.dilation) == (1, 1) else "direct"


class ConvReLUPool(Head, nn.Conv2d):
    """``Conv2d`` → ``ReLU`` → ``MaxPool2d`` or ``AvgPool2d`` in one layer.

    Parameters and state-dict keys are those of the convolution, the only part that has any.

    Args:
        *args, **kwargs: As for ``torch.nn.Conv2d``.
        pool: The pooling, see ``cnnexp.ops.Pool``; max-pooling 2×2 if None.
        algorithm: A name from ``cnnexp.ops.algorithm_names("conv_relu_pool")``, or ``"auto"``.

    Raises:
        UnknownAlgorithmError: ``algorithm`` is not registered.
    """

    op = "conv_relu_pool"
    pool: ops.Pool
    inplace = False  # whether the ReLU of ``native`` writes into its input

    def __init__(
        self, *args: Any, pool: ops.Pool | None = None, algorithm: str = "fused", **kwargs: Any
    ) -> None:
        super().__init__(*args, algorithm=algorithm, **kwargs)
        self.pool = pool or ops.Pool()

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, C_in, H, W) or (C_in, H, W) to (N, C_out, P, Q) or (C_out, P, Q)."""
        if self.algorithm == ops.NATIVE:
            return pooled(F.relu(super().forward(input), self.inplace), self.pool)
        return ops.conv_relu_pool(*_arguments(self, input), self.pool, algorithm=self.algorithm)

    def part_again(self) -> None:
        """See ``Head.part_again``."""
        forget(self, ("pool", "inplace"), lambda: become(self, Conv2d))

    def extra_repr(self) -> str:
        """Describe the layer's settings for ``repr``."""
        return f"{super().extra_repr()}, pool={self.pool}"


class ConvTanhPool(Head, nn.Conv2d):
    """``Conv2d`` → ``Tanh`` → ``AvgPool2d`` or ``MaxPool2d``, or no pooling, in one layer.

    Parameters and state-dict keys are those of the convolution, the only part that has any.

    Args:
        *args, **kwargs: As for ``torch.nn.Conv2d``.
        pool: The pooling, see ``cnnexp.ops.Pool``; none if None.
        algorithm: A name from ``cnnexp.ops.algorithm_names("conv_tanh_pool")``, or ``"auto"``.

    Raises:
        UnknownAlgorithmError: ``algorithm`` is not registered.
    """

    op = "conv_tanh_pool"
    pool: ops.Pool | None

    def __init__(
        self, *args: Any, pool: ops.Pool | None = None, algorithm: str = "fused", **kwargs: Any
    ) -> None:
        super().__init__(*args, algorithm=algorithm, **kwargs)
        self.pool = pool

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, C_in, H, W) or (C_in, H, W) to (N, C_out, P, Q) or (C_out, P, Q)."""
        if self.algorithm == ops.NATIVE:
            image = self.squashed(input)
            return image if self.pool is None else pooled(image, self.pool)
        return ops.conv_tanh_pool(*_arguments(self, input), self.pool, algorithm=self.algorithm)

    def part_again(self) -> None:
        """See ``Head.part_again``."""
        forget(self, ("pool",), lambda: become(self, Conv2d))

    def squashed(self, input: Tensor) -> Tensor:
        """tanh(z), (N, C_out, H', W'), as torch's own layers compute it: what the pooling gets."""
        return nn.Conv2d.forward(self, input).tanh()

    def extra_repr(self) -> str:
        """Describe the layer's settings for ``repr``."""
        return f"{super().extra_repr()}, pool={self.pool}"


def _arguments(
    layer: nn.Conv2d, input: Tensor
) -> tuple[Tensor, Tensor, Tensor | None, Any, Any, Any, int]:
    """The arguments of the op, from the input to the groups."""
    input, padding = padded(layer, input)
    return input, layer.weight, layer.bias, layer.stride, padding, layer.dilation, layer.groups


def padded(layer: nn.Conv2d, input: Tensor) -> tuple[Tensor, Any]:
    """Return the input, padded here in modes other than zeros, and the padding that the op has to add."""
    if layer.padding_mode == "zeros":
        return input, layer.padding
    reach = padding_by_side(layer.kernel_size, layer.padding, layer.dilation)
    return F.pad(input, reach, mode=layer.padding_mode), 0
