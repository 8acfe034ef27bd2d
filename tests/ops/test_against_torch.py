"""Every algorithm of every op against its twin in torch.nn.functional: values, gradients, refusals."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp import ops
from tests.ops.cases import CASES, Case

EVERY = [(op, name) for op in ops.op_names() for name in ops.algorithm_names(op)]
every_algorithm = pytest.mark.parametrize(("op", "algorithm"), EVERY)
# torch's own, of its twin and of native
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def test_every_op_has_random_cases() -> None:
    assert set(CASES) == set(ops.op_names())


def test_every_op_has_the_same_algorithms() -> None:
    """backward=NAME sets one name for the whole network."""
    assert len({ops.algorithm_names(op) for op in ops.op_names()}) == 1


def _compute(function: Any, case: Case) -> tuple[Any, list[Tensor]]:
    tensors, arguments = case
    inputs = [t.detach().clone(memory_format=torch.preserve_format) for t in tensors]
    inputs = [t.requires_grad_() for t in inputs]
    output = function(*inputs, **arguments)
    values = output[0] if isinstance(output, tuple) else output
    generator = torch.Generator().manual_seed(7)
    grad = torch.randn(values.shape, generator=generator, dtype=values.dtype)
    return output, list(torch.autograd.grad(values, inputs, grad))


@every_algorithm
def test_agrees_with_torch_or_refuses_with_the_same_exception(op: str, algorithm: str) -> None:
    draw = random.Random(f"{op} cases")
    ours, theirs = getattr(ops, op), getattr(F, op)
    computed = refused = 0
    while computed < 200:
        case = CASES[op](draw)
        try:
            expected, expected_grads = _compute(theirs, case)
        except (RuntimeError, TypeError) as error:
            with pytest.raises(type(error)):
                _compute(lambda *t, **a: ours(*t, **a, algorithm=algorithm), case)
            refused += 1
            continue
        found, grads = _compute(lambda *t, **a: ours(*t, **a, algorithm=algorithm), case)
        torch.testing.assert_close(found, expected, equal_nan=True)
        torch.testing.assert_close(grads, expected_grads)
        computed += 1
    assert refused > 10


@every_algorithm
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_error_is_at_most_twice_that_of_torch(
    op: str, algorithm: str, dtype: torch.dtype
) -> None:
    draw = random.Random(3)
    computed = 0
    while computed < 40:
        tensors, arguments = CASES[op](draw, dtype)
        tensors = [t.nan_to_num(0.5, neginf=-2.0) for t in tensors]
        try:
            exact = _flat(_compute(getattr(F, op), ([t.double() for t in tensors], arguments)))
        except (RuntimeError, TypeError):
            continue
        theirs = _flat(_compute(getattr(F, op), (tensors, arguments)))
        ours = _flat(
            _compute(
                lambda *t, **a: getattr(ops, op)(*t, **a, algorithm=algorithm), (tensors, arguments)
            )
        )
        for our, their, true in zip(ours, theirs, exact, strict=True):
            assert our.isfinite().all()
            # torch can be exact by luck in one case: half a unit in the last place is granted
            unit = torch.finfo(dtype).eps * max(
                1.0, true.abs().max().item() if true.numel() else 1.0
            )
            assert _error(our, true) <= 2 * _error(their, true) + unit
        computed += 1


def test_avg_pool2d_of_a_large_window_does_not_overflow_in_half_precision() -> None:
    image = torch.full((1, 1, 28, 28), 100.0, dtype=torch.float16, requires_grad=True)
    for algorithm in ops.algorithm_names("avg_pool2d"):
        pooled = ops.avg_pool2d(image, 28, algorithm=algorithm)
        assert pooled.item() == 100.0
        (grad,) = torch.autograd.grad(pooled.sum(), image)
        torch.testing.assert_close(grad, torch.full_like(grad, 1 / 784))


@every_algorithm
def test_complex_and_integer_input(op: str, algorithm: str) -> None:
    """Only torch's own knows their rules; ours refuse instead of computing without conjugates."""
    shapes = [(1, 1, 4, 4), (1, 1, 2, 2)] if op == "conv2d" else [(1, 1, 4, 4)]
    arguments = {} if op == "conv2d" else {"kernel_size": 2}
    for dtype in (torch.complex128, torch.int64):
        tensors = [torch.ones(shape, dtype=dtype) for shape in shapes]
        if algorithm != "native":
            with pytest.raises(ops.UnsupportedInputError, match=f"does not run on dtype {dtype}"):
                getattr(ops, op)(*tensors, **arguments, algorithm=algorithm)


def _flat(computed: tuple[Any, list[Tensor]]) -> list[Tensor]:
    output, grads = computed
    return [output[0] if isinstance(output, tuple) else output, *grads]


def _error(found: Tensor, true: Tensor) -> float:
    return (found.double() - true).abs().max().item() if true.numel() else 0.0


@pytest.mark.parametrize("algorithm", ops.algorithm_names("conv2d"))
@pytest.mark.parametrize(
    ("shapes", "arguments"),
    [
        (((2, 3, 5, 5), (4, 2, 3, 3)), {}),  # channels do not match
        (((2, 3, 5), (4, 3, 3, 3)), {"groups": 2}),
        (((5, 5), (4, 3, 3, 3)), {}),
        (((2, 3, 5, 5), (4, 3, 3)), {}),
        (((2, 3, 5, 5), (4, 3, 7, 7)), {}),  # the kernel is larger than the image
        (((2, 3, 5, 5), (4, 3, 3, 3)), {"padding": "full"}),
        (((2, 3, 5, 5), (4, 3, 3, 3)), {"padding": "same", "stride": 2}),
        (((2, 3, 5, 5), (4, 3, 3, 3)), {"padding": -1}),
        (((2, 3, 5, 5), (4, 3, 3, 3)), {"stride": 0}),
        (((2, 3, 5, 5), (4, 3, 3, 3)), {"stride": (1, 1, 1)}),
        (((2, 3, 5, 5), (4, 3, 3, 3)), {"stride": "two"}),
        (((2, 3, 5, 5), (4, 3, 3, 3)), {"dilation": 1.5}),
    ],
)
def test_conv2d_refuses_what_torch_refuses(
    algorithm: str, shapes: tuple[Any, Any], arguments: dict[str, Any]
) -> None:
    image, weight = (torch.randn(shape) for shape in shapes)
    with pytest.raises((RuntimeError, TypeError, ValueError)) as theirs:
        F.conv2d(image, weight, **arguments)
    with pytest.raises(theirs.type):
        ops.conv2d(image, weight, **arguments, algorithm=algorithm)


@pytest.mark.parametrize("algorithm", ops.algorithm_names("conv2d"))
def test_conv2d_refuses_mixed_dtypes_and_a_wrong_bias(algorithm: str) -> None:
    image, weight = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3)
    with pytest.raises(RuntimeError, match="type"):
        ops.conv2d(image, weight.double(), algorithm=algorithm)
    with pytest.raises(RuntimeError, match=r"bias|shape"):
        ops.conv2d(image, weight, torch.randn(4), algorithm=algorithm)


@pytest.mark.parametrize(
    "algorithm", [n for n in ops.algorithm_names("max_pool2d") if n != "native"]
)
def test_max_pool2d_refuses_a_window_over_padding_only(algorithm: str) -> None:
    with pytest.raises(RuntimeError, match=r"reads only padding.*lower the padding or dilation"):
        ops.max_pool2d(
            torch.zeros(1, 1, 1, 3), (2, 3), 1, padding=1, dilation=2, algorithm=algorithm
        )


@pytest.mark.parametrize("algorithm", ops.algorithm_names("avg_pool2d"))
def test_avg_pool2d_refuses_a_divisor_of_zero(algorithm: str) -> None:
    with pytest.raises(RuntimeError, match="divisor must be not zero"):
        ops.avg_pool2d(torch.zeros(1, 1, 4, 4), 2, divisor_override=0, algorithm=algorithm)


@pytest.mark.parametrize("op", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize("algorithm", ops.algorithm_names("max_pool2d"))
def test_pooling_refuses_more_padding_than_half_the_window(op: str, algorithm: str) -> None:
    with pytest.raises(RuntimeError, match=r"at most half of"):
        getattr(ops, op)(torch.zeros(1, 1, 4, 4), 2, padding=2, algorithm=algorithm)
