"""Time single ops, forward and backward, with each algorithm and with torch's ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnnexp import ops
from cnnexp.ops.torch_internals import repeatable_backward
from cnnexp.proofs import TWINS
from cnnexp.proofs.torch_twins import called
from cnnexp.speed.result import Measured, not_measured, spread
from cnnexp.tuning.memory import saved_bytes
from cnnexp.tuning.timing import interleaved_times


class Situation(NamedTuple):
    """A call that networks make: shapes of the tensors differentiated by, and other arguments.

    ``first`` says that the call is the first layer, where no gradient for the images is needed.
    """

    op: str
    about: str
    shapes: tuple[tuple[int, ...], ...]
    arguments: dict[str, Any]
    first: bool = False


def _convolution(
    op: str, about: str, n: int, c: int, size: int, o: int, k: int, first: bool = False, **rest: Any
) -> Situation:
    shapes = (n, c, size, size), (o, c // rest.get("groups", 1), k, k), (o,)
    return Situation(op, about, shapes, {"padding": k // 2, **rest}, first)


_conv, _block = partial(_convolution, "conv2d"), partial(_convolution, "conv_relu_pool")
_tanh_block = partial(_convolution, "conv_tanh_pool")


_LISTED: tuple[Situation, ...] = (
    _conv("seed_cnn layer 1", 128, 1, 28, 32, 3, first=True),
    _conv("seed_cnn layer 2", 128, 32, 14, 64, 3),
    _conv("seed_cnn layer 3", 128, 64, 7, 128, 3),
    _conv("seed_cnn layer 4", 128, 128, 3, 256, 3),
    _conv("5×5", 64, 32, 14, 32, 5),
    _conv("1×1", 64, 64, 14, 128, 1),
    _conv("stride 2", 64, 32, 28, 64, 3, stride=2),
    _conv("depthwise", 32, 64, 14, 64, 3, groups=64),
    _conv("31×31 depthwise", 4, 32, 32, 32, 31, groups=32),
    _conv("15×15", 4, 32, 32, 32, 15),
    _conv("one small image", 1, 8, 8, 8, 3),
    _block("seed_cnn layer 1", 128, 1, 28, 32, 3, first=True),
    _block("seed_cnn layer 2", 128, 32, 14, 64, 3),
    _block("seed_cnn layer 3", 128, 64, 7, 128, 3),
    _block("seed_cnn layer 4", 128, 128, 3, 256, 3),
    _block("VGG layer 1", 8, 3, 64, 64, 3, first=True),
    _block("pool 3×3 by 2", 32, 32, 28, 64, 3, pool=ops.Pool("max", 3, 2, 1)),
    _block("pool 3×3 by 1", 32, 32, 14, 64, 3, pool=ops.Pool("max", 3, 1, 1)),
    _block("average", 128, 32, 14, 64, 3, pool=ops.Pool("avg")),
    _tanh_block("LeNet-5 layer 1", 128, 1, 28, 6, 5, first=True, pool=ops.Pool("avg")),
    Situation("max_pool2d", "seed_cnn layer 1", ((128, 32, 28, 28),), {"kernel_size": 2}),
    Situation(
        "max_pool2d",
        "ResNet",
        ((16, 64, 56, 56),),
        {"kernel_size": 3, "stride": 2, "padding": 1},
    ),
    Situation("avg_pool2d", "2×2", ((128, 32, 28, 28),), {"kernel_size": 2}),
    Situation("adaptive_avg_pool2d", "to one", ((64, 512, 7, 7),), {"output_size": 1}),
    Situation(
        "batch_norm",
        "training",
        ((64, 64, 14, 14), (64,), (64,)),
        {"running_mean": None, "running_var": None, "training": True},
    ),
    Situation(
        "batch_norm_act",
        "training",
        ((64, 64, 14, 14), (64,), (64,)),
        {"running_mean": None, "running_var": None, "training": True},
    ),
    Situation("dropout", "", ((128, 32, 28, 28),), {"p": 0.5}),
    Situation("linear", "", ((128, 256), (10, 256), (10,)), {}),
    Situation("linear", "large", ((256, 1024), (1024, 1024), (1024,)), {}),
    Situation(
        "linear_act",
        "LeNet-5",
        ((128, 400), (120, 400), (120,), (84, 120), (84,), (10, 84), (10,)),
        {"activations": ("tanh", "tanh", "none")},
    ),
    Situation("cross_entropy", "", ((128, 10),), {"target": torch.arange(128) % 10}),
    Situation("cross_entropy", "1000 classes", ((256, 1000),), {"target": torch.arange(256)}),
    Situation("focal_loss", "", ((128, 10),), {"target": torch.arange(128) % 10}),
    Situation("mse_loss", "", ((128, 10), (128, 10)), {}),
    Situation("huber_loss", "", ((128, 10), (128, 10)), {}),
    Situation("binary_cross_entropy_with_logits", "", ((128, 40), (128, 40)), {}),
)
SITUATIONS: tuple[Situation, ...] = (
    *_LISTED,
    *[
        Situation(op, "", ((128, 32, 28, 28),), {})
        for op in ops.op_names()
        if ops.is_activation(op) and op not in {situation.op for situation in _LISTED}
    ],
)


def bench_op(
    situation: Situation,
    algorithms: Sequence[str],
    *,
    device: torch.device,
    rounds: int = 15,
    with_compile: bool = True,
) -> list[Measured]:
    """Time forward, backward and both for one call, with torch and with each of ``algorithms``.

    Our algorithms get channels_last tensors. The ratios are those of the times of forward and backward
    together.
    """
    with repeatable_backward():
        return _bench(situation, algorithms, device, rounds, with_compile)


def _bench(
    situation: Situation,
    algorithms: Sequence[str],
    device: torch.device,
    rounds: int,
    with_compile: bool,
) -> list[Measured]:
    op, about, shapes, arguments, _ = situation
    what = " ".join(filter(None, (op, about)))
    torch.manual_seed(0)
    tensors = [torch.randn(shape, device=device) for shape in shapes]
    arguments = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in arguments.items()}
    last = [_last(t) for t in tensors]
    ways: dict[str, _Call] = {
        "torch NCHW": _Call(TWINS[op], tensors, arguments, situation.first),
        "torch channels_last": _Call(TWINS[op], last, arguments, situation.first),
    }
    missing = []
    if with_compile:
        torch.compiler.reset()
        compiled = _Call(torch.compile(TWINS[op]), last, arguments, situation.first)
        try:
            compiled.full()
            ways["torch.compile"] = compiled
        except Exception as error:  # for example without a compiler on this machine
            missing.append(not_measured(what, "torch.compile", error))
    for name in algorithms:
        ours = called(op, name)
        ways[f"cnnexp {name}"] = _Call(ours, last, arguments, situation.first)
    parts: dict[str, dict[str, list[float]]] = {}
    for part in ("forward", "backward", "full"):
        functions = {name: getattr(each, part) for name, each in ways.items()}
        parts[part] = interleaved_times(functions, device, rounds=rounds)
    rows = []
    for name, each in ways.items():
        full, low, high = spread(parts["full"][name])
        medians = {part: spread(times[name])[0] for part, times in parts.items()}
        ratios = {
            other: full / spread(parts["full"][other])[0]
            for other in ways
            if other.startswith("torch")
        }
        others = [f"cnnexp {a}" for a in algorithms if a != ops.AUTO]
        if name == "cnnexp auto" and others:
            best = min(spread(parts["full"][other])[0] for other in others)
            ratios["best algorithm"] = full / best
        saved = saved_bytes(each.forward, each.tensors[1:]) / 1e6
        rows.append(Measured(what, name, medians, low, high, rounds, saved, ratios))
    return rows + missing


class _Call:
    """Forward, backward and both of one function on its own copies of the tensors."""

    def __init__(
        self,
        function: Callable[..., Tensor],
        tensors: Sequence[Tensor],
        arguments: dict[str, Any],
        first: bool,
    ) -> None:
        self.tensors = [t.detach().clone(memory_format=torch.preserve_format) for t in tensors]
        for index, tensor in enumerate(self.tensors):
            tensor.requires_grad_(index > 0 or not first)
        self.inputs = [t for t in self.tensors if t.requires_grad]
        self.function, self.arguments = function, arguments
        self._output: Tensor | None = None

    def forward(self) -> Tensor:
        return self.function(*self.tensors, **self.arguments)

    @cached_property
    def _ones(self) -> Tensor:
        return torch.ones_like(self.forward())

    def backward(self) -> None:
        if self._output is None:
            self._output = self.forward()
        torch.autograd.grad(self._output, self.inputs, self._ones, retain_graph=True)

    def full(self) -> None:
        self._output = None  # frees the graph that the backward's measurement keeps
        torch.autograd.grad(self.forward(), self.inputs, self._ones)


def _last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
