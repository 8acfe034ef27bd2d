"""One image forward and backward through a network: what goes into each layer, and what comes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from cnnexp.explanation.formulas import kind_of, settings_of
from cnnexp.nn import CrossEntropyLoss

__all__ = ["Step", "Trace", "trace"]


@dataclass
class Step:
    """One call of one layer; all tensors without the axis of the batch, which is of one image.

    Attributes:
        module: The layer's path in the network, for example ``"features.0"``.
        kind: The class of ``torch.nn`` whose formula it computes, for example ``"Conv2d"``; the name
            of its own class where the page knows no formula.
        settings: What the formula needs beside weights: stride, padding, running statistics.
        input, output: x and y, for example (C_in, H, W) and (C_out, P, Q). The input is None where it
            is no tensor of numbers.
        grad_input, grad_output: ∂L/∂x, of this layer's share alone where others read x as well, and
            ∂L/∂y; None where the loss does not depend on them.
        parameters: ``weight`` and ``bias``, those that there are.
        gradients: ∂L/∂ of these.
        uses: How often the layer is called in all; the gradients of its parameters are sums over
            the calls.
    """

    module: str
    kind: str
    settings: Mapping[str, Any]
    output: Tensor
    input: Tensor | None = None
    grad_input: Tensor | None = None
    grad_output: Tensor | None = None
    parameters: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    uses: int = 1


@dataclass(frozen=True)
class Trace:
    """One image's way.

    Attributes:
        image: What the network got, (C, H, W).
        grad_image: ∂L/∂image, the same shape.
        logits: (classes,).
        grad_logits: ∂L/∂logits, (classes,).
        label: The class whose loss it is.
        loss: L = −log softmax(logits)[label].
        steps: One for each call of a layer, in the order of the calls.
    """

    image: Tensor
    grad_image: Tensor
    logits: Tensor
    grad_logits: Tensor
    label: int
    loss: float
    steps: Sequence[Step]

    @property
    def probabilities(self) -> Tensor:
        """softmax(logits), (classes,)."""
        return self.logits.softmax(0)


def trace(network: nn.Module, image: Tensor, label: int | None = None) -> Trace:
    """Send ``image`` forward, and the gradient of its loss backward, through ``network``.

    Layers are the modules that have no parts of their own. What a network computes between them
    (additions, reshaping) belongs to no step. The network stays as it is.

    Args:
        network: Maps (1, C, H, W) to logits (1, classes); it is run in evaluation mode.
        image: (C, H, W), normalised as in training.
        label: The class whose softmax cross-entropy is the loss; None for the one predicted.

    Returns:
        Values and gradients in the network's dtype, on its device.

    Raises:
        ValueError: ``label`` is no class of the network.
    """
    recorder = _Recorder(network)
    x = image.detach().unsqueeze(0).clone().requires_grad_()
    with _differentiable(network), recorder.listening(), torch.enable_grad():
        logits = network(x)
        if label is None:
            label = int(logits.argmax(1))
        if not 0 <= label < logits.size(1):
            raise ValueError(f"label {label}: the network's classes are 0…{logits.size(1) - 1}")
        target = torch.tensor([label], device=logits.device)
        loss = CrossEntropyLoss(algorithm="direct")(logits, target)
        parameters = recorder.parameters()
        sought = [x, logits, *parameters]
        # a path that a network leaves out, such as a dropped block, has no gradient
        found = torch.autograd.grad(loss, sought, allow_unused=True)
    grad_x, grad_logits, *grads = (
        torch.zeros_like(of) if grad is None else grad
        for of, grad in zip(sought, found, strict=True)
    )
    of_parameter = {id(p): grad.detach() for p, grad in zip(parameters, grads, strict=True)}
    return Trace(
        image=image.detach(),
        grad_image=grad_x[0].detach(),
        logits=logits[0].detach(),
        grad_logits=grad_logits[0].detach(),
        label=label,
        loss=float(loss.detach()),
        steps=recorder.finish(of_parameter),
    )


class _Recorder:
    """Listens at every layer of ``network``."""

    def __init__(self, network: nn.Module) -> None:
        self._layers = {
            module: name for name, module in network.named_modules() if not any(module.children())
        }
        self._inputs: dict[nn.Module, list[tuple[Tensor | None, dict[str, Tensor]]]] = {}
        self._steps: list[tuple[nn.Module, Step, dict[str, Tensor]]] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within it, what the layers compute is recorded."""
        hooks = []
        for layer in self._layers:
            hooks.append(layer.register_forward_pre_hook(self._before))
            hooks.append(layer.register_forward_hook(self._after))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def parameters(self) -> list[Tensor]:
        """The weights and biases of the layers that were called, each once."""
        found = {id(p): p for layer, _, _ in self._steps for p in _parameters(layer).values()}
        return list(found.values())

    def finish(self, gradients: Mapping[int, Tensor]) -> list[Step]:
        """The steps, once the gradients have passed; those of parameters are given by their ids."""
        calls = [layer for layer, _, _ in self._steps]
        for layer, step, passed in self._steps:
            step.grad_input, step.grad_output = passed.get("input"), passed.get("output")
            own = _parameters(layer)
            step.parameters = {name: p.detach() for name, p in own.items()}
            step.gradients = {name: gradients[id(p)] for name, p in own.items()}
            step.uses = calls.count(layer)
        return [step for _, step, _ in self._steps]

    def _before(self, layer: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Hand the layer a copy of its input, so that the gradient of the copy is its share alone."""
        passed: dict[str, Tensor] = {}
        x = arguments[0] if arguments else None
        if not _counts(x):
            self._inputs.setdefault(layer, []).append((None, passed))
            return None
        # what is computed in place must change the caller's own tensor
        mine = x if getattr(layer, "inplace", False) else x.clone()
        self._inputs.setdefault(layer, []).append((mine.detach().clone(), passed))
        if mine.requires_grad:
            mine.register_hook(lambda grad: passed.__setitem__("input", grad.detach()[0]))
        return (mine, *arguments[1:])

    def _after(self, layer: nn.Module, _arguments: tuple[Any, ...], output: Any) -> None:
        x, passed = self._inputs[layer].pop()
        y = output[0] if isinstance(output, tuple) and output else output
        if not _counts(y):
            return
        if y.requires_grad:
            y.register_hook(lambda grad: passed.__setitem__("output", grad.detach()[0]))
        step = Step(
            module=self._layers[layer],
            kind=kind_of(layer),
            settings=settings_of(layer),
            input=None if x is None else x[0],
            output=y.detach()[0].clone(),
        )
        self._steps.append((layer, step, passed))


def _counts(value: Any) -> TypeGuard[Tensor]:
    """Whether it is a batch of numbers that have a gradient."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1


def _parameters(layer: nn.Module) -> dict[str, Tensor]:
    named = {name: getattr(layer, name, None) for name in ("weight", "bias")}
    return {name: p for name, p in named.items() if isinstance(p, nn.Parameter)}


@contextmanager
def _differentiable(network: nn.Module) -> Iterator[None]:
    """Within it ``network`` evaluates, and each of its parameters has a gradient."""
    modes = [(module, module.training) for module in network.modules()]
    wanted = [(p, p.requires_grad) for p in network.parameters()]
    network.eval().requires_grad_(True)
    try:
        yield
    finally:
        for p, before in wanted:
            p.requires_grad_(before)
        for module, before in modes:
            module.training = before
