"""Images of any size: one graph for many, export with open sizes, no loops that grow with the image."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from cnnexp import ops
from cnnexp.geometry.windows import WindowGeometry
from cnnexp.kernels.cpu import tables
from cnnexp.ops.conv2d import fft
from cnnexp.proofs import called
from cnnexp.tuning import auto
from tests.ops.calls import CALLS, activations

# The oracles go from window to window: a graph of theirs is of one size.
OF_ONE_SIZE = ("reference",)
# torch before 2.13 asks whether the last window of its own pooling ends at the edge: a graph for yes and one
# for no; and it exports no pooling of an open height.
TORCH_ASKS_POOLING = TorchVersion(torch.__version__) < "2.13"
POOLINGS = ("avg_pool2d", "conv_relu_pool", "max_pool2d")
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

OF_CLASSES = ("cross_entropy", "focal_loss")  # logits, and a class for each
COMPARING = (
    "binary_cross_entropy_with_logits",
    "huber_loss",
    "mse_loss",
)  # with targets of their shape


class Situation(NamedTuple):
    """A call on images (n, channels, h, 10), or rows (n, h, 10), with parameters of fixed shapes."""

    op: str
    channels: int = 0
    shapes: tuple[tuple[int, ...], ...] = ()
    options: dict[str, Any] = {}  # noqa: RUF012

    @property
    def pools(self) -> bool:
        return self.op in POOLINGS or "pool" in self.options

    def image(self, n: int, h: int) -> Tensor:
        shape = (n, self.channels, h, 10) if self.channels else (n, h, 10)
        if self.op in OF_CLASSES:
            shape = (n, 5, h)
        return torch.randn(shape, generator=torch.Generator().manual_seed(n))  # without ties

    def module(self, algorithm: str | None) -> nn.Module:
        """A module of one layer, so that parameters are what the compiler takes for such."""
        function, op, options = called(self.op, algorithm), self.op, self.options

        class OneLayer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.own = nn.ParameterList([nn.Parameter(torch.randn(s)) for s in shapes])

            def forward(self, image: Tensor) -> Tensor:
                if op in COMPARING:
                    return function(image, torch.full_like(image, 0.25), **options)
                if op in OF_CLASSES:
                    target = torch.zeros_like(image[:, 0], dtype=torch.int64)
                    return function(image, target=target, **options)
                if op == "dropout":  # without the seed, which no compiler traces
                    arguments: Any = {} if algorithm is None else {"algorithm": algorithm}
                    source = nn.functional if algorithm is None else ops
                    return source.dropout(image, 0.5, **arguments)
                # torch 2.11 does not trace a star before a ParameterList
                return function(image, *[self.own[i] for i in range(len(shapes))], **options)

        shapes = self.shapes
        return OneLayer()


SITUATIONS = {
    "adaptive_avg_pool2d": Situation("adaptive_avg_pool2d", 2, (), {"output_size": (3, 2)}),
    "avg_pool2d": Situation(
        "avg_pool2d",
        2,
        (),
        {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False},
    ),
    "batch_norm": Situation(
        "batch_norm",
        2,
        ((2,), (2,)),
        {"running_mean": None, "running_var": None, "training": True},
    ),
    "batch_norm_act": Situation(
        "batch_norm_act",
        2,
        ((2,), (2,)),
        {"running_mean": None, "running_var": None, "training": True, "activation": "silu"},
    ),
    "conv2d": Situation(
        "conv2d", 4, ((6, 2, 3, 2), (6,)), {"stride": 2, "padding": 1, "groups": 2}
    ),
    "conv2d depthwise": Situation(
        "conv2d", 2, ((2, 1, 3, 2), (2,)), {"stride": 2, "padding": 1, "groups": 2}
    ),
    "conv2d same": Situation("conv2d", 2, ((3, 2, 2, 3), (3,)), {"padding": "same"}),
    "conv_relu_pool": Situation("conv_relu_pool", 2, ((3, 2, 3, 3), (3,)), {"padding": 1}),
    "conv_relu_pool average": Situation(
        "conv_relu_pool", 2, ((3, 2, 3, 3), (3,)), {"padding": 1, "pool": ops.Pool("avg")}
    ),
    "conv2d narrow": Situation("conv2d", 2, ((3, 2, 3, 2), (3,)), {"padding": 1}),
    "conv_tanh_pool": Situation("conv_tanh_pool", 2, ((3, 2, 3, 3), (3,)), {"padding": 1}),
    "conv_tanh_pool average": Situation(
        "conv_tanh_pool", 2, ((3, 2, 3, 3), (3,)), {"padding": 1, "pool": ops.Pool("avg")}
    ),
    **{op: Situation(op) for op in (*OF_CLASSES, *COMPARING)},
    "linear": Situation("linear", 0, ((4, 10), (4,))),
    "linear_act": Situation("linear_act", 0, ((4, 10), (4,))),
    "max_pool2d": Situation("max_pool2d", 2, (), {"kernel_size": 3, "stride": 2, "padding": 1}),
}
SITUATIONS |= {op: Situation(op, 2) for op in activations(*SITUATIONS)}
every_situation = pytest.mark.parametrize(
    ("situation", "algorithm"),
    [
        pytest.param(s, algorithm, id=f"{name}-{algorithm}")
        for name, s in SITUATIONS.items()
        for algorithm in ops.algorithm_names(s.op)
        if algorithm not in ("native", *OF_ONE_SIZE)
    ],
)


def test_every_op_has_a_situation() -> None:
    assert {s.op for s in SITUATIONS.values()} == set(ops.op_names())


def _graphs(module: nn.Module, situation: Situation, sizes: list[tuple[int, int]]) -> int:
    """How many graphs ``torch.compile(dynamic=True)`` makes; results are compared."""
    made: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        made.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(module, dynamic=True, fullgraph=True, backend=backend)
    for n, h in sizes:
        results = []
        for function in (compiled, module):
            image = situation.image(n, h).requires_grad_()
            output = function(image)
            (grad,) = torch.autograd.grad(output.square().sum(), image)
            results.append((output.detach(), grad))
        if situation.op != "dropout":
            torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)
    return len(made)


@every_situation
def test_one_graph_serves_all_sizes(situation: Situation, algorithm: str) -> None:
    """The first sizes are none that a parameter has, too: torch would take them for the same."""
    by_torch = situation.pools and algorithm in ("direct", "small_indices")
    graphs = 2 if by_torch and TORCH_ASKS_POOLING else 1
    assert _graphs(situation.module(algorithm), situation, [(7, 17), (8, 24), (9, 31)]) == graphs


@every_situation
def test_exports_with_open_batch_and_height(situation: Situation, algorithm: str) -> None:
    sizes = {0: torch.export.Dim("n", min=2, max=64), 1: torch.export.Dim("h", min=6, max=999)}
    if situation.channels or situation.op in OF_CLASSES:
        sizes[2] = sizes.pop(1)
    module, example = situation.module(algorithm), (situation.image(3, 9),)
    if situation.pools and TORCH_ASKS_POOLING:
        for each in (module, situation.module(None)):  # as torch's own
            with pytest.raises(RuntimeError, match="Constraints violated"):
                torch.export.export(each, example, dynamic_shapes={"image": sizes})
        return
    exported = torch.export.export(module, example, dynamic_shapes={"image": sizes}).module()
    image = situation.image(5, 14)
    if situation.op == "dropout":
        assert exported(image).shape == image.shape
    else:
        torch.testing.assert_close(exported(image), module(image), rtol=1e-4, atol=1e-5)


def _blind_by_definition(g: WindowGeometry) -> bool:
    return any(
        all(
            not 0 <= i * g.stride[axis] + u * g.dilation[axis] - g.padding[axis] < size
            for u in range(g.kernel_size[axis])
        )
        for axis, size in enumerate(g.input_size)
        for i in range(g.output_size[axis])
    )


def test_blind_windows_are_found_without_looking_at_each() -> None:
    found = set()
    for size in range(1, 6):
        for kernel in range(1, 6):
            for padding in range(kernel // 2 + 1):
                for stride in range(1, 4):
                    for dilation in range(1, 5):
                        for ceil_mode in (False, True):
                            try:
                                g = WindowGeometry(
                                    (size, 9),
                                    (kernel, 1),
                                    (stride, 1),
                                    (padding, 0),
                                    (dilation, 1),
                                    ceil_mode,
                                )
                            except RuntimeError:
                                continue
                            assert g.blind_windows() == _blind_by_definition(g), g
                            found.add(g.blind_windows())
    assert found == {True, False}


def test_a_transform_has_the_next_size_without_a_large_prime_factor() -> None:
    def smooth(size: int) -> bool:
        for prime in (2, 3, 5):
            while size % prime == 0:
                size //= prime
        return size == 1

    for size in range(1, 300):
        assert fft._fast(size) == next(s for s in range(size, 2 * size + 1) if smooth(s))
    assert fft._fast(1_000_001) == 1_012_500


def _lines(function: Callable[[], Any]) -> int:
    """How many lines of Python of this package a call runs."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if "cnnexp" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


@every_situation
def test_the_work_in_python_does_not_grow_with_the_image(
    situation: Situation, algorithm: str
) -> None:
    module = situation.module(algorithm)
    small, large = situation.image(2, 8), situation.image(2, 64)
    for image in (small, large):
        module(image)
    steps = [_lines(lambda image=image: module(image)) for image in (small, large)]
    assert steps[1] <= steps[0]


def test_tables_of_large_images_are_not_kept_without_end() -> None:
    tables.forget()
    for width in range(20, 60):
        tables.pool_windows(WindowGeometry((400, width), (2, 2), (2, 2)))
    assert 0 < tables.kept_bytes() <= tables.MOST_BYTES


def test_choices_are_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "_MOST", 5)
    monkeypatch.setattr(auto, "_choose", lambda *_: ("direct", {}))
    auto.forget()
    for size in range(1, 20):
        ops.relu(torch.zeros(size), algorithm="auto")
        assert len(auto._ready) <= 5
    auto.forget()


@pytest.mark.parametrize("name", CALLS)
def test_vmap_over_auto(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured: each op computes with its default, whatever is mapped over."""
    call = CALLS[name]
    monkeypatch.setattr(auto, "measure", lambda *_: pytest.fail("measured"))
    function = call.function("auto")
    inputs = [t.detach() for t in call.tensors()]
    stacked = [torch.stack([t, 0.9 * t]) for t in inputs]

    def loss(*tensors: Tensor) -> Tensor:
        return function(*tensors).square().sum()

    randomness = "same" if call.op == "dropout" else "error"
    places = tuple(range(len(inputs)))
    for mapped in {(True,) * len(inputs), (True, *[False] * (len(inputs) - 1))}:
        tensors = [s if m else t for s, t, m in zip(stacked, inputs, mapped, strict=True)]
        dims = tuple(0 if m else None for m in mapped)
        gradient = torch.func.grad_and_value(loss, argnums=places)
        if call.op == "dropout":  # the seed of our case is none that vmap knows
            function = lambda x: ops.dropout(x, **call.arguments, algorithm="auto")  # noqa: E731
        grads, values = torch.func.vmap(gradient, in_dims=dims, randomness=randomness)(*tensors)
        assert values.shape == (2,)
        if call.op != "dropout":
            each = [
                gradient(*[t[i] if m else t for t, m in zip(tensors, mapped, strict=True)])
                for i in range(2)
            ]
            for k in places:
                torch.testing.assert_close(grads[k], torch.stack([one[0][k] for one in each]))
            torch.testing.assert_close(values, torch.stack([one[1] for one in each]))


@pytest.mark.parametrize("algorithm", [*ops.algorithm_names("dropout"), "auto"])
@pytest.mark.parametrize("mapped", [True, False])
def test_vmap_of_dropout_draws_as_it_is_told(algorithm: str, mapped: bool) -> None:
    images = torch.ones(3, 200)

    def draw(randomness: str) -> Tensor:
        def one(image: Tensor) -> Tensor:
            whole = image if mapped else torch.ones(200)
            return ops.dropout(whole, 0.5, algorithm=algorithm) + 0 * image

        return torch.func.vmap(one, randomness=randomness)(images)

    same, different = draw("same"), draw("different")
    assert torch.equal(same[0], same[1])
    assert not torch.equal(different[0], different[1])
    assert set(different.unique().tolist()) == {0.0, 2.0}
    with pytest.raises(RuntimeError, match="randomness"):
        draw("error")
