"""Mistakes that hide behind large constants, layouts, complex numbers or a twin, and right functions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cnnexp import check


class _Masked(torch.autograd.Function):
    """Attention's mask: the gradient by ``factor`` times what it is."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, mask: Tensor, fill: float, factor: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.factor = factor
        return scores.masked_fill(mask, fill)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.factor * grads[0].masked_fill(ctx.saved_tensors[0], 0), None, None, None


@pytest.mark.parametrize("size", [8, 40])  # checked element by element, and by samples
@pytest.mark.parametrize("fill", [-1e9, torch.finfo(torch.float32).min, -torch.inf])
def test_large_constants_among_the_outputs_hide_no_mistake(fill: float, size: int) -> None:
    mask = torch.ones(size, size, dtype=torch.bool).triu(1)
    scores = torch.randn(size, size)
    for factor in (1.0, 7.0, -1.0, 0.0):
        report = check(
            lambda s, m, factor=factor: _Masked.apply(s, m, fill, factor), [[scores, mask]]
        )
        assert report.verdicts["first derivative"].state == ("right" if factor == 1 else "wrong")


class _Cube(torch.autograd.Function):
    """x³, whose backward takes x as if it were contiguous."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * torch.as_strided(x, (x.numel(),), (1,)).view(x.shape) ** 2 * grads[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_gradients_at_inputs_that_are_not_contiguous_are_compared(dtype: torch.dtype) -> None:
    verdict = check(_Cube, [[torch.randn(3, 4, dtype=dtype).abs().to(dtype)]]).verdicts
    said = "an input that is not contiguous gives another gradient"
    assert said in str(verdict["dtype and shape"].wrong)
    assert verdict["first derivative"].state == "right"


class _Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x


def test_a_complex_parameter_is_said_to_be_unchecked() -> None:
    report = check(_Scaled(), [[torch.randn(3, dtype=torch.complex64)]])
    said = str(report.verdicts["first derivative"].missing)
    assert "w is complex: ∂L/∂w is not checked" in said


def _only_float32(x: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        raise TypeError("this kernel takes float32")
    return torch.sin(x)


def _float32_inside(x: Tensor) -> Tensor:
    return torch.tanh(x.float()).to(x.dtype)


def _shifted(x: Tensor) -> Tensor:
    return 1.001 * _float32_inside(x)


def _conjugated(x: Tensor) -> Tensor:
    return torch.fft.fft(x).conj().resolve_conj()


@pytest.mark.parametrize(
    ("function", "twin", "agrees"),
    [
        (_only_float32, torch.sin, True),
        (_only_float32, torch.tanh, False),
        (_float32_inside, torch.tanh, True),
        (_shifted, torch.tanh, False),
        (torch.fft.fft, torch.fft.fft, True),
        (_conjugated, torch.fft.fft, False),
        (nn.Dropout(0.5), nn.Dropout(0.5), True),
        (nn.Dropout(0.5), nn.Dropout(0.4), False),
    ],
)
def test_a_twin_is_compared_as_exactly_as_the_function_computes(
    function: Any, twin: Any, agrees: bool
) -> None:
    before = torch.get_rng_state()
    verdict = check(function, [[torch.linspace(-1, 1, 12)]], twin=twin).verdicts
    assert verdict["agreement with the twin"].state == ("right" if agrees else "wrong")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_result_that_is_conjugated_lazily_is_read() -> None:
    assert check(torch.conj, [[torch.randn(3, dtype=torch.complex64)]])


def test_a_caller_without_gradients_does_not_make_it_wrong() -> None:
    with torch.no_grad():
        assert check(torch.sin, [[torch.randn(3)]])


class _HardShrink(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * (x.abs() > 0.5)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 7 * grads[0] * (ctx.saved_tensors[0].abs() > 0.5)


def test_a_jump_at_the_values_is_said() -> None:
    report = check(_HardShrink, [[torch.tensor([0.5, 2.0, -3.0, 0.1])]])
    verdict = report.verdicts["first derivative"]
    assert verdict.state == "not offered"
    assert "the function jumps at these values, or is noise" in str(verdict.missing)
    assert check(_HardShrink, [[torch.tensor([0.4, 2.0])]]).verdicts["first derivative"].wrong


def test_gradients_that_parameters_have_stay() -> None:
    layer, images = nn.Linear(3, 3), torch.randn(2, 3, requires_grad=True)
    layer(images).sum().backward()
    before = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}

    def checkpointed(x: Tensor) -> Tensor:
        return checkpoint(layer, x, use_reentrant=True)

    assert check(checkpointed, [[images.detach()]])
    assert len(before) == 2
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, before[name])


class _Remembers(nn.Module):
    """Keeps a table by shape, as position encodings do, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.table: dict[torch.Size, Tensor] = {}
        self.seen = [0]

    def forward(self, x: Tensor) -> Tensor:
        self.seen[0] += 1
        if x.shape not in self.table:
            self.table[x.shape] = torch.ones_like(x)
        return self.inner(x) + self.table[x.shape]


def test_tables_that_a_module_keeps_are_left_as_they_were() -> None:
    layer, images = _Remembers(), torch.randn(2, 3)
    assert check(layer, [[images]])
    assert (layer.table, layer.seen) == ({}, [0])
    assert layer(images).dtype == torch.float32  # not of the proof's float64
    assert check(lambda x: layer(x), [[images]])
    assert layer.seen == [1]
