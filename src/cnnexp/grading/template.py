"""The file that a student fills in."""

from __future__ import annotations

from cnnexp.grading.contract import CONTRACTS

_SHAPES = {
    "conv2d": "x: (N, C, H, W), w: (O, C, K_h, K_w), b: (O,) → y: (N, O, P, Q)",
    "max_pool2d": "x: (N, C, H, W) → y: (N, C, P, Q)",
    "avg_pool2d": "x: (N, C, H, W) → y: (N, C, P, Q); zeros of the padding count",
    "relu": "x of any shape → y of the same",
    "linear": "x: (N, C_in), w: (C_out, C_in), b: (C_out,) → y: (N, C_out)",
    "batch_norm": "x: (N, C, H, W), gamma, beta: (C,) → y: (N, C, H, W); in training, biased variance",
    "cross_entropy": "logits: (N, C), target: (N,) of classes → L, the mean over the batch",
    "conv_relu_pool": "x: (N, C, H, W), w: (O, C, K_h, K_w), b: (O,) → y: (N, O, P, Q); max-pooling",
}
# Settings that a student need not take: they are tried where forward has them
_OPTIONAL = {"dilation", "groups"}


def template(op: str) -> str:
    """The text of a Python file with the signatures of ``op``, to fill in."""
    contract = CONTRACTS[op]
    kept = {name: value for name, value in contract.settings.items() if name not in _OPTIONAL}
    settings = "".join(f", {name}={value}" for name, value in kept.items())
    tensors = ", ".join(contract.tensors)
    results = ", ".join(f"d{name}" for name in contract.gradients)
    said = ", ".join(contract.symbol(name) for name in contract.gradients)
    return f'''"""{op}: fill in forward and backward, then: python -m cnnexp.grade {op} <this file>

{_SHAPES[op]}
"""

import numpy as np  # or torch: whichever this file imports is what it is given


def forward({tensors}{settings}):
    """{contract.formulas["y"]}"""
    raise NotImplementedError


def backward(grad_output, {tensors}{settings}):
    """Return {said}; grad_output is ∂L/∂y.

    Or: forward returns (y, cache), and this is backward(grad_output, cache).
    """
    raise NotImplementedError
    return {results}
'''
