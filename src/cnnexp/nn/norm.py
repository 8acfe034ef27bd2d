"""Batch normalisation computed with ``cnnexp.ops``, alone or with activation and pooling after it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cnnexp import ops
from cnnexp.nn.heads import Head, forget
from cnnexp.nn.layer import Layer
from cnnexp.nn.marks import mark
from cnnexp.nn.steps import pooled
from cnnexp.nn.twins import become, replaces
from cnnexp.ops.batch_norm_act import activated_by_torch
from cnnexp.ops.recomputed_sums import note

# the attributes that ``fuse_blocks`` gives a normalisation
_OF_BLOCKS = ("activation", "pool", "inplace", "fused", "recompute", "is_operand", "steps")


@replaces(nn.BatchNorm2d)
class BatchNorm2d(Layer, nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` with the backward of ``algorithm``; state dicts are interchangeable."""

    op = "batch_norm"

    def compute(self, input: Tensor) -> Tensor:
        """Return ``input`` (N, C, H, W) normalised, in the same shape."""
        return ops.batch_norm(*_arguments(self, input), algorithm=self.algorithm)


class BatchNormAct2d(Head, nn.BatchNorm2d):
    """``BatchNorm2d`` → activation, or → activation → pooling, in one layer.

    Parameters, buffers and state-dict keys are those of the normalisation, the only part that has any.

    Args:
        *args, **kwargs: As for ``torch.nn.BatchNorm2d``.
        activation: One of ``cnnexp.ops.batch_norm_act``.
        pool: The pooling, see ``cnnexp.ops.Pool``; none if None.
        recompute: Whether convolutions of ours that read the output compute it again in the backward,
            instead of keeping it; see ``cnnexp.ops.batch_norm_act``.
        algorithm: A name from ``cnnexp.ops.algorithm_names("batch_norm_act")``, or ``"auto"``.

    Raises:
        UnknownAlgorithmError: ``algorithm`` is not registered.
    """

    op = "batch_norm_act"
    activation: str
    inplace = False  # whether the activation of ``native`` writes into its input
    pool: ops.Pool | None = None
    fused = False  # whether ``fuse_blocks`` made it of a ``BatchNorm2d``
    recompute = False
    is_operand = False  # whether ``fuse_blocks`` found that a sum of its output is computed again

    def __init__(
        self,
        *args: Any,
        activation: str = "relu",
        pool: ops.Pool | None = None,
        recompute: bool = False,
        algorithm: str = "fused",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, algorithm=algorithm, **kwargs)
        self.activation, self.recompute = activation, recompute
        if pool is not None:
            self.pool = pool

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input`` (N, C, H, W) normalised, activated and pooled, (N, C, P, Q)."""
        if self.algorithm == ops.NATIVE:
            output = activated_by_torch(super().forward(input), self.activation, self.inplace)
            output = output if self.pool is None else pooled(output, self.pool)
        else:
            arguments = *_arguments(self, input), self.activation, self.recompute, self.pool
            output = ops.batch_norm_act(*arguments, algorithm=self.algorithm)
        if self.is_operand:
            note(output)
        return mark(output, self.of_block) if self.marks else output

    def part_again(self) -> None:
        """See ``Head.part_again``."""
        forget(self, _OF_BLOCKS, lambda: become(self, BatchNorm2d))

    def extra_repr(self) -> str:
        """Describe the layer's settings for ``repr``."""
        again = ", recompute=True" if self.recompute else ""
        pool = "" if self.pool is None else f", pool={self.pool}"
        return f"{super().extra_repr()}, activation={self.activation}{pool}{again}"


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
