"""Tensors without elements: every algorithm takes and refuses what its twin in torch does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cnnexp import ops
from cnnexp.proofs import called
from tests.ops.calls import activations

Shapes = tuple[tuple[int, ...], ...]

POOLED: list[tuple[Shapes, dict[str, Any]]] = [
    ((shape,), options)
    for shape in ((0, 2, 5, 6), (2, 0, 5, 6), (2, 2, 0, 6), (2, 2, 5, 0), (0, 5, 6), (0, 2, 0, 6))
    for options in (
        {"kernel_size": 2},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 2, "padding": 1, "stride": 1, "ceil_mode": True},
    )
]
CONVOLVED: list[tuple[Shapes, dict[str, Any]]] = [
    (((0, 4, 5, 6), (4, 2, 3, 2), (4,)), {"padding": 1, "groups": 2}),
    (((0, 4, 5, 6), (4, 4, 3, 2), (4,)), {"padding": "same"}),
    (((0, 16, 6, 6), (16, 16, 3, 3), (16,)), {}),
    (((2, 0, 5, 6), (4, 0, 3, 2), (4,)), {}),
    (((0, 5, 6), (4, 0, 3, 2), (4,)), {}),
    (((2, 4, 0, 6), (4, 4, 3, 2), (4,)), {"padding": 2}),
    (((2, 4, 5, 0), (4, 4, 3, 2), (4,)), {"padding": 1}),
    (((2, 4, 5, 6), (0, 4, 3, 2), (0,)), {}),
    (((2, 4, 5, 6), (4, 4, 0, 2), (4,)), {}),
]
FLAT: list[tuple[Shapes, dict[str, Any]]] = [(((0,),), {}), (((0, 3),), {}), (((2, 0, 3),), {})]


def _normalised() -> list[tuple[Shapes, dict[str, Any]]]:
    cases: list[tuple[Shapes, dict[str, Any]]] = []
    for shape in ((0, 2, 3, 4), (0, 2), (2, 2, 0, 4), (0, 2, 3)):
        for training in (True, False):
            for momentum in (0.1, 1.0):
                statistics = {"running_mean": torch.ones(2), "running_var": torch.ones(2)}
                statistics = {k: v.double() for k, v in statistics.items()}
                options = {"training": training, "momentum": momentum}
                cases.append(((shape, (2,), (2,)), statistics | options))
                cases.append(((shape,), {"running_mean": None, "running_var": None} | options))
    return cases


def _classified() -> list[tuple[Shapes, dict[str, Any]]]:
    cases: list[tuple[Shapes, dict[str, Any]]] = []
    for shape, size in (
        ((0, 3), (0,)),
        ((0, 3, 2), (0, 2)),
        ((2, 3, 0), (2, 0)),
        ((0, 3), (0, 3)),
        ((2, 3, 0), (2, 3, 0)),
        ((2, 0), (2, 0)),
        ((2, 0), (2,)),
    ):
        whole = torch.zeros(size, dtype=torch.float64 if size == shape else torch.int64)
        for reduction in ("mean", "sum", "none"):
            options = {"target": whole, "reduction": reduction}
            cases.append(((shape,), options))
            cases.append(((shape,), options | {"label_smoothing": 0.1}))
    return cases


# values and their targets
COMPARED: list[tuple[Shapes, dict[str, Any]]] = [
    ((shape, shape), {"reduction": reduction})
    for shape in ((0,), (0, 3), (2, 0))
    for reduction in ("mean", "sum", "none")
]
CASES: dict[str, list[tuple[Shapes, dict[str, Any]]]] = {
    "adaptive_avg_pool2d": [
        ((shape,), {"output_size": size})
        for shape in ((0, 2, 5, 6), (2, 2, 0, 6), (2, 0, 6))
        for size in (1, (3, 2), (None, 1))
    ],
    "avg_pool2d": POOLED,
    "batch_norm": _normalised(),
    "batch_norm_act": [
        (shapes, options | {"activation": activation})
        for activation in ("relu", "silu")
        for shapes, options in _normalised()
    ],
    "conv2d": CONVOLVED,
    "conv_relu_pool": [
        (shapes, options | {"pool": pool})
        for shapes, options in CONVOLVED
        for pool in (ops.Pool(), ops.Pool("max", 3, 2, 1), ops.Pool("avg"))
    ],
    "conv_tanh_pool": [
        (shapes, options | {"pool": pool})
        for shapes, options in CONVOLVED
        for pool in (None, ops.Pool("max", 3, 2, 1), ops.Pool("avg"))
    ],
    "cross_entropy": _classified(),
    "binary_cross_entropy_with_logits": COMPARED,
    "huber_loss": COMPARED,
    "mse_loss": COMPARED,
    "focal_loss": [
        (((0, 3),), {"target": torch.zeros(0, dtype=torch.int64), "reduction": reduction})
        for reduction in ("mean", "sum", "none")
    ],
    "dropout": [
        (s, {"p": p, "training": t}) for s, _ in FLAT for p in (0.5, 1) for t in (True, False)
    ],
    "gelu": [*FLAT, *[(s, {"approximate": "tanh"}) for s, _ in FLAT]],
    "linear": [
        (((0, 3), (4, 3), (4,)), {}),
        (((0, 2, 3), (4, 3), (4,)), {}),
        (((2, 0, 3), (4, 3)), {}),
        (((2, 0), (4, 0), (4,)), {}),
        (((2, 3), (0, 3), (0,)), {}),
        (((0, 3), (3,)), {}),
    ],
    "linear_act": [
        (((0, 3), (4, 3), (4,)), {}),
        (((0, 2, 3), (4, 3), (4,), (2, 4), (2,)), {"activations": ("tanh", "none")}),
        (((9, 0), (16, 0), (16,)), {}),
        (((9, 16), (0, 16), (0,)), {}),
        (((9, 16), (0, 16), (0,), (2, 0), (2,)), {"activations": ("relu", "tanh")}),
    ],
    "max_pool2d": [*POOLED, (((0, 2, 5, 6),), {"kernel_size": 2, "return_indices": True})],
}
CASES |= dict.fromkeys(activations(*CASES), FLAT)
# torch's own, of its twin and of native
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def test_every_op_has_empty_cases() -> None:
    assert set(CASES) == set(ops.op_names())


def _outcome(op: str, algorithm: str | None, shapes: Shapes, options: dict[str, Any]) -> Any:
    """The exception's type, or outputs (with running statistics) and gradients."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    tensors = [t.requires_grad_() for t in tensors]
    try:
        results = called(op, algorithm)(*tensors, **options)
        results = results if isinstance(results, tuple) else (results,)
        grads = torch.autograd.grad(results[0].sum(), tensors, allow_unused=True)
    except Exception as error:
        return type(error)
    pairs = zip(grads, tensors, strict=True)
    return [*results, *[torch.zeros(t.shape) if g is None else g for g, t in pairs]]


@pytest.mark.parametrize(
    ("op", "algorithm"), [(op, a) for op in CASES for a in (*ops.algorithm_names(op), "auto")]
)
def test_empty_tensors_are_as_in_torch(op: str, algorithm: str) -> None:
    for shapes, options in CASES[op]:
        expected = _outcome(op, None, shapes, options)
        found = _outcome(op, algorithm, shapes, options)
        if isinstance(expected, type):
            assert isinstance(found, type), f"{shapes} {options}: torch refuses"
            assert issubclass(found, expected), f"{shapes} {options}"
        else:
            assert not isinstance(found, type), f"{shapes} {options}: {found}"
            where = f"{shapes} {options}: "
            torch.testing.assert_close(
                found, expected, equal_nan=True, check_dtype=False, msg=where.__add__
            )


@pytest.mark.parametrize("op", ["max_pool2d", "avg_pool2d"])
def test_an_image_without_pixels_or_channels_is_refused_in_words(op: str) -> None:
    for shape in ((2, 2, 0, 6), (2, 0, 5, 6)):
        with pytest.raises(RuntimeError, match=f"{op} takes an empty batch, but no empty images"):
            getattr(ops, op)(torch.zeros(shape), 2)


def test_a_convolution_of_an_image_without_pixels_is_refused_in_words() -> None:
    with pytest.raises(RuntimeError, match="conv2d takes an empty batch, but no empty images"):
        ops.conv2d(torch.zeros(2, 4, 0, 6), torch.zeros(4, 4, 3, 3), padding=2)


@pytest.mark.parametrize("algorithm", ops.algorithm_names("batch_norm"))
def test_an_empty_batch_leaves_running_statistics_as_they_are(algorithm: str) -> None:
    mean, variance = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5])
    kept: list[Tensor] = [mean.clone(), variance.clone()]
    for momentum in (0.0, 0.1, 1.0):
        ops.batch_norm(
            torch.zeros(0, 2, 3, 3),
            mean,
            variance,
            training=True,
            momentum=momentum,
            algorithm=algorithm,
        )
    assert torch.equal(mean, kept[0])
    assert torch.equal(variance, kept[1])
