"""One image forward and backward through a network: the input and output of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from cnnexp.explanation.formulas import kind_of, settings_of
from cnnexp.nn import CrossEntropyLoss, left_as_found


@dataclass
class Step:
    """One call of one layer; all tensors are without the batch axis, as the batch is one image.

    Attributes:
        module: The layer's path in the network, for example ``"features.0"``.
        kind: The class of ``torch.nn`` whose formula it computes, for example ``"Conv2d"``; the name
            of its own class where the page knows no formula.
        settings: What the formula needs besides weights: stride, padding, running statistics.
        input, output: x and y, for example (C_in, H, W) and (C_out, P, Q). The input is None where it
            is not a tensor of floating-point numbers.
        grad_input, grad_output: ∂L/∂x through this layer only, even where other layers read x as well,
            and ∂L/∂y; None where the loss does not depend on them.
        parameters: ``weight`` and ``bias``, if the layer has them.
        gradients: ∂L/∂ of these parameters.
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
    """The way of one image through a network and back.

    Attributes:
        image: The network's input, (C, H, W).
        grad_image: ∂L/∂image, of the same shape.
        logits: The network's output, (classes,).
        grad_logits: ∂L/∂logits, (classes,).
        label: The class whose loss is computed.
        loss: L = −log softmax(logits)[label].
        steps: One step for each call of a layer, in the order of the calls.
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
        """The probability of each class, softmax(logits), (classes,)."""
        return self.logits.softmax(0)


def trace(network: nn.Module, image: Tensor, label: int | None = None) -> Trace:
    """Send ``image`` forward, and the gradient of its loss backward, through ``network``.

    Layers are the modules that have no submodules. What a network computes between them
    (additions, reshaping) belongs to no step. The network is not changed.

    Args:
        network: Maps (1, C, H, W) to logits (1, classes); it is run in evaluation mode.
        image: (C, H, W), normalised as in training.
        label: The class whose softmax cross-entropy is the loss; None for the predicted class.

    Returns:
        Values and gradients in the network's dtype, on its device.

    Raises:
        ValueError: ``label`` is not a class of the network.
    """
    recorder = _Recorder(network)
    x = image.detach().unsqueeze(0).clone().requires_grad_()
    with left_as_found(network), torch.enable_grad():
        network.eval().requires_grad_(True)
        recorder.listen()
        logits = network(x)
        if label is None:
            label = int(logits.argmax(1))
        if not 0 <= label < logits.size(1):
            raise ValueError(f"label {label}: the network's classes are 0…{logits.size(1) - 1}")
        target = torch.tensor([label], device=logits.device)
        loss = CrossEntropyLoss(algorithm="direct")(logits, target)
        parameters = recorder.parameters()
        sought = [x, logits, *parameters]
        # parameters on a path that the network skips, such as a dropped block, have no gradient
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
    """Record the calls of every layer of ``network``."""

    def __init__(self, network: nn.Module) -> None:
        self._layers = {
            module: name for name, module in network.named_modules() if not any(module.children())
        }
        self._inputs: dict[nn.Module, list[tuple[Tensor | None, dict[str, Tensor]]]] = {}
        self._steps: list[tuple[nn.Module, Step, dict[str, Tensor]]] = []

    def listen(self) -> None:
        """Record from now on what the layers compute."""
        for layer in self._layers:
            layer.register_forward_pre_hook(self._before)
            layer.register_forward_hook(self._after)

    def parameters(self) -> list[Tensor]:
        """The weights and biases of the layers that were called, each once."""
        found = {id(p): p for layer, _, _ in self._steps for p in _parameters(layer).values()}
        return list(found.values())

    def finish(self, gradients: Mapping[int, Tensor]) -> list[Step]:
        """The recorded steps with their gradients.

        Args:
            gradients: The gradients of the parameters, by the parameters' ids.
        """
        calls = [layer for layer, _, _ in self._steps]
        for layer, step, passed in self._steps:
            step.grad_input, step.grad_output = passed.get("input"), passed.get("output")
            own = _parameters(layer)
            step.parameters = {name: p.detach() for name, p in own.items()}
            step.gradients = {name: gradients[id(p)] for name, p in own.items()}
            step.uses = calls.count(layer)
        return [step for _, step, _ in self._steps]

    def _before(self, layer: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Give the layer a copy of its input, so that the copy's gradient is the part through this
        layer only.
        """
        passed: dict[str, Tensor] = {}
        x = arguments[0] if arguments else None
        if not _counts(x):
            self._inputs.setdefault(layer, []).append((None, passed))
            return None
        # a layer that computes in place must change the caller's own tensor
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
    """Whether ``value`` is a batch of floating-point numbers, which can have a gradient."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1


def _parameters(layer: nn.Module) -> dict[str, Tensor]:
    named = {name: getattr(layer, name, None) for name in ("weight", "bias")}
    return {name: p for name, p in named.items() if isinstance(p, nn.Parameter)}
