"""What a convolution reads is computed again in the backward: the same bits, and nothing that keeps it."""

from __future__ import annotations

import copy
import io
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import cnnexp.nn
from cnnexp import ops
from cnnexp.ops.recomputed import can_be_recomputed, recipe_of, recomputable
from cnnexp.tuning.memory import saved_bytes
from tests.ops.savers import by_checkpoint, kept_elsewhere, reentrant

ALGORITHMS = [name for name in ops.algorithm_names("batch_norm_act") if name != "native"]
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)
every_convolution = pytest.mark.parametrize("convolution", ops.algorithm_names("conv2d"))


class Chain(torch.nn.Module):
    """Convolution, normalisation with an activation, and two convolutions that read it."""

    def __init__(
        self, recompute: bool, algorithm: str = "fused", convolution: str = "direct", **options: Any
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = cnnexp.nn.Conv2d(2, 4, 3, algorithm=convolution)
        self.block = cnnexp.nn.BatchNormAct2d(
            4, algorithm=algorithm, recompute=recompute, **options
        )
        self.one = cnnexp.nn.Conv2d(4, 3, 3, algorithm=convolution)
        self.other = cnnexp.nn.Conv2d(4, 3, 3, algorithm=convolution)
        self.seen: weakref.ref[Tensor] | None = None

    def forward(self, input: Tensor) -> Tensor:
        output = self.block(self.first(input))
        self.seen = weakref.ref(output)
        return self.one(output).tanh() * self.other(output)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_torchs_own_convolution_of_an_unkept_input() -> None:
    """All that a layer can say of its windows; also where nothing needs its input."""
    for options in (
        {"padding": "same", "bias": False},
        {"stride": 2, "groups": 2, "padding": (1, 0), "dilation": (1, 2)},
        {"padding": 1, "padding_mode": "reflect"},
    ):
        for frozen in (False, True):
            layer = cnnexp.nn.Conv2d(4, 6, (3, 2), algorithm="native", **options)
            layer.weight.requires_grad_(not frozen)
            found = []
            for recompute in (False, True):
                image = torch.linspace(-2, 2, 480).view(2, 4, 10, 6).sin().requires_grad_()
                y = ops.batch_norm_act(image, None, None, training=True, recompute=recompute)
                layer.zero_grad()
                layer(y).square().sum().backward()
                grads = [
                    image.grad,
                    layer.weight.grad,
                    None if layer.bias is None else layer.bias.grad,
                ]
                found.append([each for each in grads if each is not None])
            assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def _image(**options: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 2, 8, 7, generator=generator).to(**options).requires_grad_()


def _results(network: torch.nn.Module, image: Tensor) -> list[Tensor]:
    output = network(image)
    grads = torch.autograd.grad(output.float().square().sum(), [image, *network.parameters()])
    return [output.detach(), *grads, *network.buffers()]


@every_algorithm
@every_convolution
@pytest.mark.parametrize("training", [True, False])
def test_gradients_have_the_same_bits_and_the_output_is_not_kept(
    algorithm: str, convolution: str, training: bool
) -> None:
    plain, again = (Chain(each, algorithm, convolution).train(training) for each in (False, True))
    for layout in (torch.contiguous_format, torch.channels_last):
        image = _image(memory_format=layout)
        for ours, theirs in zip(_results(again, image), _results(plain, image), strict=True):
            assert torch.equal(ours, theirs)
    output = again(_image())
    assert again.seen is not None
    assert again.seen() is None  # while the backward is still to come
    output.sum().backward()
    image = _image()
    kept = [
        saved_bytes(lambda each=each: each(image), each.parameters()) for each in (plain, again)
    ]
    assert kept[0] - kept[1] == (3 * 4 * 6 * 5 - 2 * 4) * 4  # less copies of γ and β


@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "hardswish", "silu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_recomputed_output_has_the_bits_of_the_first(
    activation: str, dtype: torch.dtype
) -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        image = torch.randn(5, 24, 9, 7).to(dtype, memory_format=layout).requires_grad_()
        for weight in (None, torch.rand(24, requires_grad=True)):
            bias = None if weight is None else torch.randn(24, requires_grad=True)
            w, b = (
                t if t is None or dtype != torch.float64 else t.double() for t in (weight, bias)
            )
            y = ops.batch_norm_act(
                image, None, None, w, b, training=True, activation=activation, recompute=True
            )
            recipe = recipe_of(y)
            assert recipe is not None
            with torch.no_grad():
                found = recipe.compute(*recipe.tensors, *recipe.rest)
            assert torch.equal(found, y)
            assert found.stride() == y.stride()


@every_algorithm
@pytest.mark.parametrize("training", [True, False])
def test_second_derivatives(algorithm: str, training: bool) -> None:
    network = Chain(True, algorithm, activation="silu").double().train(training)
    names = [name for name, _ in network.named_parameters()]
    image = _image(dtype=torch.float64).detach()[:2, :, :5, :5].requires_grad_()

    def function(input: Tensor, *parameters: Tensor) -> Tensor:
        state = dict(zip(names, parameters, strict=True))
        buffers = {name: copy.copy(b) for name, b in network.named_buffers()}
        return functional_call(network, {**state, **buffers}, (input,))

    inputs = (image, *network.parameters())
    torch.autograd.gradcheck(function, inputs)
    torch.autograd.gradgradcheck(function, inputs)


def _its_end_by_checkpoint(network: Chain, image: Tensor) -> Tensor:
    output = network.block(network.first(image))

    def end(output: Tensor) -> Tensor:
        return network.one(output).tanh() * network.other(output)

    return checkpoint(end, output, use_reentrant=False)  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("run", [by_checkpoint, reentrant, _its_end_by_checkpoint, kept_elsewhere])
def test_with_what_else_saves_memory(run: Callable[[Chain, Tensor], Tensor]) -> None:
    image, network = _image(), Chain(True).eval()
    wanted = [image, *network.parameters()]
    expected = torch.autograd.grad(network(image).square().sum(), wanted)
    run(network, image).square().sum().backward()
    for each, theirs in zip(wanted, expected, strict=True):
        assert each.grad is not None
        assert torch.equal(each.grad, theirs)


def test_what_was_written_to_is_kept() -> None:
    """Each convolution has read another value; torch itself refuses the backward of the first."""
    network = Chain(True).eval()
    weights = [network.one.weight, network.other.weight]

    def run(add: Callable[[Tensor], Tensor]) -> list[Tensor]:
        output = network.block(network.first(_image()))
        first = network.one(output)
        output = add(output)
        assert can_be_recomputed(output) is False
        return list(torch.autograd.grad((first * network.other(output)).sum(), weights))

    for ours, theirs in zip(run(lambda y: y.add_(1)), run(lambda y: y + 1), strict=True):
        assert torch.equal(ours, theirs)


def test_parameters_that_are_gone_after_their_layer() -> None:
    """As FSDP frees them after a layer's forward, and has them again for its backward."""
    network, image = Chain(True).eval(), _image()
    wanted = [network.one.weight, network.other.weight, network.block.weight, image]
    expected = torch.autograd.grad(network(image).square().sum(), wanted)
    parameters = network.block.weight, network.block.bias
    output = network(image)
    values = [parameter.data.clone() for parameter in parameters]
    for parameter in parameters:  # no version of theirs counts
        parameter.data.fill_(float("nan"))
    found = torch.autograd.grad(output.square().sum(), wanted[:2], retain_graph=True)
    for parameter, value in zip(parameters, values, strict=True):
        parameter.data.copy_(value)
    found += torch.autograd.grad(output.square().sum(), wanted[2:])
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_parameter_that_moves_before_the_backward_is_refused() -> None:
    network = Chain(True)
    output = network(_image())
    with torch.no_grad():
        network.block.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_nothing_is_recomputed_in_transforms_or_without_a_backward() -> None:
    network = Chain(True).eval()
    with torch.no_grad():
        output = network.block(network.first(_image()))
    assert recipe_of(output) is None
    assert not can_be_recomputed(network.block(network.first(_image())).view(-1))
    state = {name: p.detach() for name, p in network.named_parameters()}
    expected = torch.autograd.grad(network(_image()).square().sum(), [*network.parameters()])
    image = _image().detach()
    found = grad(lambda s: functional_call(network, s, (image,)).square().sum())(state)
    for ours, theirs in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_transform_takes_what_was_made_outside_of_it() -> None:
    network = Chain(True)
    output, weight = network.block(network.first(_image())), network.one.weight.detach()

    def loss(weight: Tensor) -> Tensor:
        return ops.conv2d(output, weight).square().sum()

    (expected,) = torch.autograd.grad(loss(network.one.weight), network.one.weight)
    torch.testing.assert_close(grad(loss)(weight), expected)
    mapped = vmap(grad(loss))(torch.stack([weight, weight]))
    torch.testing.assert_close(mapped, torch.stack([expected, expected]), rtol=1e-4, atol=1e-4)


def test_of_frozen_layers_nothing_is_kept_in_place_of_the_output() -> None:
    network = Chain(True).requires_grad_(False)
    network.one.weight.requires_grad_()
    output = network.block(network.first(_image().detach()))
    assert recipe_of(output) is None


def test_batched_gradients() -> None:
    network, image = Chain(True), _image()
    output = network(image)
    directions = torch.randn(3, *output.shape)
    wanted = [image, *network.parameters()]
    batched = torch.autograd.grad(
        output, wanted, directions, is_grads_batched=True, retain_graph=True
    )
    for k, direction in enumerate(directions):
        alone = torch.autograd.grad(output, wanted, direction, retain_graph=True)
        for ours, theirs in zip(batched, alone, strict=True):
            torch.testing.assert_close(ours[k], theirs, rtol=1e-4, atol=1e-4)


def test_autocast() -> None:
    results = []
    for recompute in (False, True):
        network, image = Chain(recompute), _image()
        with torch.autocast("cpu", torch.bfloat16):
            output = network(image)
        assert output.dtype == torch.bfloat16
        results.append(torch.autograd.grad(output.sum(), [*network.parameters()]))
        if recompute:
            assert network.seen is not None
            assert network.seen() is None
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_a_file_with_an_output_has_no_recipe_and_can_be_read() -> None:
    output = Chain(True).block(_image().new_ones(2, 4, 3, 3).requires_grad_())
    assert recipe_of(output) is not None
    file = io.BytesIO()
    torch.save(output, file)
    file.seek(0)
    read = torch.load(file, weights_only=True)
    assert torch.equal(read, output)
    assert recipe_of(read) is None


def test_only_readers_of_ours_ask_for_it() -> None:
    """torch's own operations keep the tensor as ever."""
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    calls = []
    y = recomputable(x.exp(), lambda x: calls.append(1) or x.exp(), (x,))
    (theirs,) = torch.autograd.grad(F.conv2d(y, torch.ones(1, 3, 1, 1)).sum(), x, retain_graph=True)
    assert not calls
    weight = torch.ones(1, 3, 1, 1, requires_grad=True)
    ours, _ = torch.autograd.grad(ops.conv2d(y, weight).sum(), (x, weight))
    assert calls == [1]
    torch.testing.assert_close(ours, theirs)
