"""Tensor maths: every op with a hand-derived backward, some in several algorithms.

An op takes the arguments of its twin in ``torch.nn.functional`` plus ``algorithm=``, the name of a
registered way to compute it: ``direct``, for convolution and pooling also ``reference`` (by
definition) and ``im2col``, for their block with a ReLU also ``fused``, or ``native`` (torch's own
autograd, the baseline); ``auto`` measures which is the fastest.
"""

from importlib import import_module
from pkgutil import iter_modules

from cnnexp.geometry.pooling import Pool
from cnnexp.ops.adaptive_avg_pool2d import adaptive_avg_pool2d
from cnnexp.ops.autograd import differentiable, in_place
from cnnexp.ops.avg_pool2d import avg_pool2d
from cnnexp.ops.batch_norm import batch_norm
from cnnexp.ops.batch_norm_act import batch_norm_act
from cnnexp.ops.binary_cross_entropy_with_logits import binary_cross_entropy_with_logits
from cnnexp.ops.conv2d import conv2d
from cnnexp.ops.conv_relu_pool import conv_relu_pool
from cnnexp.ops.conv_tanh_pool import conv_tanh_pool
from cnnexp.ops.cross_entropy import cross_entropy
from cnnexp.ops.dropout import dropout
from cnnexp.ops.focal_loss import focal_loss
from cnnexp.ops.gelu import gelu
from cnnexp.ops.huber_loss import huber_loss
from cnnexp.ops.leaky_relu import leaky_relu
from cnnexp.ops.linear import linear
from cnnexp.ops.linear_act import linear_act
from cnnexp.ops.max_pool2d import max_pool2d
from cnnexp.ops.mse_loss import mse_loss
from cnnexp.ops.registry import (
    AUTO,
    NATIVE,
    Algorithm,
    UnknownAlgorithmError,
    UnsupportedInputError,
    algorithm_names,
    declare,
    get_algorithm,
    get_op,
    is_activation,
    op_names,
    register,
    resolve_algorithm,
)
from cnnexp.ops.relu import relu
from cnnexp.ops.tanh import tanh

__all__ = [
    "AUTO",
    "NATIVE",
    "Algorithm",
    "Pool",
    "UnknownAlgorithmError",
    "UnsupportedInputError",
    "adaptive_avg_pool2d",
    "algorithm_names",
    "avg_pool2d",
    "batch_norm",
    "batch_norm_act",
    "binary_cross_entropy_with_logits",
    "conv2d",
    "conv_relu_pool",
    "conv_tanh_pool",
    "cross_entropy",
    "declare",
    "differentiable",
    "dropout",
    "focal_loss",
    "gelu",
    "get_algorithm",
    "get_op",
    "huber_loss",
    "in_place",
    "is_activation",
    "leaky_relu",
    "linear",
    "linear_act",
    "max_pool2d",
    "mse_loss",
    "op_names",
    "register",
    "relu",
    "resolve_algorithm",
    "tanh",
]

# A new op is a file here and is found; those above are named for editors and type checkers.
for _file in iter_modules(__path__):
    import_module(f"{__name__}.{_file.name}")
globals().update({_op: get_op(_op) for _op in op_names()})
