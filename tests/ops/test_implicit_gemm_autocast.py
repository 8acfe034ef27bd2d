"""Within autocast to bfloat16 ``implicit_gemm`` takes weights as they are, in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnexp.kernels.cpu import implicit
from cnnexp.nn import replace_layers
from tests.ops.counting import count_calls
from tests.ops.implicit_gemm_cases import (
    KERNELS,
    SUMMING,
    cases,
    given_tensors,
    layouts,
    no_pairs,
    ours,
    results,
    torchs,
)


def _in_autocast(tensors: list[Tensor], options: Any, grad: Tensor) -> list[Tensor]:
    """y and the gradients of float32 ``tensors`` within autocast to bfloat16."""
    given = [each.detach().requires_grad_() for each in tensors]
    with torch.autocast("cpu", torch.bfloat16):
        output = ours(*given, **options)
    return [output.detach(), *torch.autograd.grad(output, given, grad)]


@cases
@layouts
@no_pairs
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_weights_stay_float32_in_autocast(
    case: Any, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, options = given_tensors(case, torch.float32, layout)
    halved = [each.bfloat16() for each in tensors]
    calls: list[str] = []
    for name in KERNELS:
        count_calls(monkeypatch, implicit, name, calls)
    grad = torch.randn(torchs(*tensors, **options).shape).bfloat16()
    found = _in_autocast(tensors, options, grad)
    assert sorted(calls) == sorted(KERNELS)
    expected = results(halved, options, ours, grad)
    # rounded on the way they are as a cast rounds them; only ∂L/∂w keeps what that would round off
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.bfloat16(), other)
    assert [each.dtype for each in found] == [torch.bfloat16, *[torch.float32] * 3]
    assert found[2].stride() == tensors[1].stride() or tensors[1][0, :, 0, 0].numel() == 1
    exact = results([each.double() for each in halved], options, torchs, grad)[2]
    most = results([e.double().abs() for e in halved], options, torchs, grad.abs())[2]
    assert ((found[2].double() - exact).abs() <= SUMMING * most + 1e-37).all()


@no_pairs
def test_a_cast_of_weights_is_neither_made_nor_kept() -> None:
    image, weight = torch.randn(8, 16, 4, 4).bfloat16(), torch.randn(32, 16, 3, 3).requires_grad_()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        output = ours(image.requires_grad_(), weight, padding=1)
    pointers = {each.data_ptr() for each in kept}
    assert pointers == {image.data_ptr(), weight.data_ptr()}
    output.sum().backward()
    assert weight.grad is not None


@no_pairs
def test_of_weights_that_are_computed_the_cast_is_kept() -> None:
    image, weight = torch.randn(8, 16, 4, 4).bfloat16(), torch.randn(32, 16, 3, 3).requires_grad_()
    kept: list[torch.dtype] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.dtype)
        return tensor

    computed = weight * 2
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        ours(image, computed, padding=1).sum().backward()
    assert set(kept) == {torch.bfloat16}
    assert weight.grad is not None


@no_pairs
def test_weights_that_change_before_the_backward_are_an_error_in_autocast() -> None:
    image, weight = (
        torch.randn(8, 16, 4, 4).requires_grad_(),
        torch.randn(32, 16, 3, 3).requires_grad_(),
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss = ours(image, weight, padding=1).sum()
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@no_pairs
@pytest.mark.parametrize("kept", [torch.float16, torch.bfloat16], ids=str)
def test_other_weights_are_cast_in_autocast(kept: torch.dtype) -> None:
    image, weight = torch.randn(8, 16, 4, 4), torch.randn(16, 16, 3, 3).to(kept).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = ours(image, weight), F.conv2d(image, weight)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.05)
    (grad,) = torch.autograd.grad(found.sum(), weight)
    assert grad.dtype == kept


@no_pairs
def test_second_derivatives_tangents_and_maps_in_autocast() -> None:
    image, weight = torch.randn(8, 16, 4, 4), torch.randn(16, 16, 3, 3)

    def loss(w: Tensor, conv: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return conv(image, w, padding=1).float().square().mean()

    by_ours, by_torch = (lambda w: loss(w, ours)), (lambda w: loss(w, torchs))
    v = torch.randn_like(weight)
    for derivative in (
        lambda f: torch.autograd.functional.hvp(f, weight, v)[1],
        lambda f: torch.func.grad(f)(weight),
        lambda f: torch.func.jvp(f, (weight,), (v,))[1],
        lambda f: torch.func.vmap(torch.func.grad(f))(torch.stack([weight, v])),
    ):
        torch.testing.assert_close(derivative(by_ours), derivative(by_torch), rtol=0.05, atol=2e-3)


@no_pairs
def test_in_a_compiled_network_weights_stay_float32_in_autocast() -> None:
    conv = torch.nn.Conv2d(16, 16, 3, padding=1)
    network = replace_layers(torch.nn.Sequential(conv), "implicit_gemm", quiet=True)
    image = torch.randn(8, 16, 4, 4)

    def gradient(called: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            called(image).float().square().sum().backward()
        grad = network.get_parameter("0.weight").grad
        network.zero_grad()
        assert grad is not None
        return grad

    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    assert torch.equal(gradient(compiled), gradient(network))
