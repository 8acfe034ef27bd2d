"""What every registered algorithm of every op promises: proofs of the gradient, transforms, layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp import ops
from cnnexp.geometry.convolution import conv2d_geometry
from cnnexp.ops.conv2d import direct
from cnnexp.ops.conv2d.function import grad_bias, make_conv2d
from cnnexp.ops.linear import grad_bias as linear_grad_bias
from cnnexp.ops.linear import grad_weight as linear_grad_weight
from cnnexp.proofs import check
from tests.ops.calls import CALLS, LOSSES, OF_KERNELS, Call

# torch's own, of its twin and of native
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
every_call = pytest.mark.parametrize(
    ("call", "algorithm"),
    [
        pytest.param(call, algorithm, id=f"{name}-{algorithm}")
        for name, call in CALLS.items()
        for algorithm in ops.algorithm_names(call.op)
        if not (algorithm == "reference" and name in OF_KERNELS)
    ],
)


def test_every_op_has_a_call() -> None:
    assert {call.op for call in CALLS.values()} == set(ops.op_names())


@every_call
def test_first_and_second_derivative_purity_and_the_same_answer_again(
    call: Call, algorithm: str
) -> None:
    function, twin = call.function(algorithm), call.function(None)
    report = check(function, [call.tensors()], twin=twin, strict=True)
    assert report, str(report)


@pytest.mark.parametrize("wrong", ["input", "weight"])
def test_the_check_catches_a_wrong_backward(wrong: str) -> None:
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
    report = check(lambda x, w, b: conv2d(x, w, b, 1, 1, 1, 2), [CALLS["conv2d"].tensors()])
    assert not report
    assert (
        f"first derivative: ∂L/∂{wrong[0]} is mirrored along axis" in report.failures[0]
        if wrong == "weight"
        else "first derivative: ∂L/∂x is wrong" in report.failures[0]
    )


@every_call
def test_compiles_without_a_graph_break(call: Call, algorithm: str) -> None:
    if call.op == "dropout":
        pytest.skip("our case seeds the generator around the call, which dynamo does not trace")
    torch._dynamo.reset()
    function, inputs = call.function(algorithm), call.tensors()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    found, expected = compiled(*inputs), function(*inputs)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
    )


@every_call
def test_vmap_of_grad_equals_batches_of_one(call: Call, algorithm: str) -> None:
    if call.op in ("batch_norm", "batch_norm_act", "dropout") or call.op in LOSSES:
        pytest.skip("its result for one image depends on the batch, the draw or the target")
    function, inputs = call.function(algorithm), call.tensors()
    image, *others = (t.detach() for t in inputs)
    last = len(others)

    def loss(*tensors: Tensor) -> Tensor:
        return function(tensors[0].unsqueeze(0), *tensors[1:]).square().sum()

    grad = torch.func.grad(loss, argnums=last)
    each = torch.func.vmap(grad, in_dims=(0, *[None] * last))(image, *others)
    torch.testing.assert_close(each, torch.stack([grad(one, *others) for one in image]))


@every_call
def test_forward_mode_gives_the_tangent_of_the_twin(call: Call, algorithm: str) -> None:
    inputs = tuple(t.detach() for t in call.tensors())
    tangents = tuple(torch.randn_like(t) for t in inputs)
    found = torch.func.jvp(call.function(algorithm), inputs, tangents)
    # without any forward mode: the derivative of the gradient, which is linear in what it is of
    function = call.function(None)
    weights = torch.zeros_like(found[1], requires_grad=True)
    gradients = torch.autograd.grad(
        function(*(leaves := [t.clone().requires_grad_() for t in inputs])),
        leaves,
        weights,
        create_graph=True,
    )
    projected = sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True))
    assert isinstance(projected, Tensor)
    (expected,) = torch.autograd.grad(projected, weights)
    torch.testing.assert_close(found[1], expected)


@every_call
def test_hessian_is_that_of_the_twin(call: Call, algorithm: str) -> None:
    if call.op == "dropout":
        pytest.skip("a linear op that draws: vmap asks for a decision")
    image, *others = (t.detach() for t in call.tensors())

    def hessian(name: str | None) -> Tensor:
        function = call.function(name)
        return torch.func.hessian(lambda x: function(x, *others).sin().sum())(image)

    torch.testing.assert_close(hessian(algorithm), hessian(None))


@every_call
@pytest.mark.parametrize("layout", ["expanded", "channels_last"])
def test_gradients_in_any_layout(call: Call, algorithm: str, layout: str) -> None:
    function, inputs = call.function(algorithm), call.tensors()
    output = function(*inputs)
    if layout == "expanded":  # what .sum() sends back
        grad = torch.ones((), dtype=torch.float64).expand_as(output)
    elif output.dim() == 4:
        grad = torch.randn_like(output).contiguous(memory_format=torch.channels_last)
    else:
        pytest.skip("no image")
    expected = torch.autograd.grad(function(*inputs), inputs, grad.contiguous())
    torch.testing.assert_close(torch.autograd.grad(output, inputs, grad), expected)


@every_call
def test_meta_tensors_give_the_shape(call: Call, algorithm: str) -> None:
    if any(isinstance(value, Tensor) for value in call.arguments.values()):
        pytest.skip("its other tensors are on the CPU")
    function, inputs = call.function(algorithm), call.tensors()
    shape = function(*inputs).shape
    assert function(*(t.detach().to("meta") for t in inputs)).shape == shape


@every_call
def test_runs_with_deterministic_algorithms_alone(call: Call, algorithm: str) -> None:
    function, inputs = call.function(algorithm), call.tensors()
    torch.use_deterministic_algorithms(True)
    try:
        torch.autograd.grad(function(*inputs).sum(), inputs)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("call", "algorithm"),
    [
        (CALLS[name], algorithm)
        for name in ("conv2d", "conv_relu_pool", "linear")
        for algorithm in ops.algorithm_names(name)
    ],
)
def test_autocast_computes_in_its_dtype_and_brings_gradients_back(
    call: Call, algorithm: str
) -> None:
    tensors, function = call.tensors(torch.float32), call.function(algorithm)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = function(*tensors)
    assert output.dtype == torch.bfloat16
    grads = torch.autograd.grad(output.float().square().sum(), tensors)
    expected = torch.autograd.grad(function(*tensors).square().sum(), tensors)
    for grad, true in zip(grads, expected, strict=True):
        assert grad.dtype == torch.float32
        torch.testing.assert_close(grad, true, rtol=0.1, atol=0.1 * true.abs().max().item())


@pytest.mark.parametrize("algorithm", ops.algorithm_names("linear"))
def test_autocast_after_another_layer(algorithm: str) -> None:
    """What comes in is of low precision already, the weights are not."""
    image, weight = torch.randn(2, 3, dtype=torch.bfloat16), torch.randn(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ops.linear(image, weight, algorithm=algorithm).dtype == torch.bfloat16


OF_LOW_PRECISION = ("conv2d", "conv_relu_pool", "conv_tanh_pool", "linear", "linear_act")


@pytest.mark.parametrize(
    ("call", "algorithm"),
    [
        pytest.param(call, algorithm, id=f"{name}-{algorithm}")
        for name, call in CALLS.items()
        if call.op not in OF_LOW_PRECISION
        for algorithm in ops.algorithm_names(call.op)
        if algorithm != "native"
    ],
)
def test_autocast_rounds_nothing_within_an_op_that_it_leaves_alone(
    call: Call, algorithm: str
) -> None:
    """As torch's: a mean over 7 is no product with 1/7 in bfloat16, in the backward neither."""
    tensors, function = call.tensors(torch.float32), call.function(algorithm)

    def results(forward: bool, backward: bool) -> list[Tensor]:
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=forward):
            output = function(*tensors)
        with torch.autocast("cpu", torch.bfloat16, enabled=backward):
            grads = torch.autograd.grad(output.square().sum(), tensors)
        return [output, *grads]

    right = results(False, False)
    for forward, backward in ((True, False), (True, True), (False, True)):
        for found, one in zip(results(forward, backward), right, strict=True):
            assert torch.equal(found, one)


def test_the_mean_of_seven_is_that_of_float32_in_autocast() -> None:
    image = torch.rand(2, 3, 7, 7)
    with torch.autocast("cpu", torch.bfloat16):
        for size in (1, 3):
            found = ops.adaptive_avg_pool2d(image, size)
            torch.testing.assert_close(found, F.adaptive_avg_pool2d(image, size))


@pytest.mark.parametrize("algorithm", ops.algorithm_names("cross_entropy"))
def test_autocast_computes_the_loss_in_float32(algorithm: str) -> None:
    logits = torch.randn(4, 3, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ops.cross_entropy(logits, torch.tensor([0, 1, 2, 0]), algorithm=algorithm)
    assert loss.dtype == torch.float32
    assert torch.autograd.grad(loss, logits)[0].dtype == torch.bfloat16


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
        conv2d(*tensors, 1, 0, 1, 1).sum().backward()
    assert calls == [str(index) for index in needed if index < 2]
    kept = {tuple(t.shape) for t in saved}
    assert ((2, 3, 6, 6) in kept) == (1 in needed)
    assert ((4, 3, 3, 3) in kept) == (0 in needed)


@pytest.mark.parametrize("arguments", [(1, 1, 1, 1), (2, 0, 1, 2), (1, 2, 2, 1)], ids=str)
def test_per_sample_gradients_equal_batches_of_one(arguments: Any) -> None:
    groups = arguments[3]
    image, weight = torch.randn(3, 4, 6, 5).double(), torch.randn(6, 4 // groups, 3, 2).double()
    geometry = conv2d_geometry(image, weight, None, *arguments)
    grad = torch.randn(3, 6, *geometry.output_size).double()
    each = direct.grad_weight(grad, image, geometry, per_sample=True)
    ones = [
        direct.grad_weight(grad[n : n + 1], image[n : n + 1], geometry) for n in range(len(image))
    ]
    torch.testing.assert_close(each, torch.stack(ones))
    torch.testing.assert_close(each.sum(0), direct.grad_weight(grad, image, geometry))
    torch.testing.assert_close(grad_bias(grad, per_sample=True).sum(0), grad_bias(grad))


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 4), (3, 2, 2, 4)], ids=str)
def test_per_sample_gradients_of_linear_equal_batches_of_one(shape: tuple[int, ...]) -> None:
    input, grad = torch.randn(shape).double(), torch.randn(*shape[:-1], 5).double()
    each = linear_grad_weight(grad, input, per_sample=True)
    ones = [linear_grad_weight(grad[n : n + 1], input[n : n + 1]) for n in range(3)]
    torch.testing.assert_close(each, torch.stack(ones))
    torch.testing.assert_close(each.sum(0), linear_grad_weight(grad, input))
    each = linear_grad_bias(grad, per_sample=True)
    assert each.shape == (3, 5)
    torch.testing.assert_close(each.sum(0), linear_grad_bias(grad))
