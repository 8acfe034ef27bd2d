"""Linear layers with their activations, one op after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from cnnexp.ops.linear import linear
from cnnexp.ops.registry import Algorithm, register, resolve_algorithm
from cnnexp.ops.relu import relu
from cnnexp.ops.tanh import tanh

__all__ = ["ACTIVATIONS", "compose", "layers_of"]

ACTIVATIONS: dict[str, Callable[..., Tensor] | None] = {"none": None, "relu": relu, "tanh": tanh}

Layers = list[tuple[Tensor, Tensor | None, str]]  # weight, bias and activation of each


def layers_of(tensors: Sequence[Tensor | None], activations: Sequence[str]) -> Layers:
    """The layers of the op's arguments after the input: w, b, w_2, b_2, w_3, b_3, and the activations.

    Raises:
        ValueError: There are not as many activations as weights, an activation is unknown, a bias has no
            weight, or a layer is left out.
    """
    weights, biases = tensors[::2], tensors[1::2]
    count = sum(weight is not None for weight in weights)
    if any(weight is None for weight in weights[:count]) or any(
        bias is not None for bias in biases[count:]
    ):
        raise ValueError(
            "linear_act takes its layers in order: weight and bias, weight_2 and bias_2, weight_3 and "
            "bias_3; give no bias without its weight, and leave out the last only"
        )
    if isinstance(activations, str) or len(activations) != count:
        raise ValueError(
            f"linear_act needs an activation for each of its {count} weights, but got {activations!r}; "
            f"give a tuple of names, 'none' for a layer without one"
        )
    for name in activations:
        if name not in ACTIVATIONS:
            raise ValueError(
                f"unknown activation {name!r} of linear_act; known: {', '.join(ACTIVATIONS)}"
            )
    return [
        (w, b, a) for w, b, a in zip(weights, biases, activations, strict=False) if w is not None
    ]


def compose(algorithm: str) -> Callable[..., Tensor]:
    """The block whose parts are computed with ``algorithm``."""

    def linear_act(input: Tensor, *arguments: Tensor | Sequence[str] | None) -> Tensor:
        *tensors, activations = arguments
        for weight, bias, name in layers_of(tensors, activations):  # pyright: ignore[reportArgumentType]
            input = linear(input, weight, bias, algorithm=resolve_algorithm("linear", algorithm))
            activate = ACTIVATIONS[name]
            if activate is not None:
                input = activate(input, algorithm=resolve_algorithm(name, algorithm))
        return input

    return linear_act


for _name in ("native", "direct"):
    register(
        Algorithm(
            op="linear_act",
            name=_name,
            function=compose(_name),
            summary=f"linear layers and activations one after the other, each by '{_name}'",
            dtypes=(),
        )
    )
