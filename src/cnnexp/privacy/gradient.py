"""The gradient of DP-SGD: clipped by sample, summed, made noisy, divided by the expected batch.

    g = (Σ_n c_n·g_n + σ·C·z) / (q·N),    z ~ N(0, 1) for each parameter

n runs over the batch, into which each of the N images came with probability q. The sum is divided by how many
images are expected, not by how many came: that number depends on the data, and the noise does not cover it.

Source: Abadi et al., "Deep Learning with Differential Privacy" (2016), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Protocol

import torch
from torch import Tensor, nn

from cnnexp.nn.per_sample import Call, watched
from cnnexp.privacy.clipping import Clipping, clipped_sums
from cnnexp.privacy.errors import PrivacyError
from cnnexp.privacy.noise import GaussianNoise

__all__ = ["PrivateGradient", "Processes"]


class Processes(Protocol):
    """The processes that train together, of which this is one."""

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    @property
    def first(self) -> bool:
        """Whether this is the first, which makes the noise."""
        ...

    def total(self, value: Tensor) -> Tensor:
        """The sum of ``value`` over all, the same on all."""
        ...

    def of_first(self, value: Tensor) -> Tensor:
        """The first one's ``value``, on all."""
        ...


class PrivateGradient:
    """Makes the gradient of each step private.

    A step is :meth:`begin`, a forward pass, :meth:`scaled` on its mean loss, a backward pass, :meth:`finish`.

    Args:
        clipping: How far one sample may move the sum.
        noise_multiplier: σ ≥ 0; 0 for no noise, and no privacy.
        expected: q·N > 0, the images that a batch has on average.
        noise: Where the noise comes from.
        processes: Those that share each batch: the clipped sums are added up over all, then noise is added
            once. None for one alone.
    """

    def __init__(
        self,
        clipping: Clipping,
        *,
        noise_multiplier: float,
        expected: float,
        noise: GaussianNoise,
        processes: Processes | None = None,
    ) -> None:
        self.clipping, self.noise_multiplier, self.expected = clipping, noise_multiplier, expected
        self._noise = noise
        self._processes = processes if processes is not None and processes.count > 1 else None
        self._watching, self._calls = ExitStack(), list[Call]()

    def begin(self, network: nn.Module, samples: int, copies: int = 1) -> None:
        """Watch the passes of ``network`` that follow, by ``copies`` of each of ``samples`` images."""
        self.end()
        for parameter in network.parameters():
            parameter.grad = None
        self._calls = self._watching.enter_context(watched(network, samples, copies))

    def scaled(self, loss: Tensor, samples: int) -> Tensor:
        """The mean ``loss`` over the samples as their sum divided by the expected number of samples."""
        return loss * (samples / self.expected)

    def finish(self, network: nn.Module, step: int) -> None:
        """Give each parameter that trains its private gradient, after the backward pass.

        Args:
            network: As in :meth:`begin`.
            step: Of the optimiser, from 0.

        Raises:
            PrivacyError: A parameter got a gradient in a way that was not watched.
        """
        calls = self._calls
        self.end()
        parameters = [p for p in network.parameters() if p.requires_grad]
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                raise PrivacyError(
                    f"{name} is used outside of the layer that it belongs to, so that its gradient cannot be "
                    f"clipped by sample; call the layer, or freeze it (parameters.frozen)"
                )
        sums = clipped_sums(calls, self.clipping, self.expected) if calls else {}
        for parameter in parameters:
            got = sums.get(parameter)
            # a new tensor in the parameter's layout, as autograd makes it
            grad = torch.empty_like(parameter, requires_grad=False)
            parameter.grad = grad.zero_() if got is None else grad.copy_(got)
        self._finish([p.grad for p in parameters if p.grad is not None], step)

    def _finish(self, gradients: Sequence[Tensor], step: int) -> None:
        """Make the clipped sums of this process those of all, and add noise once."""
        others = self._processes
        if others is not None:
            _spread(others.total(_flat(gradients)), gradients)
        if self.noise_multiplier > 0:
            if others is None or others.first:
                std = self.noise_multiplier * self.clipping.norm / self.expected
                self._noise.add_(gradients, std, step=step)
            if others is not None:
                _spread(others.of_first(_flat(gradients)), gradients)

    def end(self) -> None:
        """Watch no longer."""
        self._watching.close()
        self._calls = []


def _flat(gradients: Sequence[Tensor]) -> Tensor:
    """All numbers of ``gradients`` in a row, for one message."""
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


def _spread(flat: Tensor, gradients: Sequence[Tensor]) -> None:
    """Write the numbers of ``flat``, which :func:`_flat` made, into ``gradients``."""
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view(gradient.shape))
