"""Borders at which a formula is easily off by one: each was a change that no other test noticed."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from cnnexp import ops

every_max_pool = pytest.mark.parametrize("algorithm", ops.algorithm_names("max_pool2d"))


@every_max_pool
def test_a_window_of_minus_infinities_has_its_first_element_for_a_winner(algorithm: str) -> None:
    image = torch.full((1, 2, 5, 6), -torch.inf, dtype=torch.float64, requires_grad=True)
    for size, step, padding in ((2, 2, 0), (3, 2, 1)):
        values, indices = ops.max_pool2d(
            image, size, step, padding, return_indices=True, algorithm=algorithm
        )
        wanted = F.max_pool2d(image, size, step, padding, return_indices=True)
        assert torch.equal(values, wanted[0])
        assert torch.equal(indices, wanted[1])
        (found,) = torch.autograd.grad(values, image, torch.ones_like(values))
        (grad,) = torch.autograd.grad(wanted[0], image, torch.ones_like(values))
        assert torch.equal(found, grad)


OURS = [
    (op, name)
    for op in ops.op_names()
    for name in ops.algorithm_names(op)
    if name != "native"  # torch's own
]


@pytest.mark.parametrize(("op", "name"), OURS)
def test_an_algorithm_has_the_defaults_of_its_op(op: str, name: str) -> None:
    def defaults(function: Callable[..., Any]) -> dict[str, Any]:
        parameters = inspect.signature(function).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty}

    wanted = defaults(getattr(ops, op))
    own = defaults(ops.get_algorithm(op, name).function)
    assert {key: value for key, value in own.items() if key in wanted} == {
        key: wanted[key] for key in own if key in wanted
    }


def _refusal(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[type, str]:
    with pytest.raises((RuntimeError, ValueError)) as stop:
        function(*arguments, **options)
    return stop.type, str(stop.value)


def test_batch_norm_refuses_half_of_the_running_statistics_as_torch_does() -> None:
    x, some = torch.randn(4, 3, 2, 2), torch.ones(3)
    for mean, variance in ((some, None), (None, some), (None, None)):
        found = _refusal(ops.batch_norm, x, mean, variance)
        assert found == (RuntimeError, found[1])
        assert "running_mean and running_var" in found[1]
        assert _refusal(F.batch_norm, x, mean, variance)[0] is RuntimeError


@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_label_smoothing_takes_both_ends_of_its_range(smoothing: float) -> None:
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    classes = torch.tensor([0, 4, 2])
    found = ops.cross_entropy(logits, classes, label_smoothing=smoothing)
    wanted = F.cross_entropy(logits, classes, label_smoothing=smoothing)
    torch.testing.assert_close(found, wanted)
    grads = [torch.autograd.grad(loss, logits)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize(("p", "kept"), [(0.0, 1.0), (1.0, 0.0)])
def test_dropout_takes_both_ends_of_its_range(p: float, kept: float) -> None:
    x = torch.randn(4, 5, requires_grad=True)
    y = ops.dropout(x, p)
    assert torch.equal(y, kept * x)
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert torch.equal(grad, torch.full_like(x, kept))


@pytest.mark.parametrize("size", [(-1, 3), (3, -1), (-1, -1)], ids=str)
@pytest.mark.parametrize("algorithm", ops.algorithm_names("adaptive_avg_pool2d"))
def test_an_output_of_negative_size_is_refused(algorithm: str, size: tuple[int, int]) -> None:
    with pytest.raises(RuntimeError):
        ops.adaptive_avg_pool2d(torch.ones(1, 1, 4, 5), size, algorithm=algorithm)


@pytest.mark.parametrize("size", [1, 2, (4, 5), (3, 7)], ids=str)
@pytest.mark.parametrize("algorithm", ops.algorithm_names("adaptive_avg_pool2d"))
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_one_infinite_pixel_is_in_the_means_that_read_it_alone(
    algorithm: str, size: int | tuple[int, int], value: float
) -> None:
    image = torch.ones(1, 2, 4, 5)
    image[0, 1, 2, 3] = value
    found = ops.adaptive_avg_pool2d(image, size, algorithm=algorithm)
    torch.testing.assert_close(found, F.adaptive_avg_pool2d(image, size), equal_nan=True)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_class_that_is_none_is_named(wrong: int) -> None:
    logits = torch.zeros(4, 3)
    target = torch.tensor([0, 255, wrong, 2])
    with pytest.raises(IndexError, match=rf"Target {wrong} is out of bounds: the classes are 0…2"):
        ops.cross_entropy(logits, target, ignore_index=255)
    target[2] = 1
    found = ops.cross_entropy(logits, target, ignore_index=255)
    torch.testing.assert_close(found, F.cross_entropy(logits, target, ignore_index=255))


@pytest.mark.parametrize("algorithm", ops.algorithm_names("cross_entropy"))
def test_fake_tensors_have_no_classes_to_look_at(algorithm: str) -> None:
    with FakeTensorMode():
        logits, target = torch.zeros(4, 3, requires_grad=True), torch.zeros(4, dtype=torch.int64)
        loss = ops.cross_entropy(logits, target, algorithm=algorithm)
        loss.backward()
        assert logits.grad is not None
        assert (loss.shape, logits.grad.shape) == ((), (4, 3))


@pytest.mark.parametrize("algorithm", ops.algorithm_names("cross_entropy"))
@pytest.mark.parametrize("reduce", [None, False, True])
@pytest.mark.parametrize("size_average", [None, False, True])
def test_the_old_names_of_a_reduction_are_torchs(
    size_average: bool | None, reduce: bool | None, algorithm: str
) -> None:
    logits, target = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 1])
    old: dict[str, Any] = {"size_average": size_average, "reduce": reduce}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, that the names are old
        wanted = F.cross_entropy(logits, target, **old)
        found = ops.cross_entropy(logits, target, **old, algorithm=algorithm)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_image_that_does_not_count_may_have_any_logits(reduction: str, smoothing: float) -> None:
    far = -torch.inf
    logits = torch.tensor([[0, 1, 2], [far, 0, 0], [torch.nan, 1, 1], [1, 2, 3]]).double()
    target = torch.tensor([1, -100, -100, 2])
    found = []
    for function in (F.cross_entropy, ops.cross_entropy):
        x = logits.clone().requires_grad_()
        loss = function(x, target, reduction=reduction, label_smoothing=smoothing)
        found.append((loss.detach(), *torch.autograd.grad(loss.sum(), x)))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("size", [(-1, 3), (3, -1)])
def test_adaptive_pooling_to_less_than_nothing_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(RuntimeError):
        F.adaptive_avg_pool2d(torch.zeros(1, 1, 4, 4), size)
    with pytest.raises(RuntimeError, match="-1"):
        ops.adaptive_avg_pool2d(torch.zeros(1, 1, 4, 4), size)


@pytest.mark.parametrize("ignored", [-1, -100])
def test_probabilities_may_come_with_a_class_to_ignore_that_none_is(ignored: int) -> None:
    logits, target = torch.randn(3, 4), torch.full((3, 4), 0.25)
    expected = F.cross_entropy(logits, target, ignore_index=ignored)
    assert torch.allclose(ops.cross_entropy(logits, target, ignore_index=ignored), expected)
    with pytest.raises(RuntimeError, match="ignore_index"):
        ops.cross_entropy(logits, target, ignore_index=0)


def test_dropout_of_all_in_place_leaves_zeros() -> None:
    images = torch.randn(3, 4)
    kept = images.clone().requires_grad_()
    changed = kept * 1
    assert ops.dropout(changed, 1.0, inplace=True) is changed
    assert torch.equal(changed, torch.zeros_like(images))
    changed.sum().backward()
    assert kept.grad is not None
    assert torch.equal(kept.grad, torch.zeros_like(images))


@pytest.mark.parametrize("algorithm", ops.algorithm_names("conv2d"))
def test_a_call_that_fails_spoils_none_that_follows(algorithm: str) -> None:
    """True is 1 as a key, but no number of groups."""
    image, weight = torch.randn(1, 2, 7, 5), torch.randn(3, 2, 3, 3)
    wrongs: list[dict[str, Any]] = [{"groups": True}, {"stride": 1.0}, {"padding": 0.0}]
    for wrong in wrongs:
        with pytest.raises(TypeError):
            ops.conv2d(image, weight, **wrong, algorithm=algorithm)
    found = ops.conv2d(image, weight, algorithm=algorithm)
    assert torch.allclose(found, F.conv2d(image, weight), atol=1e-5)
