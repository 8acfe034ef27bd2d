"""Linear layers with their activations: the kernels, whose numbers float64 has as its parts."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import numba
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cnnexp import ops
from cnnexp.kernels.cpu import linear_act as kernels
from cnnexp.kernels.cpu.bfloat16 import AVAILABLE
from cnnexp.ops.linear_act import ACTIVATIONS
from tests.ops.counting import count_calls

FORMATS = ["float32", *(["bfloat16", "autocast"] if AVAILABLE else [])]
# rows and widths: whole registers and strips, and not; one number; wider than a panel, longer than a part
SIZES = {
    "three": (128, (400, 120, 84, 10)),
    "odd": (35, (34, 50, 38, 7)),
    "eight rows": (8, (64, 32, 3)),
    "one output": (19, (96, 1)),
    "long sums": (24, (900, 33)),
    "wide": (40, (32, 300, 32)),
}


def _tensors(rows: int, widths: tuple[int, ...], form: str, bias: bool = True) -> list[Any]:
    """X, then w and b of each layer."""
    torch.manual_seed(0)
    made: list[Any] = [torch.randn(rows, widths[0])]
    for before, width in pairwise(widths):
        made += [torch.randn(width, before) / before**0.5, torch.randn(width) if bias else None]
    kinds = [torch.float32 if form == "float32" else torch.bfloat16] * len(made)
    if form == "autocast":
        kinds[1:] = [torch.float32] * (len(made) - 1)
    return [
        None if t is None else t.to(kind).requires_grad_()
        for t, kind in zip(made, kinds, strict=True)
    ]


def _results(
    tensors: list[Any], activations: tuple[str, ...], algorithm: str, form: str = "float32"
) -> list[Tensor]:
    """The output and all gradients."""
    with torch.autocast("cpu", torch.bfloat16, enabled=form == "autocast"):
        y = ops.linear_act(*tensors, activations=activations, algorithm=algorithm)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    wanted = [t for t in tensors if t is not None and t.requires_grad]
    return [y, *torch.autograd.grad(y, wanted, g)]


def _doubles(tensors: list[Any], activations: tuple[str, ...]) -> list[Tensor]:
    own = [None if t is None else t.detach().double().requires_grad_() for t in tensors]
    return _results(own, activations, "native")


def _errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    both = zip(found, exact, strict=True)
    return [((a.double() - b).abs().max() / b.abs().max()).item() for a, b in both]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bias", [True, False])
def test_errors_are_at_most_twice_those_of_torch(size: str, form: str, bias: bool) -> None:
    rows, widths = SIZES[size]
    tensors = _tensors(rows, widths, form, bias)
    activations = ("tanh", "tanh", "none")[-len(widths) + 1 :]
    # autocast rounds the weights, which is no error of the kernels
    given = [t if t is None or form == "float32" else t.bfloat16() for t in tensors]
    exact = _doubles(given, activations)
    mine, theirs = (
        _errors(_results(tensors, activations, name, form), exact) for name in ("fused", "native")
    )
    slack = 4 * torch.finfo(torch.float32 if form == "float32" else torch.bfloat16).eps
    for own, torchs in zip(mine, theirs, strict=True):
        assert own <= 2 * torchs + slack, (mine, theirs)


@pytest.mark.parametrize(
    "names", [("relu",), ("tanh",), ("none",), ("relu", "tanh", "relu")], ids=str
)
def test_every_activation_by_the_kernels(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("forward", "backward"):
        count_calls(monkeypatch, kernels, name, calls)
    tensors = _tensors(33, (48, 32, 32, 5)[: len(names) + 1], "float32")
    errors = _errors(_results(tensors, names, "fused"), _doubles(tensors, names))
    assert calls == ["forward", "backward"]
    assert max(errors) < 3e-6


@pytest.mark.parametrize(
    "frozen", [(0,), (1, 2), (0, 1, 2), (0, 1, 2, 3), (0, 3, 5), (2, 4, 6), (0, 6)], ids=str
)
def test_no_work_for_gradients_that_nobody_needs(frozen: tuple[int, ...]) -> None:
    tensors, activations = _tensors(24, (32, 32, 32, 5), "float32"), ("tanh", "relu", "none")
    exact = dict(zip(range(-1, 7), _doubles(tensors, activations), strict=True))
    for place in frozen:
        tensors[place].requires_grad_(False)
    found = _results(tensors, activations, "fused")
    left = [-1, *[place for place in range(7) if place not in frozen]]
    assert max(_errors(found, [exact[place] for place in left])) < 3e-6


@pytest.mark.parametrize("form", FORMATS)
def test_bits_do_not_depend_on_the_number_of_threads(form: str) -> None:
    most, results = numba.get_num_threads(), []
    for threads in sorted({1, most}):
        numba.set_num_threads(threads)
        results.append(
            _results(_tensors(131, (90, 70, 50, 10), form), ("relu", "tanh", "none"), "fused", form)
        )
    for found in results[1:]:
        assert all(map(torch.equal, found, results[0]))


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_no_number_stays_in_its_row(form: str) -> None:
    tensors, activations = _tensors(19, (34, 38, 7), form), ("tanh", "none")
    with torch.no_grad():
        tensors[0][4, 3], tensors[0][18, 33] = torch.nan, torch.inf
    y, of_x, *_ = _results(tensors, activations, "fused", form)
    others = [n for n in range(19) if n not in (4, 18)]
    assert y[4].isnan().all()
    assert y[18].isfinite().all()  # tanh(∞) = 1
    assert y[others].isfinite().all()
    assert of_x[others].isfinite().all()
    with torch.no_grad():
        tensors[0].nan_to_num_(0, 0, 0)
        tensors[3][6] = torch.nan
    y, _, of_w, _, of_last, *_ = _results(tensors, activations, "fused", form)
    assert y[:, :6].isfinite().all()
    assert y[:, 6].isnan().all()
    assert of_w.isnan().all()
    assert of_last.isfinite().all()


def test_second_derivatives_and_batched_gradients() -> None:
    tensors, results = _tensors(16, (32, 32, 4), "float32"), []
    leaves = [t for t in tensors if t is not None]
    for algorithm in ("fused", "native"):
        y = ops.linear_act(*tensors, activations=("tanh", "none"), algorithm=algorithm)
        grads = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        several = torch.eye(4).unsqueeze(1).expand(4, 16, 4)
        batched = torch.autograd.grad(y, leaves, several, is_grads_batched=True, retain_graph=True)
        again = torch.autograd.grad(torch.stack([g.square().sum() for g in grads]).sum(), leaves)
        results.append([*grads, *again, *batched])
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)


def test_transforms_and_compiler_take_the_parts() -> None:
    x, w, b = _tensors(16, (32, 8), "float32")

    def loss(weight: Tensor, image: Tensor) -> Tensor:
        return ops.linear_act(image, weight, b).square().sum()

    expected = torch.autograd.grad(F.relu(F.linear(x, w, b)).square().sum(), w)[0]
    torch.testing.assert_close(torch.func.grad(loss)(w, x), expected)
    mapped = torch.vmap(torch.func.grad(loss), (None, 0))(w, x.view(2, 8, 32))
    torch.testing.assert_close(mapped.sum(0), expected)
    tangent: Any = torch.func.jvp(lambda each: loss(each, x), (w,), (torch.ones_like(w),))[1]
    torch.testing.assert_close(tangent, expected.sum())
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(w, x), w)[0], expected)
    y = ops.linear_act(x, w, b)
    given = torch.randn(3, *y.shape)

    def of_image(grad: Tensor) -> Tensor:
        return torch.autograd.grad(y, x, grad, retain_graph=True)[0]

    mapped = torch.vmap(of_image)(given)
    torch.testing.assert_close(mapped, torch.stack([of_image(each) for each in given]))
    again = checkpoint(loss, w, x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(again, w)[0], expected)


@pytest.mark.parametrize("shape", [(2, 5, 40), (40,), (3, 40), (16, 40)], ids=str)
def test_any_leading_dimensions_and_layouts(shape: tuple[int, ...]) -> None:
    weight, b = _tensors(8, (40, 9), "float32")[1:]
    turned = torch.randn(shape[::-1]).mT if len(shape) == 2 else torch.randn(shape)
    for x in (torch.randn(shape), torch.randn(*shape, 2)[..., 0], turned):
        results = []
        for way in ("fused", "native"):
            image = x.clone(memory_format=torch.preserve_format).requires_grad_()
            w = weight.detach().t().contiguous().t().requires_grad_()  # which lies column by column
            y = ops.linear_act(image, w, b, algorithm=way)
            results.append([y, *torch.autograd.grad(y.square().sum(), (image, w, b))])
        torch.testing.assert_close(*results)


def test_what_is_kept_are_the_input_and_each_output_once() -> None:
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    tensors = _tensors(64, (96, 64, 32, 10), "float32")
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        y = ops.linear_act(*tensors, activations=("tanh", "relu", "none"))
    for parameter in tensors[1:]:
        kept.pop(parameter.data_ptr(), None)
    assert sum(kept.values()) == 4 * 64 * (96 + 64 + 32)  # no activation behind the last
    y.mul_(2).sum().backward()


def test_a_single_layer_keeps_what_the_needed_gradients_read() -> None:
    x, w, b = _tensors(16, (32, 8), "float32")
    for changed, frozen in ((b, ()), (w, (x,)), (x, (w,)), (w, (x, b))):
        leaves = [t.detach().clone().requires_grad_() for t in (x, w, b)]
        for each in frozen:
            leaves[_place(each, (x, w, b))].requires_grad_(False)
        wanted = [t for t in leaves if t.requires_grad]
        expected = torch.autograd.grad(F.linear(*leaves).sum(), wanted)
        y = ops.linear(*leaves, algorithm="fused")
        with torch.no_grad():
            leaves[_place(changed, (x, w, b))].mul_(3)
        torch.testing.assert_close(torch.autograd.grad(y.mul_(1).sum(), wanted), expected)


def _place(one: Tensor, among: tuple[Tensor, ...]) -> int:
    return next(place for place, each in enumerate(among) if each is one)


def test_the_gradient_of_a_bias_is_as_good_for_many_rows() -> None:
    rows = 1 << 18
    b = torch.zeros(3, requires_grad=True)
    y = ops.linear(torch.zeros(rows, 16), torch.zeros(3, 16), b, algorithm="fused")
    y.backward(torch.full((rows, 3), 0.1))
    assert b.grad is not None
    torch.testing.assert_close(b.grad, torch.full((3,), 0.1 * rows), rtol=1e-6, atol=0)


def test_a_changed_weight_is_noticed() -> None:
    x, w, b = _tensors(16, (32, 8), "float32")
    y = ops.linear_act(x, w, b)
    with torch.no_grad():
        w.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("algorithm", ops.algorithm_names("linear_act"))
def test_wrong_arguments(algorithm: str) -> None:
    x, w = torch.randn(8, 32), torch.randn(32, 32)

    def call(*tensors: Any, **options: Any) -> Tensor:
        return ops.linear_act(*tensors, algorithm=algorithm, **options)

    with pytest.raises(
        ValueError,
        match=r"an activation for each of its 2 weights, but got .'relu',.*tuple of names",
    ):
        call(x, w, None, w)
    with pytest.raises(ValueError, match="an activation for each of its 1 weights, but got 'relu'"):
        call(x, w, activations="relu")
    with pytest.raises(
        ValueError, match="unknown activation 'gelu' of linear_act; known: none, relu, tanh"
    ):
        call(x, w, activations=("gelu",))
    with pytest.raises(
        ValueError, match=r"takes its layers in order: .*give no bias without its weight"
    ):
        call(x, w, None, None, w[0], activations=("relu",))
    with pytest.raises(ValueError, match="takes its layers in order"):
        call(x, w, None, None, None, w, activations=("relu", "none"))
    with pytest.raises(RuntimeError, match=r"shape|size|needs input"):
        call(x, torch.randn(4, 31))
    with pytest.raises(RuntimeError, match=r"dtype|type"):
        call(x, w.double())


def test_every_activation_has_a_kernel_and_a_part() -> None:
    tensors = _tensors(8, (32, 8), "float32")
    for name in ACTIVATIONS:
        assert ops.get_algorithm("linear_act", "fused").has_a_way(*tensors, activations=(name,))
    linear = nn.Linear(32, 8)
    assert torch.equal(
        ops.linear_act(
            tensors[0], linear.weight, linear.bias, activations=("relu",), algorithm="native"
        ),
        F.relu(copy.deepcopy(linear)(tensors[0])),
    )
