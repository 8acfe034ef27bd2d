"""Every algorithm of every op against its twin in torch.nn.functional: values, gradients, refusals."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from cnnexp import ops
from cnnexp.proofs import CASES, SMOOTH_CASES, TWINS, Battery, Report, called, run_battery
from cnnexp.proofs.agreement import check_against_twin

EVERY = [(op, name) for op in ops.op_names() for name in ops.algorithm_names(op)]
every_algorithm = pytest.mark.parametrize(("op", "algorithm"), EVERY)
# torch's own, of its twin and of native
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def test_every_op_has_random_cases_and_a_twin() -> None:
    assert set(CASES) == set(SMOOTH_CASES) == set(TWINS) == set(ops.op_names())


@every_algorithm
def test_agrees_with_torch_or_refuses_with_the_same_exception(op: str, algorithm: str) -> None:
    """The full battery, ``python -m cnnexp.gradcheck``, looks at ten times as many."""
    report, draw = Report(op), random.Random(f"{op} cases")
    while report.cases < 200:
        check_against_twin(report, called(op, algorithm), called(op, None), CASES[op](draw))
    assert report, str(report)
    if op != "leaky_relu" and CASES[op] is not CASES["relu"]:  # these take everything
        assert report.refused > 10


@every_algorithm
def test_low_precision_error_is_at_most_twice_that_of_torch(op: str, algorithm: str) -> None:
    exact, *rows = run_battery(Battery(1, 1, 60), [op], [algorithm], seed=3)
    assert exact.dtype == "float64"
    assert {row.dtype for row in rows} == {"float32", "bfloat16", "float16"}
    for row in rows:
        assert row.report.cases == 60
        assert row.report, f"{row.dtype}: {row.report}"


def test_avg_pool2d_of_a_large_window_does_not_overflow_in_half_precision() -> None:
    image = torch.full((1, 1, 28, 28), 100.0, dtype=torch.float16, requires_grad=True)
    for algorithm in ops.algorithm_names("avg_pool2d"):
        pooled = ops.avg_pool2d(image, 28, algorithm=algorithm)
        assert pooled.item() == 100.0
        (grad,) = torch.autograd.grad(pooled.sum(), image)
        torch.testing.assert_close(grad, torch.full_like(grad, 1 / 784))


@every_algorithm
def test_complex_input(op: str, algorithm: str) -> None:
    """Only torch's own knows their rules; ours refuse instead of computing without conjugates."""
    record = ops.get_algorithm(op, algorithm)
    if not record.dtypes:
        pytest.skip("takes what torch takes")
    with pytest.raises(ops.UnsupportedInputError, match=r"does not run on dtype torch\.complex128"):
        record(torch.ones(1, 1, 4, 4, dtype=torch.complex128))


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


@pytest.mark.parametrize("op", ["conv_relu_pool", "conv_tanh_pool"])
@pytest.mark.parametrize("algorithm", ops.algorithm_names("conv_relu_pool"))
def test_blocks_refuse_a_divisor_of_zero(op: str, algorithm: str) -> None:
    if algorithm not in ops.algorithm_names(op):
        pytest.skip(f"{op} has no {algorithm}")
    pool = ops.Pool("avg", 2, divisor_override=0)
    arguments = torch.zeros(1, 1, 6, 6), torch.zeros(2, 1, 3, 3)
    with pytest.raises(RuntimeError, match="divisor must be not zero"):
        getattr(ops, op)(*arguments, pool=pool, algorithm=algorithm)


@pytest.mark.parametrize(
    ("op", "algorithm"),
    [(op, name) for op in ("max_pool2d", "avg_pool2d") for name in ops.algorithm_names(op)],
)
def test_pooling_refuses_more_padding_than_half_the_window(op: str, algorithm: str) -> None:
    with pytest.raises(RuntimeError, match=r"at most half of"):
        getattr(ops, op)(torch.zeros(1, 1, 4, 4), 2, padding=2, algorithm=algorithm)
