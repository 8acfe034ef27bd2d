"""One to three linear layers, each with its activation, in one op. The formulas stand in ``fused``."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cnnexp.ops.linear_act import fused  # noqa: F401  (it registers)
from cnnexp.ops.linear_act.parts import ACTIVATIONS
from cnnexp.ops.registry import declare, get_algorithm

__all__ = ["ACTIVATIONS", "linear_act"]


def linear_act(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    weight_2: Tensor | None = None,
    bias_2: Tensor | None = None,
    weight_3: Tensor | None = None,
    bias_3: Tensor | None = None,
    activations: Sequence[str] = ("relu",),
    *,
    algorithm: str = "fused",
) -> Tensor:
    """``activation(linear(input, weight, bias))``, and the same of up to two more layers behind it.

    Args:
        input: (…, C_0).
        weight, bias: (C_1, C_0); (C_1,) or None.
        weight_2, bias_2, weight_3, bias_3: (C_2, C_1) and (C_2,), (C_3, C_2) and (C_3,), of the layers that
            follow; None without them.
        activations: Of each layer, ``"relu"``, ``"tanh"`` or ``"none"``.
        algorithm: A name from ``cnnexp.ops.algorithm_names("linear_act")``. ``fused`` computes by its parts
            what it has no kernels for: less than eight rows, rows of less than 16 numbers (in bfloat16 less
            than 32, or an odd number), other devices than the CPU, float64, float16, ``torch.compile``, and
            transforms of ``torch.func``.

    Returns:
        (…, C_L) of the last of L layers.

    Raises:
        RuntimeError: Shapes or dtypes do not fit together (as torch).
        ValueError: Weights and activations are not equally many, an activation is unknown, or a layer is
            left out.
        UnknownAlgorithmError: ``algorithm`` is not registered.

    Examples:
        >>> import torch
        >>> from cnnexp import ops
        >>> x, w = torch.tensor([[1.0, -2.0]]), torch.eye(2, requires_grad=True)
        >>> y = ops.linear_act(x, w, None, torch.ones(1, 2), activations=("relu", "none"))
        >>> y.tolist()
        [[1.0]]
        >>> y.sum().backward()
        >>> w.grad.tolist()  # nothing through the unit that the ReLU stopped
        [[1.0, -2.0], [0.0, 0.0]]
    """
    function = get_algorithm("linear_act", algorithm)
    return function(input, weight, bias, weight_2, bias_2, weight_3, bias_3, activations)


declare(linear_act)  # whose native way is that of its parts
