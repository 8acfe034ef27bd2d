"""What every registered algorithm promises: proofs of the gradient, transforms, no side effects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from cnnexp import ops
from cnnexp.ops.conv2d import direct, im2col, reference
from cnnexp.ops.conv2d.function import grad_bias, make_conv2d
from cnnexp.ops.conv2d.geometry import conv2d_geometry

NAMES = ops.algorithm_names("conv2d")
OURS = [name for name in NAMES if name != "native"]


def _double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def _distinct(*shape: int) -> Tensor:
    """Spaced values in random order: no ties, which are kinks of the maximum."""
    count = torch.Size(shape).numel()
    return torch.randperm(count).double().reshape(shape).requires_grad_()


Op = tuple[Callable[..., Tensor], tuple[Tensor, ...]]


def _conv2d(algorithm: str) -> Op:
    inputs = (_double(2, 4, 5, 6), _double(4, 2, 3, 2), _double(4))
    return lambda x, w, b: ops.conv2d(
        x, w, b, (2, 1), (1, 2), (1, 2), 2, algorithm=algorithm
    ), inputs


def _conv2d_same(algorithm: str) -> Op:
    inputs = (_double(2, 2, 4, 5), _double(3, 2, 4, 3), _double(3))
    return lambda x, w, b: ops.conv2d(x, w, b, padding="same", algorithm=algorithm), inputs


def _max_pool2d(algorithm: str) -> Op:
    def pool(x: Tensor) -> Tensor:
        return ops.max_pool2d(x, 3, 2, 1, 1, True, algorithm=algorithm)  # pyright: ignore[reportReturnType]

    return pool, (_distinct(2, 2, 5, 6),)


def _max_pool2d_apart(algorithm: str) -> Op:
    def pool(x: Tensor) -> Tensor:
        return ops.max_pool2d(x, 2, algorithm=algorithm)  # pyright: ignore[reportReturnType]

    return pool, (_distinct(2, 2, 5, 6),)


def _avg_pool2d(algorithm: str) -> Op:
    inputs = (_double(2, 2, 5, 6),)
    return lambda x: ops.avg_pool2d(x, (3, 2), 2, 1, True, False, algorithm=algorithm), inputs


def _avg_pool2d_apart(algorithm: str) -> Op:
    return lambda x: ops.avg_pool2d(x, 2, algorithm=algorithm), (_double(2, 2, 5, 6),)


every_op = pytest.mark.parametrize(
    "make",
    [_conv2d, _conv2d_same, _max_pool2d, _max_pool2d_apart, _avg_pool2d, _avg_pool2d_apart],
    ids=lambda make: make.__name__.strip("_"),
)
every_algorithm = pytest.mark.parametrize("algorithm", NAMES)


@every_op
@every_algorithm
def test_gradcheck(make: Callable[[str], Op], algorithm: str) -> None:
    function, inputs = make(algorithm)
    assert gradcheck(
        function,
        inputs,
        check_batched_grad=True,
        check_undefined_grad=True,
        check_grad_dtypes=True,
    )


@every_op
@every_algorithm
def test_gradgradcheck(make: Callable[[str], Op], algorithm: str) -> None:
    function, inputs = make(algorithm)
    assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("wrong", ["input", "weight"])
def test_gradcheck_catches_a_wrong_backward(wrong: str) -> None:
    """The negative control: forget to flip the kernel, or mirror the weight's gradient."""

    def unflipped(grad_output: Tensor, weight: Tensor, geometry: Any) -> Tensor:
        return direct.grad_input(grad_output, weight.flip(2, 3), geometry)

    def mirrored(grad_output: Tensor, input: Tensor, geometry: Any) -> Tensor:
        return direct.grad_weight(grad_output, input, geometry).flip(3)

    conv2d = make_conv2d(
        direct.forward,
        unflipped if wrong == "input" else direct.grad_input,
        mirrored if wrong == "weight" else direct.grad_weight,
    )
    _, inputs = _conv2d("direct")
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        gradcheck(lambda x, w, b: conv2d(x, w, b, 1, 1, 1, 2), inputs)


@every_op
@every_algorithm
def test_compiles_without_a_graph_break(make: Callable[[str], Op], algorithm: str) -> None:
    torch._dynamo.reset()
    function, inputs = make(algorithm)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    found, expected = compiled(*inputs), function(*inputs)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
    )


@every_op
@every_algorithm
def test_vmap_of_grad_equals_batches_of_one(make: Callable[[str], Op], algorithm: str) -> None:
    function, inputs = make(algorithm)
    image, *others = (t.detach() for t in inputs)
    last = len(others)

    def loss(*tensors: Tensor) -> Tensor:
        return function(tensors[0].unsqueeze(0), *tensors[1:]).square().sum()

    grad = torch.func.grad(loss, argnums=last)
    each = torch.func.vmap(grad, in_dims=(0, *[None] * last))(image, *others)
    torch.testing.assert_close(each, torch.stack([grad(one, *others) for one in image]))


@every_op
@every_algorithm
def test_inputs_and_gradients_are_left_alone_and_the_answer_is_the_same_again(
    make: Callable[[str], Op], algorithm: str
) -> None:
    function, inputs = make(algorithm)
    before = [t.detach().clone() for t in inputs]
    grad = torch.randn_like(function(*inputs))
    grad_before = grad.clone()
    first = [function(*inputs), *torch.autograd.grad(function(*inputs), inputs, grad)]
    second = [function(*inputs), *torch.autograd.grad(function(*inputs), inputs, grad)]
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
    for now, then in zip((*inputs, grad), (*before, grad_before), strict=True):
        assert torch.equal(now, then)


@every_op
@every_algorithm
@pytest.mark.parametrize("layout", ["expanded", "channels_last"])
def test_gradients_in_any_layout(make: Callable[[str], Op], algorithm: str, layout: str) -> None:
    function, inputs = make(algorithm)
    output = function(*inputs)
    if layout == "expanded":  # what .sum() sends back
        grad = torch.ones((), dtype=output.dtype).expand(output.shape)
    else:
        grad = torch.randn_like(output).contiguous(memory_format=torch.channels_last)
    expected_function, _ = make("native")
    expected = torch.autograd.grad(expected_function(*inputs), inputs, grad)
    torch.testing.assert_close(torch.autograd.grad(output, inputs, grad), expected)


@every_algorithm
def test_autocast_computes_in_its_dtype_and_brings_gradients_back(algorithm: str) -> None:
    image, weight, bias = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3), torch.randn(4)
    tensors = [t.requires_grad_() for t in (image, weight, bias)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = ops.conv2d(image, weight, bias, padding=1, algorithm=algorithm)
    assert output.dtype == torch.bfloat16
    grads = torch.autograd.grad(output.float().square().sum(), tensors)
    exact = ops.conv2d(image, weight, bias, padding=1)
    expected = torch.autograd.grad(exact.square().sum(), tensors)
    for grad, true in zip(grads, expected, strict=True):
        assert grad.dtype == torch.float32
        torch.testing.assert_close(grad, true, rtol=0.05, atol=0.05 * true.abs().max().item())


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 1), (1, 2)], ids=str)
def test_no_work_and_no_memory_for_gradients_that_nobody_needs(needed: tuple[int, ...]) -> None:
    calls: list[str] = []

    def counted(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*arguments: Any) -> Tensor:
            calls.append(name)
            return function(*arguments)

        return call

    conv2d = make_conv2d(
        direct.forward, counted("0", direct.grad_input), counted("1", direct.grad_weight)
    )
    tensors = [torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3), torch.randn(4)]
    for index in needed:
        tensors[index].requires_grad_()
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        conv2d(*tensors).sum().backward()
    assert calls == [str(index) for index in needed if index < 2]
    kept = {tuple(t.shape) for t in saved}
    assert ((2, 3, 6, 6) in kept) == (1 in needed)
    assert ((4, 3, 3, 3) in kept) == (0 in needed)


@pytest.mark.parametrize("module", [reference, im2col, direct], ids=lambda m: m.__name__[-9:])
@pytest.mark.parametrize("arguments", [(1, 1, 1, 1), (2, 0, 1, 2), (1, 2, 2, 1)], ids=str)
def test_per_sample_gradients_equal_batches_of_one(module: Any, arguments: Any) -> None:
    groups = arguments[3]
    image, weight = torch.randn(3, 4, 6, 5).double(), torch.randn(6, 4 // groups, 3, 2).double()
    geometry = conv2d_geometry(image, weight, None, *arguments)
    grad = torch.randn(3, 6, *geometry.output_size).double()
    each = module.grad_weight(grad, image, geometry, per_sample=True)
    ones = [
        module.grad_weight(grad[n : n + 1], image[n : n + 1], geometry) for n in range(len(image))
    ]
    torch.testing.assert_close(each, torch.stack(ones))
    torch.testing.assert_close(each.sum(0), module.grad_weight(grad, image, geometry))
    torch.testing.assert_close(grad_bias(grad, per_sample=True).sum(0), grad_bias(grad))


@every_op
@every_algorithm
def test_meta_tensors_give_the_shape(make: Callable[[str], Op], algorithm: str) -> None:
    function, inputs = make(algorithm)
    shape = function(*inputs).shape
    assert function(*(t.to("meta") for t in inputs)).shape == shape
