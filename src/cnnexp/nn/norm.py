"""Batch normalisation computed with ``cnnexp.ops``, alone or with the activation after it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cnnexp import ops
from cnnexp.nn.layer import Layer
from cnnexp.nn.marks import mark
from cnnexp.nn.twins import replaces
from cnnexp.ops.batch_norm_act import activated_by_torch
from cnnexp.ops.recomputed_sums import note


@replaces(nn.BatchNorm2d)
class BatchNorm2d(Layer, nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` with the backward of ``algorithm``; state dicts are interchangeable."""

    op = "batch_norm"

    def compute(self, input: Tensor) -> Tensor:
        """Return ``input`` (N, C, H, W) normalised, in the same shape."""
        return ops.batch_norm(*_arguments(self, input), algorithm=self.algorithm)


class BatchNormAct2d(Layer, nn.BatchNorm2d):
    """``BatchNorm2d`` → activation in one layer.

    Parameters, buffers and state-dict keys are those of the normalisation, the only part that has any.

    Args:
        *args, **kwargs: As for ``torch.nn.BatchNorm2d``.
        activation: One of ``cnnexp.ops.batch_norm_act``.
        recompute: Whether convolutions of ours that read the output compute it again in the backward,
            instead of keeping it; see ``cnnexp.ops.batch_norm_act``.
        algorithm: A name from ``cnnexp.ops.algorithm_names("batch_norm_act")``, or ``"auto"``.

    Raises:
        UnknownAlgorithmError: ``algorithm`` is not registered.
    """

    op = "batch_norm_act"
    activation: str
    inplace = False  # whether the activation of ``native`` writes into its input
    marks = False  # whether a layer after it expects the mark of ``cnnexp.nn.marks``
    fused = False  # whether ``fuse_blocks`` made it of a ``BatchNorm2d``
    recompute = False
    is_operand = False  # whether ``fuse_blocks`` found that a sum of its output is computed again

    def __init__(
        self,
        *args: Any,
        activation: str = "relu",
        recompute: bool = False,
        algorithm: str = "fused",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, algorithm=algorithm, **kwargs)
        self.activation, self.recompute = activation, recompute

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input`` (N, C, H, W) normalised and activated, in the same shape."""
        if self.algorithm == ops.NATIVE:
            output = activated_by_torch(super().forward(input), self.activation, self.inplace)
        else:
            arguments = *_arguments(self, input), self.activation, self.recompute
            output = ops.batch_norm_act(*arguments, algorithm=self.algorithm)
        if self.is_operand:
            note(output)
        return mark(output) if self.marks else output

    def extra_repr(self) -> str:
        """Describe the layer's settings for ``repr``."""
        again = ", recompute=True" if self.recompute else ""
        return f"{super().extra_repr()}, activation={self.activation}{again}"


def _arguments(
    layer: nn.BatchNorm2d, input: Tensor
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None, bool, float, float]:
    """The arguments of the op, from the input to ε; the batch is counted."""
    if input.dim() != 4:
        raise ValueError(f"expected 4D input (got {input.dim()}D input)")  # as torch
    momentum = 0.0 if layer.momentum is None else layer.momentum
    counts = layer.training and layer.track_running_stats
    if counts and layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
        if layer.momentum is None:  # a plain average over all batches
            momentum = 1.0 / float(layer.num_batches_tracked)
    by_batch = layer.training or (layer.running_mean is None and layer.running_var is None)
    tracked = not layer.training or layer.track_running_stats
    return (
        input,
        layer.running_mean if tracked else None,
        layer.running_var if tracked else None,
        layer.weight,
        layer.bias,
        by_batch,
        momentum,
        layer.eps,
    )
