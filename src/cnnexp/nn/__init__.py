"""Layers over ``cnnexp.ops``, drop-in for their twins in ``torch.nn``."""

from cnnexp.nn.conv import Conv2d
from cnnexp.nn.pool import AvgPool2d, MaxPool2d
from cnnexp.nn.replace import REPLACEMENTS, replace_layers

__all__ = ["REPLACEMENTS", "AvgPool2d", "Conv2d", "MaxPool2d", "replace_layers"]
