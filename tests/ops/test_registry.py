from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cnnexp import ops
from cnnexp.ops import registry

# torch has no such function
OURS_ALONE = {"batch_norm_act", "conv_relu_pool", "conv_tanh_pool", "focal_loss", "linear_act"}


@pytest.mark.parametrize("op", sorted(set(ops.op_names()) - OURS_ALONE))
def test_native_is_the_function_that_its_summary_names(op: str) -> None:
    name = ops.get_algorithm(op, "native").summary.split(" and ")[0].removeprefix("torch.")
    function = functools.reduce(getattr, name.split("."), torch)
    # which takes `approximate` by keyword alone; whose gradient is wrong on some GPUs
    wrapped = {"gelu", "avg_pool2d"}
    assert op in wrapped or ops.get_algorithm(op, "native").function is function


def test_records_are_frozen() -> None:
    algorithm = ops.get_algorithm("conv2d", "direct")
    with pytest.raises(dataclasses.FrozenInstanceError):
        algorithm.name = "other"  # pyright: ignore[reportAttributeAccessIssue]


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="conv2d has an algorithm named 'direct' already"):
        ops.register(ops.get_algorithm("conv2d", "direct"))


def test_an_unknown_algorithm_lists_the_known_ones_and_suggests_the_nearest() -> None:
    with pytest.raises(
        ops.UnknownAlgorithmError,
        match=r"unknown algorithm 'dirct' for conv2d; known: depthwise, direct, fft, im2col, "
        r"implicit_gemm, narrow, native, reference, auto; did you mean 'direct'\?",
    ):
        ops.conv2d(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3), algorithm="dirct")


def test_an_unknown_op_lists_the_known_ones() -> None:
    with pytest.raises(
        ops.UnknownAlgorithmError,
        match="unknown op 'conv9d'; known: adaptive_avg_pool2d, avg_pool2d",
    ):
        ops.algorithm_names("conv9d")


def test_an_algorithm_refuses_devices_and_dtypes_that_it_does_not_run_on() -> None:
    direct = ops.get_algorithm("conv2d", "direct")
    only_gpu = dataclasses.replace(direct, name="gpu-only", devices=("cuda",))
    with pytest.raises(
        ops.UnsupportedInputError, match=r"does not run on device cpu \(it runs on: cuda\)"
    ):
        only_gpu(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3))
    only_single = dataclasses.replace(direct, name="single-only", dtypes=(torch.float32,))
    with pytest.raises(
        ops.UnsupportedInputError,
        match=r"dtype torch.float64.*choose another algorithm: depthwise, direct, fft, im2col",
    ):
        only_single(torch.zeros(1, 1, 3, 3).double(), torch.zeros(1, 1, 3, 3).double())


@pytest.mark.parametrize("op", ops.op_names())
def test_every_algorithm_has_a_summary(op: str) -> None:
    for name in ops.algorithm_names(op):
        assert len(ops.get_algorithm(op, name).summary) > 20


def test_an_op_without_the_algorithm_takes_direct() -> None:
    assert ops.resolve_algorithm("conv2d", "im2col") == "im2col"
    assert ops.resolve_algorithm("relu", "im2col") == "direct"
    assert ops.resolve_algorithm("relu", "native") == "native"
    assert ops.resolve_algorithm("relu", "auto") == "auto"
    with pytest.raises(
        ops.UnknownAlgorithmError,
        match=r"unknown algorithm 'fuse' for any op; known: depthwise, direct, fft, fused, .*"
        r"did you mean 'fused'",
    ):
        ops.resolve_algorithm("relu", "fuse")


def test_an_op_is_declared_once_and_its_algorithms_take_its_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for kept in ("_REGISTRY", "_OPS", "_OTHERS"):
        monkeypatch.setattr(registry, kept, dict(getattr(registry, kept)))

    def powers(input: Tensor, power: int = 2, *, algorithm: str = "direct") -> Tensor:
        return ops.get_algorithm("powers", algorithm)(input, power)

    seen: list[tuple[object, ...]] = []

    def computed(input: Tensor, *others: int) -> Tensor:
        seen.append(others)
        return input ** others[0]

    ops.declare(powers, direct=computed, summary="by multiplication")
    algorithm = ops.get_algorithm("powers", "direct")
    monkeypatch.setattr(registry, "_others", _bound_once(registry._others))
    assert powers(torch.tensor([3.0])).item() == algorithm(torch.tensor([3.0])).item() == 9
    assert algorithm(torch.tensor([3.0]), 3).item() == 27  # nothing is left out: nothing to look up
    assert seen == [(2,), (2,), (3,)]
    with pytest.raises(ValueError, match="there is an op named 'powers' already; choose another"):
        ops.declare(powers, direct=computed)


def _bound_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, which may be called once."""
    calls = iter([function])
    return lambda *arguments: next(calls)(*arguments)
