"""One training step of a network as it is, by any choice of its layers' algorithms, against the clock.

A step is the forward pass in training mode, a scalar like a loss, and the backward pass into the
parameters' ``.grad``. What the optimiser does is the same for every choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cnnexp.kernels.compilation import clock
from cnnexp.nn.fuse_linears import settle_runs
from cnnexp.nn.layer import Layer

# seconds; of a longer step a first one, which does not count, would cost more than it tells
_LONG = 0.1
# of a shorter one the shortest of so many counts: chance is a large part of each
_SHORT, _REPEATS = 0.02, 3

Algorithms = Mapping[str, str]


class Step:
    """The step of a network, between two of which it is restored.

    Args:
        network: The network.
        layers: Those whose algorithms are chosen, by name.
        forward: Calls the network with the batch.
        renew: Restores the network and makes it ready to be run, in training mode, on ``device``.
        device: Where it is computed.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Mapping[str, Layer],
        forward: Callable[[], Any],
        renew: Callable[[], None],
        device: torch.device,
    ) -> None:
        self._network, self._layers = network, layers
        self._forward, self._renew, self._device = forward, renew, device
        self._last = 0.0

    def seconds(self, algorithms: Algorithms) -> float:
        """How long a step takes, its layers computed by ``algorithms``.

        It follows another of the same choice, unless that takes long: the first one pays for the memory that
        another choice has made the allocator return. Of a short one it is the shortest of three.
        """
        if self._last < _LONG:
            self._timed(algorithms)
        self._last = self._timed(algorithms)
        if self._last < _SHORT:
            self._last = min(self._last, *(self._timed(algorithms) for _ in range(_REPEATS - 1)))
        return self._last

    def _timed(self, algorithms: Algorithms) -> float:
        self._prepare(algorithms)
        self._wait()
        start = clock()
        loss = like_a_loss(self._forward())
        if loss is not None:
            loss.backward()
        self._wait()
        return clock() - start

    def _prepare(self, algorithms: Algorithms) -> None:
        self._renew()
        for name, algorithm in algorithms.items():
            self._layers[name].algorithm = algorithm
        settle_runs(self._network)
        for parameter in self._network.parameters():
            parameter.grad = None

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def like_a_loss(output: Any) -> Tensor | None:
    """The mean square of all that is differentiable in ``output``; None where nothing is.

    Its gradient is dense and lies in memory, as that of a loss; a plain sum's does not.

    Examples:
        >>> import torch
        >>> from cnnexp.tuning.step import like_a_loss
        >>> logits = torch.tensor([1.0, 3.0], requires_grad=True)
        >>> like_a_loss({"logits": logits, "hidden": [torch.ones(2)], "classes": 2})
        tensor(5., grad_fn=<MeanBackward0>)
        >>> like_a_loss((torch.ones(2), None)) is None
        True
    """
    loss: Tensor | None = None
    for tensor in _tensors(output):
        if tensor.requires_grad and tensor.numel():
            values = tensor.abs() if tensor.is_complex() else tensor
            part = values.float().square().mean()
            loss = part if loss is None else loss + part
    return loss


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)
