"""Tensor maths: every op in several algorithms, each with a hand-derived backward.

An op takes the arguments of its twin in ``torch.nn.functional`` plus ``algorithm=``, the name of a
registered way to compute it: ``reference`` (by definition), ``im2col``, ``direct``, or ``native``
(torch's own autograd, the baseline).
"""

from cnnexp.ops.avg_pool2d import avg_pool2d
from cnnexp.ops.conv2d import conv2d
from cnnexp.ops.max_pool2d import max_pool2d
from cnnexp.ops.registry import (
    Algorithm,
    UnknownAlgorithmError,
    UnsupportedInputError,
    algorithm_names,
    get_algorithm,
    op_names,
    register,
)

__all__ = [
    "Algorithm",
    "UnknownAlgorithmError",
    "UnsupportedInputError",
    "algorithm_names",
    "avg_pool2d",
    "conv2d",
    "get_algorithm",
    "max_pool2d",
    "op_names",
    "register",
]
