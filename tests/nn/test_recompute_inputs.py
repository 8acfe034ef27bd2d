"""Sums of residual blocks, products and parts that a backward computes again: the same bits, less memory."""

from __future__ import annotations

import copy
import gc
import io
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional as F

from cnnexp.nn import replace_layers, split_blocks
from cnnexp.nn.conv import Conv2d
from cnnexp.nn.norm import BatchNormAct2d
from cnnexp.ops.recomputed import recipe_of
from cnnexp.tuning.memory import saved_bytes
from tests.nn.residual import NETWORKS, RESIDUAL, Block, Functions, Parted, Squeezed, residual
from tests.ops.savers import by_checkpoint, kept_elsewhere, reentrant

every_network = pytest.mark.parametrize("name", NETWORKS)


def _image(**options: torch.dtype | torch.memory_format) -> Tensor:
    image = torch.randn(3, 3, 10, 8, generator=torch.Generator().manual_seed(1))
    return image.to(**options).requires_grad_()  # pyright: ignore[reportArgumentType, reportCallIssue]


def _both(network: nn.Module) -> tuple[nn.Module, nn.Module]:
    functions = any(isinstance(each, (Functions, _Changed)) for each in network.modules())
    plain, again = (
        replace_layers(
            copy.deepcopy(network), "fused", recompute=recompute, functions=functions, quiet=True
        )
        for recompute in (False, True)
    )
    return plain, again


def _results(network: nn.Module, image: Tensor) -> list[Tensor]:
    output = network(image)
    grads = torch.autograd.grad(output.float().square().sum(), [image, *network.parameters()])
    return [output.detach(), *grads, *(each.clone() for each in network.buffers())]


def _same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


def _kept(network: nn.Module, image: Tensor) -> int:
    return saved_bytes(lambda: network(image), [*network.parameters(), *network.buffers()])


@every_network
@pytest.mark.parametrize("training", [True, False])
def test_the_same_bits_and_less_is_kept(name: str, training: bool) -> None:
    plain, again = (each.train(training) for each in _both(NETWORKS[name]()))
    for layout in (torch.contiguous_format, torch.channels_last):
        image = _image(memory_format=layout)
        _same(_results(again, image), _results(plain, image))
    assert _kept(again, _image()) < _kept(plain, _image())


@pytest.mark.parametrize("kind", RESIDUAL)
def test_of_a_residual_block_the_inputs_of_its_normalisations_are_kept(kind: str) -> None:
    one, two = (_both(residual(RESIDUAL[kind], blocks))[1] for blocks in (3, 4))
    more = _kept(two, _image(dtype=torch.float32)) - _kept(one, _image())
    maps = 2 * 3 * 4 * 5 * 4 * 4  # two maps of three images, 4 × 5 × 4 numbers of four bytes
    assert maps <= more < 1.1 * maps  # and copies of γ, β, μ and σ²


def test_the_product_is_not_kept() -> None:
    plain, again = _both(Squeezed())
    difference = _kept(plain, _image()) - _kept(again, _image())
    assert difference == 3 * 4 * 8 * 6 * 4  # the product; the normalisation's output is its factor


def test_of_a_part_the_whole_is_not_kept() -> None:
    plain, again = _both(Parted())
    names = {n: m.reads for n, m in again.named_modules() if isinstance(m, Conv2d) and m.reads}
    assert names == {"branch": "part"}
    assert _kept(plain, _image()) - _kept(again, _image()) >= 3 * 4 * 10 * 8 * 4


@every_network
def test_split_blocks_takes_all_of_it_back(name: str) -> None:
    again = _both(NETWORKS[name]())[1]
    split_blocks(again)
    for layer in again.modules():
        assert not getattr(layer, "recompute", False)
        assert getattr(layer, "reads", None) is None
        assert not isinstance(layer, BatchNormAct2d)
    replace_layers(again, "native", quiet=True)
    expected = _results(NETWORKS[name]().train(), _image())
    for ours, theirs in zip(_results(again, _image()), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_of_many_blocks_some_outputs_are_kept() -> None:
    """So that the lists of tensors that lead to one stay short; the bits are the same."""
    plain, again = _both(residual(Block, 20))
    _same(_results(again, _image()), _results(plain, _image()))
    depths = []

    def see(_layer: nn.Module, _inputs: object, output: Tensor) -> None:
        recipe = recipe_of(output)
        depths.append(0 if recipe is None else recipe.depth)

    for layer in again.modules():
        if isinstance(layer, Block):
            layer.register_forward_hook(see)
    again(_image())
    assert max(depths) == 8
    assert depths[:9].count(0) == 1


@every_network
@pytest.mark.parametrize("training", [True, False])
def test_second_derivatives(name: str, training: bool) -> None:
    network = _both(NETWORKS[name]())[1].double().train(training)
    names = [name for name, _ in network.named_parameters()]
    image = _image(dtype=torch.float64).detach()[:2, :, :6, :6].requires_grad_()

    def function(input: Tensor, *parameters: Tensor) -> Tensor:
        state = dict(zip(names, parameters, strict=True))
        buffers = {name: b.clone() for name, b in network.named_buffers()}
        return functional_call(network, {**state, **buffers}, (input,)).sin()

    inputs = image, *network.parameters()
    torch.autograd.gradcheck(function, inputs, fast_mode=True)
    torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@every_network
def test_a_second_backward_and_one_of_a_part_of_the_graph(name: str) -> None:
    plain, again = _both(NETWORKS[name]())
    found = []
    for network in (plain, again):
        image = _image()
        loss = network(image).square().sum()
        some = [*network.parameters()][:2]
        grads = list(torch.autograd.grad(loss, some, retain_graph=True))
        every = [image, *network.parameters()]
        grads += torch.autograd.grad(loss, every, create_graph=True)
        grads += torch.autograd.grad(loss, every, retain_graph=True)
        found.append(grads + list(torch.autograd.grad(loss, every)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_what_was_computed_again_is_let_go() -> None:
    again = _both(residual(Block))[1]
    made: list[weakref.ref[Tensor]] = []
    loss = again(_image()).square().sum()
    compute = torch.Tensor.clamp_min_

    def seen(total: Tensor, bound: float) -> Tensor:
        made.append(weakref.ref(total))
        return compute(total, bound)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "clamp_min_", seen)
        loss.backward()
    gc.collect()
    assert len(made) == 4  # each sum once, though several read it
    assert not any(each() is not None for each in made)


@every_network
@pytest.mark.parametrize("run", [by_checkpoint, reentrant, kept_elsewhere])
def test_with_what_else_saves_memory(name: str, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
    network, image = _both(NETWORKS[name]())[1].eval(), _image()
    wanted = [image, *network.parameters()]
    expected = torch.autograd.grad(network(image).square().sum(), wanted)
    run(network, image).square().sum().backward()
    for each, theirs in zip(wanted, expected, strict=True):
        assert each.grad is not None
        assert torch.equal(each.grad, theirs)


@every_network
def test_frozen_layers_autocast_and_transforms(name: str) -> None:
    plain, again = _both(NETWORKS[name]())
    results = []
    for network in (plain, again):
        for parameter in [*network.parameters()][:3]:
            parameter.requires_grad_(False)
        learns = [each for each in network.parameters() if each.requires_grad]
        with torch.autocast("cpu", torch.bfloat16):
            output = network(_image().detach())
        results.append([output, *torch.autograd.grad(output.float().square().sum(), learns)])
    _same(results[1], results[0])
    state = {name: each.detach() for name, each in again.eval().named_parameters()}
    image = _image().detach()

    def loss(state: dict[str, Tensor]) -> Tensor:
        return functional_call(again, state, (image,)).square().sum()

    names, parameters = zip(*again.requires_grad_(True).named_parameters(), strict=True)
    expected = dict(
        zip(
            names,
            torch.autograd.grad(loss(dict(again.named_parameters())), parameters),
            strict=True,
        )
    )
    for key, ours in grad(loss)(state).items():
        torch.testing.assert_close(ours, expected[key])


@every_network
def test_compiled_exported_copied_and_pickled(name: str) -> None:
    network, image = _both(NETWORKS[name]())[1].eval(), _image().detach()
    expected = network(image).detach()
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(network), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image).detach(), expected)
    torch.testing.assert_close(torch.export.export(network, (image,)).module()(image), expected)
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    read = torch.load(file, weights_only=False)
    _same(_results(read, _image()), _results(copy.deepcopy(network), _image()))


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated")
@every_network
@pytest.mark.parametrize("autocast", [False, True])
def test_a_trace_of_jit_can_be_saved(name: str, autocast: bool) -> None:
    """With gradients, which a recorded Function of ours would not give away."""
    network, image = _both(NETWORKS[name]())[1].float(), _image().float()
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(3))
    whole = nn.Sequential(network, head)
    whole(image)
    replace_layers(head, "fused", recompute=True, quiet=True)
    whole.eval()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False):
        traced: Any = torch.jit.trace(whole, image)
        file = io.BytesIO()
        torch.jit.save(traced, file)
        file.seek(0)
        again = torch.jit.load(file)
        torch.testing.assert_close(again(image), whole(image), rtol=2e-2, atol=2e-2)


class _Changed(Block):
    """Blocks whose sums are not what they look like at first sight."""

    def __init__(self, change: Callable[[Tensor], Tensor], functions: bool) -> None:
        super().__init__(4)
        self.change, self.after = change, nn.Conv2d(4, 2, 1)
        self.activate = F.relu if functions else nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.after(self.activate(self.change(self.bn2(self.conv2(out))) + x))


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "added to once more": lambda y: y + y.sin(),
    "doubled": lambda y: y * 2,
    "doubled in place": lambda y: y.mul_(2),
    "a row, broadcast": lambda y: y[:, :, :1],
    "of another precision": lambda y: y.double(),
    "detached from its graph": lambda y: 0 * y + y.detach(),
    "through numpy": lambda y: y + torch.from_numpy(y.detach().numpy() * 0),
    "dropped at random": lambda y: nn.functional.dropout(y, 0.5, True),
}


@pytest.mark.parametrize("functions", [False, True])
@pytest.mark.parametrize("name", CHANGES)
def test_an_operand_that_was_changed_is_not_taken_for_another(name: str, functions: bool) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.block = _Changed(CHANGES[name], functions)
            self.start = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.block(self.start(x)).float()

    network = Network()
    if name == "of another precision":
        network.block.after.double()
    plain, again = _both(network)
    found = []
    for each in (plain, again):
        torch.manual_seed(5)
        found.append(_results(each, _image()))
    _same(found[1], found[0])


def test_a_sum_in_place_of_what_a_frozen_convolution_read_is_kept() -> None:
    """That keeps nothing, so that nobody else minds the writing."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.start, self.end = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
            self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.relu = nn.ReLU()
            self.conv.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            x = self.start(x).tanh() * 1
            y = self.bn(self.conv(x))
            x += y
            return self.end(self.relu(x))

    found = []
    for network in _both(Network()):
        learns = [each for each in network.parameters() if each.requires_grad]
        output = network(_image())
        found.append([output, *torch.autograd.grad(output.square().sum(), learns)])
    _same(found[1], found[0])


def test_what_was_noted_does_not_outlive_the_graph() -> None:
    again = _both(residual(Block))[1]
    block = next(each for each in again.modules() if isinstance(each, Block))
    inner: list[weakref.ref[Tensor]] = []

    def see(_layer: nn.Module, _inputs: object, output: Tensor) -> None:
        inner.append(weakref.ref(output))

    block.conv2.register_forward_hook(see)
    again(_image()).square().sum().backward()
    gc.collect()
    assert [each() for each in inner] == [None]
