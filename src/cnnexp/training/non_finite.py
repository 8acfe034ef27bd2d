"""A loss, gradient or weight that is infinite or not a number: which one was the first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cnnexp.diagnostics import Verdict
from cnnexp.kernels.compilation import has_kernels
from cnnexp.ops.torch_internals import norms

OnNaN = Literal["stop", "skip", "lower_lr"]


@dataclass(frozen=True)
class Finding:
    """What was found, for the message and for nonfinite.json.

    Attributes:
        step: Of the optimiser, counted from 1: the one that was about to be made.
        epoch: Counted from 1.
        batches: The batches of the epoch that the step is by, counted from 1.
        what: ``"loss"``, ``"gradient"`` or ``"weights"``.
        layer: The first layer, in the order of computing, where it was found; "" if unknown.
        losses: The losses of the batches, divided by their number, as they were sent back; those that
            are not finite as text.
        layers: Every layer with such a gradient or weight.
        learning_rates: Of the optimiser's parameter groups.
        images: The images of the batches, as indices into the data set's training images.
    """

    step: int
    epoch: int
    batches: Sequence[int] = ()
    what: str = "gradient"
    layer: str = ""
    losses: Sequence[float | str] = ()
    layers: Sequence[str] = ()
    learning_rates: Sequence[float] = ()
    images: Sequence[int] = ()

    def __str__(self) -> str:
        where = f"step {self.step} (epoch {self.epoch}"
        where += f", batch {', '.join(map(str, self.batches))})" if self.batches else ")"
        return f"{where}: {self.evidence}"

    @property
    def evidence(self) -> str:
        """What was found, without when."""
        if self.what == "weights":
            return f"the weights of {self.layer} are infinite or not a number"
        if self.what == "loss":
            first = f"; the first output that is not finite is that of {self.layer}"
            losses = ", ".join(map(str, self.losses))
            return f"the loss is {losses}{first if self.layer else ''}"
        return (
            f"the gradient is infinite or not a number, first in {self.layer}, on the way back from the "
            f"loss"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class NonFiniteError(RuntimeError):
    """The training came to numbers that are none.

    Attributes:
        finding: What and where.
        lr_factor: What the learning rate was multiplied by, see ``Classifier.lr_factor``.
        verdicts: That this attempt exploded, and where, if it was looked at.
    """

    def __init__(self, finding: Finding, advice: str) -> None:
        super().__init__(f"{finding}. {advice}")
        self.finding, self.lr_factor = finding, 1.0
        self.verdicts: Sequence[Verdict] = ()


def finite_flags(losses: Sequence[Tensor], network: nn.Module, gradients: bool) -> Tensor:
    """Whether all ``losses``, and the gradient of each parameter that has one, are finite.

    Args:
        losses: Scalars, one or more.
        network: Whose gradients are looked at.
        gradients: Whether these are looked at.

    Returns:
        (1 + gradients,) bool, where they are computed: nothing is waited for.
    """
    loss = torch.stack([each.detach() for each in losses]).isfinite().all()
    grads = [grad for _, grad in _gradients(network)] if gradients else []
    if not grads:
        return loss.view(1)
    return torch.cat([loss.view(1), _finite(grads)])


def surely_finite(losses: Sequence[Tensor], gradients: Sequence[Tensor]) -> bool:
    """Whether all ``losses`` and ``gradients`` are finite, in less time than :func:`finite_flags`.

    False also where it cannot be told so: of other dtypes than float32, on other devices than a CPU, and in
    processes that have not imported numba.
    """
    if not has_kernels() or not all(math.isfinite(each) for each in losses):
        return False
    if not gradients:
        return True
    from cnnexp.kernels.cpu.finite import all_finite

    return bool(all_finite(gradients))


def _finite(tensors: Sequence[Tensor]) -> Tensor:
    """Which of ``tensors``, of one dtype and device, are finite throughout: (their number,) bool."""
    if tensors[0].device.type == "cpu":
        # several times as fast as a norm; a sum is finite only if all are, but finite numbers may overflow it
        sums = torch.stack([tensor.sum() for tensor in tensors]).isfinite()
        if bool(sums.all()):
            return sums
    # the greatest element is finite if and only if all are: a norm of squares would overflow
    return torch.stack(norms(tensors, torch.inf)).isfinite()


def bad_layers(flags: Sequence[bool], network: nn.Module) -> list[str]:
    """The layers of the gradients that ``flags`` of :func:`finite_flags` names, the last layer first."""
    names = [name.rpartition(".")[0] or name for name, _ in _gradients(network)]
    bad = [name for name, fine in zip(names, flags[1:], strict=False) if not fine]
    return list(dict.fromkeys(reversed(bad)))


def first_bad_weight(network: nn.Module) -> str:
    """The first layer with a parameter or buffer that is not finite; "" if all are."""
    tensors = [(n, v) for n, v in network.state_dict().items() if isinstance(v, torch.Tensor)]
    state = [(n, v) for n, v in tensors if v.is_floating_point()]
    if not state:
        return ""
    greatest = torch.stack(norms([v for _, v in state], torch.inf))
    for (name, _), fine in zip(state, greatest.isfinite().tolist(), strict=True):
        if not fine:
            return name.rpartition(".")[0] or name
    return ""


@torch.no_grad()
def first_bad_output(network: nn.Module, images: Tensor) -> str:
    """The first module without children whose output is not finite; "" if all are, or the input is not.

    Args:
        network: Run once, in the mode that it is in.
        images: What it gets.
    """
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not found and not bool(output.isfinite().all()):
                found.append(name)

        return hook

    leaves = [(name, m) for name, m in network.named_modules() if not any(m.children())]
    handles = [module.register_forward_hook(look(name)) for name, module in leaves if name]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ""


def _gradients(network: nn.Module) -> list[tuple[str, Tensor]]:
    return [(n, p.grad) for n, p in network.named_parameters() if p.grad is not None]
