"""Calls of normalisations, whose scale and shift have gradients that sum over the positions of one sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from cnnexp.nn.deferring import Deferring
from cnnexp.nn.marks import mark
from cnnexp.nn.norm import BatchNormAct2d
from cnnexp.nn.per_sample.calls import Call, PerSample
from cnnexp.nn.per_sample.errors import PerSampleError
from cnnexp.nn.steps import pooled
from cnnexp.ops.batch_norm_act import activated_by_torch

__all__ = ["BatchNormCall", "NormCall", "mixes_samples"]


class NormCall(Call):
    """Of ``torch.nn.GroupNorm`` and ``LayerNorm``: y = x̂·w + b, where x̂ looks at one sample alone."""

    def rows(self, gradient: Tensor, *kept: Tensor) -> PerSample:
        """See :meth:`Call.rows`."""
        g, (x,), layer = gradient, kept, self.layer
        if isinstance(layer, nn.GroupNorm):
            normed, dims = F.group_norm(x, layer.num_groups, eps=layer.eps), range(2, x.dim())
        else:
            normed = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
            dims = range(1, x.dim() - len(layer.normalized_shape))
        summed = tuple(dims)
        return self._own(
            weight=lambda: (g * normed).sum(summed) if summed else g * normed,
            bias=lambda: g.sum(summed) if summed else g,
        )


class BatchNormCall(Call):
    """Of a batch normalisation in evaluation mode, whose running statistics are constants."""

    def run(self, *inputs: Any, **options: Any) -> tuple[Tensor, Sequence[Tensor]]:
        """See :meth:`Call.run`."""
        if self.layer.training or self.layer.running_mean is None:
            raise PerSampleError(mixes_samples(self.name, self.layer))
        if not _activates(self.layer):
            return super().run(*inputs, **options)
        layer, (x,) = self.layer, inputs
        statistics = layer.running_mean, layer.running_var
        return F.batch_norm(x, *statistics, layer.weight, layer.bias, eps=layer.eps), inputs

    def after(self, output: Tensor) -> Tensor:
        """See :meth:`Call.after`."""
        layer = self.layer
        if not _activates(layer):
            return output
        output = activated_by_torch(output, layer.activation)
        output = output if layer.pool is None else pooled(output, layer.pool)
        return mark(output, layer.of_block)

    def rows(self, gradient: Tensor, *kept: Tensor) -> PerSample:
        """See :meth:`Call.rows`."""
        g, (x,), layer = gradient, kept, self.layer
        normed = F.batch_norm(x, layer.running_mean, layer.running_var, eps=layer.eps)
        summed = tuple(range(2, x.dim()))
        return self._own(
            weight=lambda: (g * normed).sum(summed) if summed else g * normed,
            bias=lambda: g.sum(summed) if summed else g,
        )

    def weighted(self, factors: Tensor) -> Mapping[str, Tensor]:
        """See :meth:`Call.weighted`."""
        rows = self.rows(self._scaled(factors), *self.kept)
        return {name: g.sum(0) for name, g in rows.items()}


def _activates(layer: nn.Module) -> bool:
    """Whether a call of ``layer`` gives its activation's output."""
    return isinstance(layer, BatchNormAct2d) and not isinstance(layer, Deferring)


def mixes_samples(name: str, layer: nn.Module) -> str:
    """What is wrong with the batch normalisation ``layer`` where it looks at the batch."""
    return (
        f"{name} ({type(layer).__name__}) normalises each sample by mean and variance of the batch: no "
        f"gradient is of one sample alone; use GroupNorm in its place, or network.eval() for its running "
        f"statistics"
    )
