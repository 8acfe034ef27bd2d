"""Layers over ``cnnexp.ops``, each a drop-in replacement for its twin in ``torch.nn``."""

from cnnexp.as_found import left_as_found
from cnnexp.nn import activation
from cnnexp.nn.activation import *  # noqa: F403  (what is public there)
from cnnexp.nn.conv import Conv2d, ConvReLUPool, ConvTanhPool
from cnnexp.nn.conversion import Conversion, conversion
from cnnexp.nn.dropout import Dropout
from cnnexp.nn.fuse import fuse_blocks, split_blocks
from cnnexp.nn.layer import Layer, layer_algorithms
from cnnexp.nn.lazy import LazyBatchNorm2d, LazyConv2d, LazyLinear, initialise_lazy
from cnnexp.nn.linear import Linear
from cnnexp.nn.loss import BCEWithLogitsLoss, CrossEntropyLoss, FocalLoss, HuberLoss, MSELoss
from cnnexp.nn.norm import BatchNorm2d, BatchNormAct2d
from cnnexp.nn.per_sample import (
    GradientNoise,
    LargestGradients,
    LayerNoise,
    PerSampleError,
    gradient_noise,
    largest_gradients,
    per_sample_gradients,
    per_sample_norms,
)
from cnnexp.nn.pool import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from cnnexp.nn.replace import replace_layers
from cnnexp.nn.twins import REPLACEMENTS, replaces

__all__ = [
    "REPLACEMENTS",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm2d",
    "BatchNormAct2d",
    "Conv2d",
    "ConvReLUPool",
    "ConvTanhPool",
    "Conversion",
    "CrossEntropyLoss",
    "Dropout",
    "FocalLoss",
    "GradientNoise",
    "HuberLoss",
    "LargestGradients",
    "Layer",
    "LayerNoise",
    "LazyBatchNorm2d",
    "LazyConv2d",
    "LazyLinear",
    "Linear",
    "MSELoss",
    "MaxPool2d",
    "PerSampleError",
    "conversion",
    "fuse_blocks",
    "gradient_noise",
    "initialise_lazy",
    "largest_gradients",
    "layer_algorithms",
    "left_as_found",
    "per_sample_gradients",
    "per_sample_norms",
    "replace_layers",
    "replaces",
    "split_blocks",
]
__all__ += activation.__all__
