"""Batch normalisation computed with ``cnnexp.ops``."""

from __future__ import annotations

from torch import Tensor, nn

from cnnexp import ops
from cnnexp.nn.layer import Layer
from cnnexp.nn.twins import replaces


@replaces(nn.BatchNorm2d)
class BatchNorm2d(Layer, nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` with the backward of ``algorithm``; state dicts are interchangeable."""

    op = "batch_norm"

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input`` (N, C, H, W) normalised, in the same shape."""
        if self.algorithm == ops.NATIVE:
            return super().forward(input)
        if input.dim() != 4:
            raise ValueError(f"expected 4D input (got {input.dim()}D input)")  # as torch
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # a plain average over all batches
                momentum = 1.0 / float(self.num_batches_tracked)
        by_batch = self.training or (self.running_mean is None and self.running_var is None)
        tracked = not self.training or self.track_running_stats
        return ops.batch_norm(
            input,
            self.running_mean if tracked else None,
            self.running_var if tracked else None,
            self.weight,
            self.bias,
            by_batch,
            momentum,
            self.eps,
            algorithm=self.algorithm,
        )
