"""One or more small calls of every op, each with a batch of 2 and away from ties and kinks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnnexp import ops
from cnnexp.proofs import called


class Call(NamedTuple):
    op: str
    shapes: tuple[tuple[int, ...], ...]
    arguments: dict[str, Any] = {}  # noqa: RUF012
    kinked: bool = False  # the first tensor must hold distinct values, none of them 0

    def tensors(self, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        generator = torch.Generator().manual_seed(4)
        made = [torch.randn(s, generator=generator, dtype=torch.float64) for s in self.shapes]
        if self.kinked:
            count = made[0].numel()
            order = torch.randperm(count, generator=generator).double()
            made[0] = ((order - count // 2) / 10 + 0.05).reshape(self.shapes[0])
        return [t.to(dtype).requires_grad_() for t in made]

    def function(self, algorithm: str | None) -> Callable[..., Tensor]:
        """The call as a function of its tensors alone; None for torch's own."""
        call = called(self.op, algorithm)

        def function(*tensors: Tensor) -> Tensor:
            output = call(*tensors, **self.arguments)
            return output[0] if isinstance(output, tuple) else output

        return function


LOSSES = (  # what compares outputs with targets
    *("cross_entropy", "focal_loss"),
    *("binary_cross_entropy_with_logits", "huber_loss", "mse_loss"),
)
STATISTICS = {"running_mean": torch.tensor([0.5, -1.0]), "running_var": torch.tensor([0.7, 2.0])}
STATISTICS = {name: tensor.double() for name, tensor in STATISTICS.items()}

CALLS: dict[str, Call] = {
    "adaptive_avg_pool2d": Call("adaptive_avg_pool2d", ((2, 2, 5, 6),), {"output_size": (3, 2)}),
    "adaptive_avg_pool2d to one": Call("adaptive_avg_pool2d", ((2, 2, 5, 6),), {"output_size": 1}),
    "avg_pool2d": Call(
        "avg_pool2d",
        ((2, 2, 5, 6),),
        {
            "kernel_size": (3, 2),
            "stride": 2,
            "padding": 1,
            "ceil_mode": True,
            "count_include_pad": False,
        },
    ),
    "avg_pool2d apart": Call("avg_pool2d", ((2, 2, 5, 6),), {"kernel_size": 2}),
    "batch_norm": Call(
        "batch_norm",
        ((2, 2, 3, 2), (2,), (2,)),
        {"running_mean": None, "running_var": None, "training": True},
    ),
    "batch_norm evaluation": Call("batch_norm", ((2, 2, 3, 2), (2,), (2,)), STATISTICS),
    "batch_norm_act": Call(
        "batch_norm_act",
        ((2, 2, 3, 2), (2,), (2,)),
        {"running_mean": None, "running_var": None, "training": True},
    ),
    "batch_norm_act evaluation": Call(
        "batch_norm_act", ((2, 2, 3, 2), (2,), (2,)), STATISTICS | {"activation": "relu6"}
    ),
    "batch_norm_act maxima": Call(
        "batch_norm_act",
        ((2, 3, 5, 4), (3,), (3,)),
        {
            "running_mean": None,
            "running_var": None,
            "training": True,
            "pool": ops.Pool("max", 3, 2, 1),
        },
    ),
    "batch_norm_act means": Call(
        "batch_norm_act",
        ((2, 2, 4, 5), (2,), (2,)),
        STATISTICS | {"activation": "silu", "pool": ops.Pool("avg", 2)},
    ),
    "batch_norm_act hardswish": Call(
        "batch_norm_act",
        ((2, 3, 3, 2), (3,)),
        {"running_mean": None, "running_var": None, "training": True, "activation": "hardswish"},
    ),
    "batch_norm_act silu": Call(
        "batch_norm_act",
        ((4, 3), (3,), (3,)),
        {"running_mean": None, "running_var": None, "training": True, "activation": "silu"},
    ),
    "conv2d": Call(
        "conv2d",
        ((2, 4, 5, 6), (4, 2, 3, 2), (4,)),
        {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2},
    ),
    "conv2d depthwise": Call(
        "conv2d",
        ((2, 3, 5, 6), (3, 1, 3, 2), (3,)),
        {"stride": (2, 1), "padding": (1, 2), "groups": 3},
    ),
    "conv2d depthwise of many channels": Call(
        "conv2d", ((1, 17, 4, 5), (17, 1, 3, 3), (17,)), {"padding": 1, "groups": 17}
    ),
    "conv2d narrow": Call(
        "conv2d", ((2, 3, 5, 6), (7, 3, 3, 2), (7,)), {"padding": (1, 0), "dilation": (1, 2)}
    ),
    "conv2d same": Call("conv2d", ((2, 2, 4, 5), (3, 2, 4, 3), (3,)), {"padding": "same"}),
    "conv_relu_pool": Call(
        "conv_relu_pool", ((2, 2, 5, 6), (3, 2, 3, 3), (3,)), {"padding": "same"}
    ),
    "conv_relu_pool many channels": Call(
        "conv_relu_pool",
        ((2, 16, 4, 3), (2, 16, 3, 2), (2,)),
        {"padding": 1, "dilation": (1, 2), "pool": ops.Pool("max", 3, 2, 1, ceil_mode=True)},
    ),
    "conv_relu_pool average": Call(
        "conv_relu_pool",
        ((2, 2, 5, 6), (3, 2, 3, 3), (3,)),
        {"padding": 1, "pool": ops.Pool("avg", (2, 3), 1, count_include_pad=False)},
    ),
    "conv_relu_pool in groups": Call(
        "conv_relu_pool", ((2, 4, 5, 4), (4, 2, 2, 2), (4,)), {"groups": 2}
    ),
    "conv_tanh_pool": Call(
        "conv_tanh_pool",
        ((2, 2, 5, 6), (3, 2, 3, 3), (3,)),
        {"padding": 1, "pool": ops.Pool("avg", (2, 3), 1, count_include_pad=False)},
    ),
    "conv_tanh_pool alone": Call(
        "conv_tanh_pool", ((2, 3, 4, 5), (9, 3, 2, 3), (9,)), {"padding": "same"}
    ),
    "conv_tanh_pool in groups": Call(
        "conv_tanh_pool",
        ((2, 4, 5, 4), (4, 2, 2, 2), (4,)),
        {"groups": 2, "pool": ops.Pool("max", 2, 1)},
    ),
    "cross_entropy": Call(
        "cross_entropy",
        ((2, 4),),
        {"target": torch.tensor([1, 3]), "label_smoothing": 0.1, "reduction": "sum"},
    ),
    "cross_entropy of probabilities": Call(
        "cross_entropy", ((2, 3, 2), (2, 3, 2)), {"reduction": "none"}
    ),
    "binary_cross_entropy_with_logits": Call(
        "binary_cross_entropy_with_logits",
        ((2, 3), (2, 3)),
        {"pos_weight": torch.tensor([0.5, 1.0, 2.0]).double(), "reduction": "sum"},
    ),
    "focal_loss": Call(
        "focal_loss", ((2, 4),), {"target": torch.tensor([1, 3]), "reduction": "sum"}
    ),
    "huber_loss": Call("huber_loss", ((2, 3), (2, 3)), {"reduction": "none", "delta": 0.7}),
    "mse_loss": Call("mse_loss", ((2, 3), (2, 3))),
    "dropout": Call("dropout", ((2, 3, 4),), {"p": 0.4}),
    "gelu": Call("gelu", ((2, 3, 4),)),
    "gelu tanh": Call("gelu", ((2, 3, 4),), {"approximate": "tanh"}),
    "leaky_relu": Call("leaky_relu", ((2, 3, 4),), {"negative_slope": 0.2}, kinked=True),
    "linear": Call("linear", ((2, 3), (4, 3), (4,))),
    "linear of sequences": Call("linear", ((2, 3, 4), (5, 4), (5,))),
    "linear_act": Call("linear_act", ((3, 4), (5, 4), (5,)), {"activations": ("tanh",)}),
    "linear_act three": Call(
        "linear_act",
        ((3, 3, 4), (5, 4), (5,), (3, 5), (3,), (2, 3), (2,)),
        {"activations": ("tanh", "relu", "none")},
    ),
    "max_pool2d": Call(
        "max_pool2d",
        ((2, 2, 5, 6),),
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
        kinked=True,
    ),
    "max_pool2d apart": Call("max_pool2d", ((2, 2, 5, 6),), {"kernel_size": 2}, kinked=True),
    "relu": Call("relu", ((2, 3, 4),), kinked=True),
}


def activations(*known: str) -> list[str]:
    """The ops but ``known`` that need nothing but a tensor, so that a case for each can be made up."""
    return [op for op in ops.op_names() if op not in known and ops.is_activation(op)]


CALLS |= {op: Call(op, ((2, 3, 4),)) for op in activations(*CALLS)}

# of sizes that kernels are for: nothing new, and long, for ``reference``, which loops over all numbers
OF_KERNELS = (
    *("conv2d depthwise of many channels", "conv2d narrow", "conv_relu_pool many channels"),
    *("conv_tanh_pool", "conv_tanh_pool alone"),
)
