"""The formula that a layer computes, and its settings: what the page needs besides the tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from cnnexp.geometry.convolution import padding_by_side
from cnnexp.geometry.windows import as_pair


def kind_of(layer: nn.Module) -> str:
    """The ``torch.nn`` class whose formula ``layer`` computes; the name of its own class if none is known."""
    return _known(layer).__name__


def settings_of(layer: nn.Module) -> dict[str, Any]:
    """The settings that the formula of ``layer`` needs besides weights, in plain types; empty if unknown.

    Pairs are (vertical, horizontal); ``padding`` is [top, bottom, left, right].
    """
    return dict(_SETTINGS.get(_known(layer), _nothing)(layer))


def _known(layer: nn.Module) -> type[nn.Module]:
    return next((known for known in _SETTINGS if isinstance(layer, known)), type(layer))


def _nothing(_layer: Any) -> Mapping[str, Any]:
    return {}


def _conv(layer: nn.Conv2d) -> Mapping[str, Any]:
    sides = padding_by_side(layer.kernel_size, layer.padding, layer.dilation)
    left, right, top, bottom = sides
    return {
        "kernel": list(layer.kernel_size),
        "stride": list(layer.stride),
        "dilation": list(layer.dilation),
        "padding": [top, bottom, left, right],
        "groups": layer.groups,
        "mode": layer.padding_mode,
    }


def _window(layer: Any) -> dict[str, Any]:
    kernel = as_pair(layer.kernel_size, "kernel_size")
    vertical, horizontal = as_pair(layer.padding, "padding")
    stride = as_pair(layer.stride if layer.stride is not None else kernel, "stride")
    return {
        "kernel": list(kernel),
        "stride": list(stride),
        "dilation": list(as_pair(getattr(layer, "dilation", 1), "dilation")),
        "padding": [vertical, vertical, horizontal, horizontal],
    }


def _avg_pool(layer: nn.AvgPool2d) -> Mapping[str, Any]:
    return {
        **_window(layer),
        "count_padding": bool(layer.count_include_pad),
        "divisor": layer.divisor_override,
    }


def _batch_norm(layer: nn.BatchNorm2d) -> Mapping[str, Any]:
    mean, var = layer.running_mean, layer.running_var
    if not isinstance(mean, Tensor) or not isinstance(var, Tensor):
        return {"eps": layer.eps}  # such a layer uses the image's own statistics
    return {"eps": layer.eps, "mean": mean.tolist(), "variance": var.tolist()}


_SETTINGS: Mapping[type[nn.Module], Callable[[Any], Mapping[str, Any]]] = {
    nn.Conv2d: _conv,
    nn.Linear: _nothing,
    nn.MaxPool2d: _window,
    nn.AvgPool2d: _avg_pool,
    nn.AdaptiveAvgPool2d: _nothing,
    nn.ReLU: _nothing,
    nn.LeakyReLU: lambda layer: {"slope": layer.negative_slope},
    nn.GELU: lambda layer: {"approximate": layer.approximate},
    nn.Tanh: _nothing,
    nn.Sigmoid: _nothing,
    nn.BatchNorm2d: _batch_norm,
    nn.GroupNorm: lambda layer: {"groups": layer.num_groups, "eps": layer.eps},
    nn.Dropout: lambda layer: {"probability": layer.p},
    nn.Dropout2d: lambda layer: {"probability": layer.p},
    nn.Flatten: _nothing,
    nn.Identity: _nothing,
}
