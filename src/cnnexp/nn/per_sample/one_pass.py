"""One forward and backward pass of a batch, of which each layer's call is noted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.parameter import is_lazy

from cnnexp.nn.per_sample.calls import Call
from cnnexp.nn.per_sample.errors import PerSampleError
from cnnexp.nn.per_sample.norm_calls import mixes_samples
from cnnexp.nn.per_sample.watch import watched

__all__ = ["Loss", "passed"]

Loss = Callable[[Tensor, Tensor], Tensor]
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def passed(network: nn.Module, loss: Loss, batch: Sequence[Tensor]) -> tuple[list[Call], int]:
    """The calls of the layers, from which each sample's gradient follows, and N, how many samples there are.

    Args:
        network: Maps the inputs, each (N, …), to one tensor (N, …). Its mode is kept, and so is each
            ``.grad``; its buffers and the random state change as by any forward pass.
        loss: Maps an output and a target of *one* sample, (1, …) each, to the sample's loss, a single number:
            a function or Module of ``torch.nn``, whose reduction does not matter.
        batch: The inputs, mostly one, and last the targets; each is (N, …).

    Raises:
        PerSampleError: The samples cannot be told apart, or the loss is none.
    """
    inputs, targets = _parts(batch)
    _check_network(network)
    samples = len(targets)
    parameters = {n: p for n, p in network.named_parameters() if p.requires_grad}
    with torch.enable_grad(), watched(network, samples) as calls:
        output = network(*inputs)
        if not isinstance(output, Tensor) or output.dim() == 0 or len(output) != samples:
            given = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise PerSampleError(
                f"the network gives {given} for {samples} samples; it must give one tensor whose first "
                f"dimension is the samples"
            )
        total = _total(loss, output, targets)
        if not total.requires_grad:
            raise PerSampleError("the loss does not depend on any parameter that trains")
        noted = len(calls)  # a checkpoint's part is called again in the backward
        leaves = [*(call.anchor for call in calls), *parameters.values()]
        found = torch.autograd.grad(total, leaves, allow_unused=True)
    for name, gradient in zip(parameters, found[noted:], strict=True):
        if gradient is not None:
            raise PerSampleError(
                f"{name} is used outside of the layer that it belongs to, so that its gradient cannot be "
                f"told by sample; call the layer, or freeze it (requires_grad_(False))"
            )
    return calls[:noted], samples


def _parts(batch: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor]:
    if isinstance(batch, Tensor) or len(batch) < 2 or not all(isinstance(b, Tensor) for b in batch):
        given = "a tensor" if isinstance(batch, Tensor) else [type(each).__name__ for each in batch]
        raise PerSampleError(f"batch is {given}; give tensors (inputs, targets)")
    sizes = [len(each) if each.dim() else None for each in batch]
    if len(set(sizes)) > 1 or None in sizes:
        shapes = ", ".join(str(list(each.shape)) for each in batch)
        raise PerSampleError(
            f"batch has tensors {shapes}; the first dimension of each must be the samples"
        )
    return batch[:-1], batch[-1]


def _check_network(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if isinstance(module, _BATCH_NORMS) and (module.training or module.running_mean is None):
            raise PerSampleError(mixes_samples(name or "the network", module))
    for name, parameter in network.named_parameters():
        if is_lazy(parameter):
            raise PerSampleError(
                f"{name} has no shape yet; call the network once with a batch before"
            )


def _total(loss: Loss, output: Tensor, targets: Tensor) -> Tensor:
    """The sum of each sample's own loss."""

    def own(output: Tensor, target: Tensor) -> Tensor:
        value = loss(output.unsqueeze(0), target.unsqueeze(0))
        if not isinstance(value, Tensor) or value.numel() != 1:
            given = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise PerSampleError(f"the loss of one sample is {given}; it must be a single number")
        return value.reshape(())

    if not len(targets):
        return output.sum()  # of nothing, so that the backward pass comes to all layers
    try:
        return vmap(own, randomness="different")(output, targets).sum()
    except PerSampleError:
        raise
    except (RuntimeError, ValueError):  # a loss that vmap does not take, such as one with an if
        pairs = zip(output, targets, strict=True)
        return torch.stack([own(each, target) for each, target in pairs]).sum()
