"""Random calls of every op, drawn from a seed: odd shapes, strides, paddings, groups, layouts, N = 0.

``CASES`` also draws calls that torch refuses (a kernel larger than the image, for example): ours must
refuse them with the same exception. ``SMOOTH_CASES`` draws small calls at which the op has a
derivative: no ties of a maximum, no value at the kink of a ReLU.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnnexp.geometry.windows import WindowGeometry, as_pair
from cnnexp.ops import Pool, is_activation, op_names

Draw = random.Random
_DTYPE = torch.float64


class Case(NamedTuple):
    """One call ``function(*tensors, **arguments)``, differentiated with respect to ``tensors``."""

    tensors: list[Tensor]
    arguments: dict[str, Any]

    def to(self, dtype: torch.dtype) -> Case:
        """This call with all floating-point tensors in ``dtype``."""
        return self.mapped(lambda t: t.detach().to(dtype) if t.is_floating_point() else t)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Case:
        """This call with ``change`` of each tensor in its place."""
        values = [change(v) if isinstance(v, Tensor) else v for v in self.tensors]
        named = self.arguments.items()
        return Case(values, {k: change(v) if isinstance(v, Tensor) else v for k, v in named})


def _conv2d(draw: Draw) -> Case:
    groups = draw.choice([1, 1, 2, 3])
    c_in, c_out = groups * draw.randint(1, 2), groups * draw.randint(1, 2)
    kernel = (draw.randint(1, 4), draw.randint(1, 4))
    image = _image(draw, c_in)
    weight, bias = _normal(c_out, c_in // groups, *kernel), _normal(c_out)
    return Case(
        [image, weight, bias],
        {
            "stride": draw.choice([1, 1, 2, 3, (1, 2)]),
            "padding": draw.choice([0, 1, 2, (2, 1), "same", "valid"]),
            "dilation": draw.choice([1, 1, 2, (2, 1)]),
            "groups": groups,
        },
    )


def _any_conv2d(draw: Draw) -> Case:
    """A convolution, at times one with a kernel for each channel, which has kernels of its own."""
    if draw.random() < 0.75:
        return _conv2d(draw)
    channels = draw.choice([1, 3, 16, 19])
    kernel = (draw.randint(1, 4), draw.randint(1, 4))
    tensors = [_image(draw, channels), _normal(channels, 1, *kernel), _normal(channels)]
    stride, padding = draw.choice([1, 1, 2, 3, (1, 2)]), draw.choice([0, 1, 2, (2, 1), "same"])
    return Case(tensors, {"stride": stride, "padding": padding, "groups": channels})


def _everyday_block(draw: Draw) -> Case:
    """The block that most networks use and that has a kernel of its own, with partly filled vectors
    as well.
    """
    c_in, c_out = draw.choice([16, 20]), draw.choice([16, 18])
    image = _image(draw, c_in)
    tensors = [image, _normal(c_out, c_in, 3, 3), _normal(c_out)]
    padding = draw.choice([0, 1, (2, 1), "same"])
    return Case(tensors, {"padding": padding, "pool": Pool("max", draw.choice([2, 2, 2, 3]))})


def _conv_relu_pool(draw: Draw) -> Case:
    if draw.random() < 0.15:
        return _everyday_block(draw)
    tensors, arguments = _conv2d(draw)
    if draw.random() < 0.3:  # more channels than the kernels' vectors have lanes
        c_in, groups = draw.choice([16, 20]), 1
        c_out, _, *kernel = tensors[1].shape
        image = _image(draw, c_in)
        tensors = [image, _normal(c_out, c_in, *kernel), tensors[2]]
        arguments["groups"] = groups
    kind = draw.choice(["max", "max", "avg"])
    return Case(tensors, arguments | {"pool": _pool(draw, kind)})


def _pool(draw: Draw, kind: str) -> Pool:
    """The pooling of a block."""
    window: dict[str, Any] = _window(draw) | {"padding": draw.choice([0, 0, 1, (1, 0)])}
    if kind == "avg":
        window["count_include_pad"] = draw.random() < 0.5
        window["divisor_override"] = draw.choice([None, None, 3])
    return Pool(kind, **window)


def _conv_tanh_pool(draw: Draw) -> Case:
    """A block, mostly of stride 1 and without a group, for which there are kernels."""
    tensors, arguments = _conv2d(draw)
    if draw.random() < 0.7:
        c_out, c_in = draw.choice([1, 3, 6, 7, 16, 33]), draw.choice([1, 2, 9])
        kernel = tensors[1].shape[2:]
        tensors = [_image(draw, c_in), _normal(c_out, c_in, *kernel), _normal(c_out)]
        arguments |= {"groups": 1, "stride": 1}
    kind = draw.choice(["none", "max", "avg", "avg"])
    if kind == "none":
        return Case(tensors, arguments | {"pool": None})
    return Case(tensors, arguments | {"pool": _pool(draw, kind)})


def _max_pool2d(draw: Draw) -> Case:
    while True:
        image = torch.randint(-2, 3, _image(draw, draw.randint(1, 3)).shape).to(_DTYPE)
        if draw.random() < 0.2:
            image[torch.rand(image.shape) < 0.3] = torch.nan
        if draw.random() < 0.2:
            image[torch.rand(image.shape) < 0.7] = -torch.inf
        arguments = _window(draw) | {
            "dilation": draw.choice([1, 1, 2, (2, 1)]),
            "return_indices": True,
        }
        if not _blind(image, arguments):
            return Case([_layout(draw, image)], arguments)


def _avg_pool2d(draw: Draw) -> Case:
    return Case(
        [_image(draw, draw.randint(1, 3))],
        _window(draw)
        | {
            "count_include_pad": draw.random() < 0.5,
            "divisor_override": draw.choice([None, None, 3, -2]),
        },
    )


def _adaptive_avg_pool2d(draw: Draw) -> Case:
    size = draw.choice([1, 3, (2, 5), (None, 1), (4, None), -1, (2, 2, 2)])
    return Case([_image(draw, draw.randint(1, 3))], {"output_size": size})


def _pointwise(draw: Draw) -> Case:
    shape = [draw.randint(0, 4) for _ in range(draw.randint(0, 4))]
    values = 3 * _normal(shape)
    if draw.random() < 0.3:  # kinks, infinities and NaN
        special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan], dtype=_DTYPE)
        values = special[torch.randint(5, shape)]
    return Case([_layout(draw, values)], {})


def _leaky_relu(draw: Draw) -> Case:
    slope = draw.choice([0.01, 0.2, 0.0, 2.0])
    return Case(_pointwise(draw).tensors, {"negative_slope": slope})


def _gelu(draw: Draw) -> Case:
    shape = [draw.randint(0, 4) for _ in range(draw.randint(0, 4))]
    way = draw.choice(["none", "none", "tanh", "tanh", "erf"])
    return Case([_layout(draw, 2 * _normal(shape))], {"approximate": way})


def _linear(draw: Draw) -> Case:
    c_in, c_out = draw.randint(1, 5), draw.randint(1, 5)
    lead = [draw.randint(0, 3) for _ in range(draw.randint(0, 3))]
    input = _normal(*lead, c_in + draw.choice([0] * 9 + [1]))
    weight = _normal(c_out, c_in)
    if draw.random() < 0.1:
        return Case([input, weight[0]], {})
    bias = _normal(c_out + draw.choice([0] * 9 + [1]))
    return Case([_layout(draw, input), weight, *([bias] if draw.random() < 0.7 else [])], {})


def _linear_act(draw: Draw) -> Case:
    """Layers for which there are kernels, of pairs with an odd one as well, or any."""
    count = draw.randint(1, 3)
    if draw.random() < 0.6:
        widths = [draw.choice([32, 34, 50]) for _ in range(count)] + [draw.choice([1, 7, 16, 19])]
        lead = draw.choice([[8], [13], [3, 5], [33]])
    else:
        widths = [draw.randint(1, 5) for _ in range(count + 1)]
        lead = [draw.randint(0, 3) for _ in range(draw.randint(0, 3))]
    wrong = draw.choice([0] * 9 + [1])
    tensors = [_layout(draw, _normal(*lead, widths[0] + wrong))]
    for c_in, c_out in pairwise(widths):
        tensors += [_normal(c_out, c_in) / c_in**0.5, _normal(c_out)]
    activations = tuple(draw.choice(["relu", "tanh", "tanh", "none"]) for _ in range(count))
    return Case(tensors, {"activations": activations})


def _batch_norm(draw: Draw) -> Case:
    channels, training = draw.randint(1, 4), draw.random() < 0.6
    rest = [draw.randint(1, 4) for _ in range(draw.randint(0, 2))]
    input = _normal(draw.randint(1, 4), channels, *rest) + 2
    arguments: dict[str, Any] = {"running_mean": None, "running_var": None}
    if not training or draw.random() < 0.7:
        size = channels + draw.choice([0] * 12 + [1])
        arguments["running_mean"] = _normal(size)
        arguments["running_var"] = torch.rand(size, dtype=_DTYPE) + 0.5
        if draw.random() < 0.05:
            arguments["running_var"] = None
    arguments |= {"training": training, "momentum": draw.choice([0.1, 0.0, 1.0, 0.3])}
    tensors = [_layout(draw, input)]
    if draw.random() < 0.7:
        tensors += [_normal(channels), _normal(channels)]
    return Case(tensors, arguments | {"eps": draw.choice([1e-5, 0.1])})


def _batch_norm_act(draw: Draw) -> Case:
    case = _batch_norm(draw)
    activation = draw.choice(["relu", "relu", "relu6", "hardswish", "silu", "none"])
    pooled = case.tensors[0].dim() == 4 and draw.random() < 0.5
    pool = _pool(draw, draw.choice(["max", "max", "avg"])) if pooled else None
    return Case(case.tensors, case.arguments | {"activation": activation, "pool": pool})


def _dropout(draw: Draw) -> Case:
    p, training = draw.choice([0.0, 0.2, 0.5, 0.9, 1.0, 1.5, -0.1]), draw.random() < 0.8
    shape = [draw.randint(0, 4) for _ in range(draw.randint(1, 4))]
    values = _normal(shape)
    return Case([values], {"p": p, "training": training})


def _cross_entropy(draw: Draw) -> Case:
    classes, n = draw.randint(1, 5), draw.choice([0, 1, 2, 4])
    rest = [draw.randint(1, 3) for _ in range(draw.choice([0, 0, 1, 2]))]
    shape = [classes] if draw.random() < 0.1 else [n, classes, *rest]
    logits = 3 * _normal(shape)
    arguments: dict[str, Any] = {
        "weight": draw.choice([None, torch.rand(classes, dtype=_DTYPE) + 0.1]),
        "reduction": draw.choice(["mean", "mean", "sum", "none", "average"]),
        "label_smoothing": draw.choice([0.0, 0.0, 0.1, 1.0, 1.5]),
    }
    if draw.random() < 0.3:
        return Case([logits, torch.rand(shape, dtype=_DTYPE)], arguments)
    size = [] if len(shape) == 1 else [n + draw.choice([0] * 12 + [1]), *rest]
    most = classes + draw.choice([0] * 12 + [2])
    target = torch.randint(most, size)
    if draw.random() < 0.3:
        target[torch.rand(size) < 0.3] = -100
    return Case([logits], arguments | {"target": target})


def _focal_loss(draw: Draw) -> Case:
    classes, n = draw.randint(1, 5), draw.choice([1, 1, 2, 4])
    rest = [draw.randint(1, 3) for _ in range(draw.choice([0, 0, 1, 2]))]
    arguments: dict[str, Any] = {
        "target": torch.randint(classes, [n + draw.choice([0] * 12 + [1]), *rest]),
        "weight": draw.choice([None, torch.rand(classes, dtype=_DTYPE) + 0.1]),
        "gamma": draw.choice([0.0, 1.0, 2.0, 2.0, 3.5, -1.0]),
        "reduction": draw.choice(["mean", "mean", "sum", "none", "average"]),
    }
    return Case([2 * _normal([n, classes, *rest])], arguments)


def _of_two(draw: Draw) -> tuple[list[Tensor], dict[str, Any]]:
    """Values, targets and the reduction of a loss that compares element with element."""
    shape = [draw.randint(0, 4) for _ in range(draw.randint(1, 3))]
    reduction = draw.choice(["mean", "mean", "sum", "none", "average"])
    return [2 * _normal(shape), _normal(shape)], {"reduction": reduction}


def _mse_loss(draw: Draw) -> Case:
    return Case(*_of_two(draw))


def _huber_loss(draw: Draw) -> Case:
    tensors, arguments = _of_two(draw)
    return Case(tensors, arguments | {"delta": draw.choice([0.5, 1.0, 2.0, 0.0])})


def _binary_cross_entropy(draw: Draw) -> Case:
    (values, target), arguments = _of_two(draw)
    target = target.sigmoid()
    if draw.random() < 0.1:
        target = target.unsqueeze(0)
    size = values.shape[-1:]
    arguments["weight"] = draw.choice([None, None, torch.rand(size, dtype=_DTYPE) + 0.1])
    arguments["pos_weight"] = draw.choice([None, torch.rand(size, dtype=_DTYPE) + 0.5])
    return Case([3 * values, target], arguments)


_DRAWN: dict[str, Callable[..., Case]] = {
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "avg_pool2d": _avg_pool2d,
    "batch_norm": _batch_norm,
    "batch_norm_act": _batch_norm_act,
    "binary_cross_entropy_with_logits": _binary_cross_entropy,
    "conv2d": _any_conv2d,
    "conv_relu_pool": _conv_relu_pool,
    "conv_tanh_pool": _conv_tanh_pool,
    "cross_entropy": _cross_entropy,
    "dropout": _dropout,
    "focal_loss": _focal_loss,
    "gelu": _gelu,
    "huber_loss": _huber_loss,
    "leaky_relu": _leaky_relu,
    "linear": _linear,
    "linear_act": _linear_act,
    "max_pool2d": _max_pool2d,
    "mse_loss": _mse_loss,
}


def _normal(*shape: Any) -> Tensor:
    """Normally distributed numbers in float64; ``shape`` as of ``torch.randn``."""
    return torch.randn(*shape, dtype=_DTYPE)


def _window(draw: Draw) -> dict[str, Any]:
    return {
        "kernel_size": (draw.randint(1, 4), draw.randint(1, 4)),
        "stride": draw.choice([None, 1, 2, 3, (2, 1)]),
        "padding": draw.choice([0, 1, (1, 0), 2]),
        "ceil_mode": draw.random() < 0.5,
    }


def _image(draw: Draw, channels: int) -> Tensor:
    size = (draw.randint(1, 8), draw.randint(1, 8))
    if draw.random() < 0.1:
        return _normal(channels, *size)
    return _layout(draw, _normal(draw.choice([0, 1, 2, 3]), channels, *size))


def _layout(draw: Draw, tensor: Tensor) -> Tensor:
    kind = draw.choice(["contiguous", "channels_last", "strided"])
    if kind == "channels_last" and tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    if kind == "strided" and tensor.dim():
        return tensor.repeat_interleave(2, dim=-1)[..., ::2]
    return tensor


def _blind(image: Tensor, arguments: dict[str, Any]) -> bool:
    """Whether a window lies over padding only: torch's backward then writes outside its memory."""
    kernel = arguments["kernel_size"]
    stride = kernel if arguments["stride"] is None else as_pair(arguments["stride"], "stride")
    try:
        geometry = WindowGeometry(
            (image.size(-2), image.size(-1)),
            kernel,
            stride,
            as_pair(arguments["padding"], "padding"),
            as_pair(arguments["dilation"], "dilation"),
            arguments["ceil_mode"],
        )
    except RuntimeError:
        return False
    return geometry.blind_windows()


def _spaced(shape: torch.Size) -> Tensor:
    """Distinct values in random order, none of them 0, at least ½ apart."""
    count = shape.numel()
    return (0.5 * (torch.randperm(count).double() - count // 2) + 0.25).reshape(shape)


def _away_from_kinks(case: Case) -> Case:
    """The case with values that have no ties and are not at 0."""
    return Case([_spaced(case.tensors[0].shape), *case.tensors[1:]], case.arguments)


def _smooth(op: str) -> Callable[[Draw], Case]:
    def draw_case(draw: Draw) -> Case:
        while True:
            case = CASES[op](draw)
            size = sum(t.numel() for t in case.tensors)
            if 0 < size <= 300 and all(t.isfinite().all() for t in case.tensors):
                return _away_from_kinks(case) if op in _KINKED else case

    return draw_case


_KINKED = ("leaky_relu", "max_pool2d", "relu")


class _ByOp(dict[str, Callable[..., Case]]):
    """What draws a case, by the op; an op that is declared later, by a user, is found as well."""

    def __init__(self, make: Callable[[str], Callable[..., Case]]) -> None:
        super().__init__({op: make(op) for op in op_names()})
        self._make = make

    def __missing__(self, op: str) -> Callable[..., Case]:
        return self._make(op)


def _drawn(op: str) -> Callable[..., Case]:
    return _pointwise if op not in _DRAWN and is_activation(op) else _DRAWN[op]


CASES = _ByOp(_drawn)
SMOOTH_CASES = _ByOp(_smooth)
