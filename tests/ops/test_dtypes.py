"""Dtypes: what torch takes is taken, with a result of its dtype; what it refuses is refused in words."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp import ops
from cnnexp.proofs import called
from tests.ops.calls import activations

INTEGERS = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
OURS = [n for n in ops.algorithm_names("cross_entropy") if n != "native"]
every_own = pytest.mark.parametrize("algorithm", OURS)


def _loss(function: Any, logits: Tensor, target: Tensor, **options: Any) -> Any:
    """Loss and gradient, or the exception."""
    leaf = logits.clone().requires_grad_()
    try:
        loss = function(leaf, target, **options)
        return loss.detach(), torch.autograd.grad(loss.double().sum(), leaf)[0]
    except (RuntimeError, ValueError, IndexError) as error:
        return error


def _as_torch(algorithm: str, logits: Tensor, target: Tensor, **options: Any) -> None:
    expected = _loss(F.cross_entropy, logits, target, **options)
    found = _loss(ops.cross_entropy, logits, target, **options, algorithm=algorithm)
    about = f"{logits.dtype} {list(logits.shape)}, {target.dtype} {list(target.shape)}, {options}"
    if isinstance(expected, Exception):
        assert isinstance(found, type(expected)), f"{about}: {found} instead of {expected!r}"
    else:
        assert not isinstance(found, Exception), f"{about}: {found}"
        low = logits.dtype in (torch.float16, torch.bfloat16)
        error = 0.02 if low else 1e-5
        torch.testing.assert_close(
            found, expected, rtol=error, atol=error, equal_nan=True, msg=f"{about}: ".__add__
        )


@every_own
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_classes_of_every_integer_dtype(algorithm: str, dtype: torch.dtype) -> None:
    """Per shape, reduction, weight and smoothing: torch takes uint8 in some and not in others."""
    for shape, reduction, weighted, smoothing in product(
        [(3, 4), (3, 4, 2), (4,), (0, 4)], ["mean", "sum", "none"], [False, True], [0.0, 0.1]
    ):
        logits = torch.randn(shape)
        sizes = shape[:1] + shape[2:] if len(shape) > 1 else ()
        target = torch.ones(sizes).to(dtype)
        weight = torch.rand(4) + 0.5 if weighted else None
        options: dict[str, Any] = {"reduction": reduction, "weight": weight}
        options["label_smoothing"] = smoothing
        _as_torch(algorithm, logits, target, **options)


@every_own
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_probabilities_and_weights_of_every_dtype(algorithm: str, dtype: torch.dtype) -> None:
    for logits, shape, weight, reduction in product(
        [torch.float32, torch.bfloat16, torch.float64],
        [(3, 4), (3, 4, 2), (4,)],
        [None, torch.float32, torch.float64],
        ["mean", "none"],
    ):
        target = torch.rand(shape).to(dtype)
        weights = None if weight is None else torch.linspace(0.5, 2, 4, dtype=weight)
        options: dict[str, Any] = {"reduction": reduction, "weight": weights}
        _as_torch(algorithm, torch.randn(shape).to(logits), target, **options)
        if weight is not None:  # classes need a weight of the logits' dtype
            classes = target.argmax(min(1, len(shape) - 1))
            _as_torch(algorithm, torch.randn(shape).to(logits), classes, **options)


@every_own
def test_targets_of_wrong_shapes(algorithm: str) -> None:
    for dtype in (torch.int64, torch.int32, torch.uint8, torch.float32, torch.bool):
        for shape, size in (
            ((3, 4), (3, 4)),
            ((4, 4), (4, 4)),
            ((4,), (4,)),
            ((3, 4), (2,)),
            ((3, 4), (3, 1)),
            ((3, 4), ()),
            ((1, 4), ()),
            ((3, 4, 2), (3,)),
            ((3, 4, 2), (3, 4)),
        ):
            _as_torch(algorithm, torch.randn(shape), torch.ones(size).to(dtype))


@every_own
def test_ignored_classes_in_a_byte(algorithm: str) -> None:
    target = torch.tensor([1, 255, 2], dtype=torch.uint8)
    _as_torch(algorithm, torch.randn(3, 4), target, ignore_index=255)
    _as_torch(algorithm, torch.randn(3, 4), target)  # out of range
    _as_torch(algorithm, torch.randn(3, 4), target, ignore_index=-1)
    _as_torch(algorithm, torch.randn(3, 4), torch.rand(3, 4), ignore_index=1)  # of probabilities


@every_own
def test_what_a_refusal_says(algorithm: str) -> None:
    logits, volume = torch.zeros(4, 3), torch.zeros(2, 3, 5)
    hot = F.one_hot(torch.tensor([0, 1, 2, 0]), 3)
    small = torch.zeros(4, dtype=torch.uint8)
    refusals: list[tuple[str, tuple[Tensor, Tensor], dict[str, Any]]] = [
        (
            r"a target of torch\.int64 in the shape of the logits, \[4, 3\], as of a one-hot "
            r"encoding; pass the classes, target\.argmax\(1\), or probabilities, "
            r"target\.to\(torch\.float32\)",
            (logits, hot),
            {},
        ),
        (r"one-hot encoding.*target\.argmax\(0\)", (logits[0], hot[0]), {}),
        (
            r"classes as torch\.int64 \(or torch\.uint8\), but got torch\.int32; convert them with "
            r"target\.long\(\)",
            (logits, small.int()),
            {},
        ),
        (
            r"torch\.uint8 only for logits \(C,\) or \(N, C\), but the logits are \[2, 3, 5\]; "
            r"convert them with target\.long\(\)",
            (volume, torch.zeros(2, 5, dtype=torch.uint8)),
            {},
        ),
        (
            r"torch\.uint8 not together with weight, label_smoothing and reduction='mean'",
            (logits, small),
            {"weight": torch.ones(3), "label_smoothing": 0.1},
        ),
        (
            r"one dtype where the target is classes, but got torch\.float32 and torch\.float64",
            (logits, small.long()),
            {"weight": torch.ones(3).double()},
        ),
        (
            r"ignore_index=2 is not supported for a target of probabilities",
            (logits, torch.rand(4, 3)),
            {"ignore_index": 2},
        ),
    ]
    for message, arguments, options in refusals:
        with pytest.raises(RuntimeError, match=message):
            ops.cross_entropy(*arguments, **options, algorithm=algorithm)


@every_own
def test_autocast_takes_a_weight_of_another_dtype(algorithm: str) -> None:
    logits, weight = torch.randn(4, 3, dtype=torch.bfloat16), torch.ones(3)
    target = torch.tensor([0, 1, 2, 0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = F.cross_entropy(logits, target, weight)
        found = ops.cross_entropy(logits, target, weight, algorithm=algorithm)
    torch.testing.assert_close(found, expected)


ARGUMENTS: dict[str, tuple[tuple[tuple[int, ...], ...], dict[str, Any]]] = {
    "adaptive_avg_pool2d": (((1, 2, 4, 4),), {"output_size": 2}),
    "avg_pool2d": (((1, 2, 4, 4),), {"kernel_size": 2}),
    "batch_norm": (((3, 2),), {"running_mean": None, "running_var": None, "training": True}),
    "batch_norm_act": (((3, 2),), {"running_mean": None, "running_var": None, "training": True}),
    "conv2d": (((1, 2, 4, 4), (3, 2, 2, 2), (3,)), {"padding": 1}),
    "conv_relu_pool": (((1, 2, 4, 4), (3, 2, 2, 2), (3,)), {"padding": 1}),
    "conv_tanh_pool": (((1, 2, 4, 4), (3, 2, 2, 2), (3,)), {"padding": 1}),
    "cross_entropy": (((3, 2),), {"target": torch.tensor([0, 1, 1])}),
    "focal_loss": (((3, 2),), {"target": torch.tensor([0, 1, 1])}),
    **dict.fromkeys(
        ("binary_cross_entropy_with_logits", "huber_loss", "mse_loss"), (((3, 2), (3, 2)), {})
    ),
    "linear": (((3, 2), (4, 2), (4,)), {}),
    "linear_act": (((3, 2), (4, 2), (4,)), {}),
    "max_pool2d": (((1, 2, 4, 4),), {"kernel_size": 2}),
}
ARGUMENTS |= {op: (((3, 2),), {}) for op in activations(*ARGUMENTS)}


@pytest.mark.parametrize(
    ("op", "algorithm"), [(op, n) for op in ops.op_names() for n in ops.algorithm_names(op)]
)
def test_integers_are_computed_or_refused_as_by_torch(op: str, algorithm: str) -> None:
    """They have no gradient, so no algorithm has anything of its own to say."""
    shapes, options = ARGUMENTS[op]
    for dtype in INTEGERS:
        tensors = [torch.arange(torch.Size(s).numel()).reshape(s).to(dtype) for s in shapes]
        try:
            expected = called(op, None)(*tensors, **options)
        except RuntimeError as error:
            with pytest.raises(type(error)) as found:
                called(op, algorithm)(*tensors, **options)
            if isinstance(found.value, ops.UnsupportedInputError):
                assert f"does not take {dtype}" in str(found.value)
                assert "input.float()" in str(found.value)
        else:
            torch.testing.assert_close(called(op, algorithm)(*tensors, **options), expected)
