"""Linear layers one after the other, each with its activation, as one Function.

    z_l = a_{l−1}·w_lᵀ + b_l        a_l = act_l(z_l)        a_0 = x, y = a_L

    ∂L/∂z_l = act_l'(z_l) · ∂L/∂a_l        ∂L/∂w_l = ∂L/∂z_lᵀ·a_{l−1}
    ∂L/∂a_{l−1} = ∂L/∂z_l·w_l              ∂L/∂b_l[o] = Σ_n ∂L/∂z_l[n, o]

act' follows from a: 1 − a² of tanh, [a > 0] of the ReLU. So what is kept is x and every a_l, once: no z_l, no
copy of weights that autocast rounds, and no y behind which there is no activation. The kernels
(``kernels.cpu.linear_act``) take some rows through all layers, forward and backward, while the caches hold
them: a small layer is computed in less time than it takes to call it. The gradient of the gradient, which few
need, takes the formulas.

A single layer keeps no more than the gradients read that somebody needs; of several all is kept.

Source: Rumelhart, Hinton & Williams, "Learning Representations by Back-Propagating Errors" (1986);
docs/derivation.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.kernels.cpu import linear_act as kernels
from cnnexp.ops.autograd import differentiable
from cnnexp.ops.linear import grad_bias, grad_input, grad_weight
from cnnexp.ops.linear_act.parts import ACTIVATIONS
from cnnexp.ops.relu import grad_input as through_relu
from cnnexp.ops.tanh import grad_input as through_tanh
from cnnexp.ops.torch_internals import is_batched_by_autograd, transformed

__all__ = ["of_one", "of_several"]

Parameters = Sequence[tuple[Tensor, Tensor | None]]  # weight and bias of each layer

_SLOPES = {"relu": through_relu, "tanh": through_tanh}


def forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_2: Tensor | None,
    bias_2: Tensor | None,
    weight_3: Tensor | None,
    bias_3: Tensor | None,
    layers: kernels.Layers,
) -> tuple[Tensor, Tensor]:
    """Y (N, C_L) from x: (N, C_0), and a_1 … a_{L−1} one after the other."""
    count = len(layers.activations)
    weights: Any = (weight, weight_2, weight_3)[:count]
    return kernels.forward(input, weights, (bias, bias_2, bias_3)[:count], layers)


def gradients(  # noqa: PLR0913 (those of the op)
    grad_output: Tensor,
    output: Tensor | None,
    kept: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_2: Tensor | None,
    bias_2: Tensor | None,
    weight_3: Tensor | None,
    bias_3: Tensor | None,
    layers: kernels.Layers,
    needs_input_grad: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """The gradients of all tensors among the arguments of :func:`forward`, None where nobody needs one."""
    count = len(layers.activations)
    weights: Any = (weight, weight_2, weight_3)[:count]
    if _by_kernels(grad_output):
        needs = (
            needs_input_grad[0],
            needs_input_grad[1:7:2][:count],
            needs_input_grad[2:7:2][:count],
        )
        made = kernels.backward(grad_output, output, kept, input, weights, layers, needs)
    else:
        parameters = [*zip(weights, (bias, bias_2, bias_3), strict=False)]
        made = by_formulas(grad_output, input, parameters, layers.activations)
    pairs = zip(made.weights, made.biases, strict=True)
    left = (None,) * 2 * (kernels.MOST_LAYERS - count)
    return (made.input, *[each for pair in pairs for each in pair], *left)


def gradients_of_sums(  # noqa: PLR0913 (those of the op)
    grad_output: Tensor,
    kept: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_2: Tensor | None,
    bias_2: Tensor | None,
    weight_3: Tensor | None,
    bias_3: Tensor | None,
    layers: kernels.Layers,
    needs_input_grad: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """As :func:`gradients`, where y has no activation: it is not kept, and may be written to."""
    parameters = weight, bias, weight_2, bias_2, weight_3, bias_3
    return gradients(grad_output, None, kept, input, *parameters, layers, needs_input_grad)


def _by_kernels(grad_output: Tensor) -> bool:
    """Whether the kernels may compute gradients of ``grad_output``, which nobody differentiates or maps."""
    if torch.is_grad_enabled() or transformed() or type(grad_output) is not Tensor:
        return False
    return not is_batched_by_autograd(grad_output)


def by_formulas(
    grad_output: Tensor, input: Tensor, parameters: Parameters, activations: Sequence[str]
) -> kernels.Gradients:
    """All gradients in plain torch, which can be differentiated again."""
    images, of_weights, of_biases = [input], [], []
    for (weight, bias), name in zip(parameters, activations, strict=True):
        w, b = weight.to(input.dtype), None if bias is None else bias.to(input.dtype)
        z, activate = F.linear(images[-1], w, b), ACTIVATIONS[name]
        images.append(z if activate is None else activate(z))
    grad = grad_output
    for layer in reversed(range(len(activations))):
        weight = parameters[layer][0]
        grad = _through(activations[layer], grad, images[layer + 1])
        of_weights.insert(0, grad_weight(grad, images[layer]).to(weight.dtype))
        of_biases.insert(0, grad_bias(grad).to(weight.dtype))
        grad = grad_input(grad, weight.to(grad.dtype))
    return kernels.Gradients(grad, of_weights, of_biases)


def _through(activation: str, grad: Tensor, output: Tensor | None) -> Tensor:
    """∂L/∂z from ∂L/∂a and a, which is not asked for without an activation."""
    return grad if output is None or activation == "none" else _SLOPES[activation](grad, output)


_NAMES = ("input", "weight", "bias", "weight_2", "bias_2", "weight_3", "bias_3")


def _of_several(by: Callable[..., Any]) -> Callable[..., Any]:
    """The block whose gradients are those that ``by`` gives."""
    return differentiable(
        forward,
        outputs=("output", "kept"),
        shared={tuple(f"of_{name}" for name in _NAMES): by},
        input=lambda of_input: of_input,
        weight=lambda of_weight: of_weight,
        bias=lambda of_bias: of_bias,
        weight_2=lambda of_weight_2: of_weight_2,
        bias_2=lambda of_bias_2: of_bias_2,
        weight_3=lambda of_weight_3: of_weight_3,
        bias_3=lambda of_bias_3: of_bias_3,
    )


_several, _open_several = _of_several(gradients), _of_several(gradients_of_sums)


def of_several(input: Tensor, tensors: Sequence[Tensor | None], layers: kernels.Layers) -> Tensor:
    """Y (N, C_L) of several layers, whose weights and biases ``tensors`` are, filled up with None."""
    block = _open_several if layers.activations[-1] == "none" else _several
    return block(input, *tensors, layers)[0]


def forward_one(
    input: Tensor, weight: Tensor, bias: Tensor | None, layers: kernels.Layers
) -> Tensor:
    """Y (N, C_1) of one layer."""
    return kernels.forward(input, (weight,), (bias,), layers)[0]


def gradients_of_one(
    grad_output: Tensor,
    output: Tensor | None,
    input: Tensor | None,
    weight: Tensor | None,
    layers: kernels.Layers,
    needs_input_grad: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """∂L/∂x, ∂L/∂w and ∂L/∂b of one layer, of ``input`` and ``weight`` where the other's is needed."""
    of_input, of_weight, of_bias = needs_input_grad[:3]
    if _by_kernels(grad_output):
        needs = of_input, (of_weight,), (of_bias,)
        made = kernels.backward(grad_output, output, None, input, (weight,), layers, needs)
        return made.input, made.weights[0], made.biases[0]
    grad = _through(layers.activations[0], grad_output, output)
    return (
        grad_input(grad, weight.to(grad.dtype)) if of_input and weight is not None else None,
        grad_weight(grad, input).to(layers.dtype) if of_weight and input is not None else None,
        grad_bias(grad).to(layers.dtype) if of_bias else None,
    )


def gradients_of_one_sum(
    grad_output: Tensor,
    input: Tensor | None,
    weight: Tensor | None,
    layers: kernels.Layers,
    needs_input_grad: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """As :func:`gradients_of_one`, of a layer without an activation."""
    return gradients_of_one(grad_output, None, input, weight, layers, needs_input_grad)


def _of_one(by: Callable[..., Any]) -> Callable[..., Any]:
    return differentiable(
        forward_one,
        shared={("of_input", "of_weight", "of_bias"): by},
        keeps={"input": ("weight",), "weight": ("input",)},
        input=lambda of_input: of_input,
        weight=lambda of_weight: of_weight,
        bias=lambda of_bias: of_bias,
    )


_one, _open_one = _of_one(gradients_of_one), _of_one(gradients_of_one_sum)


def of_one(input: Tensor, weight: Tensor, bias: Tensor | None, layers: kernels.Layers) -> Tensor:
    """Y (N, C_1) of one layer."""
    block = _open_one if layers.activations[0] == "none" else _one
    return block(input, weight, bias, layers)
