"""Converted networks compute what stands there, whatever somebody replaces, wraps, shares or calls apart."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cnnexp.nn import (
    BatchNormAct2d,
    ConvReLUPool,
    ConvTanhPool,
    per_sample_gradients,
    replace_layers,
)
from cnnexp.nn.done import Done
from cnnexp.tuning import choose_algorithms, pin_algorithms

HEADS = (ConvReLUPool, ConvTanhPool, BatchNormAct2d)


def _conv() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))


def _tanh() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2))


def _norm() -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2))


def _silu() -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(3), nn.SiLU())


NETWORKS = {"conv": _conv, "tanh": _tanh, "norm": _norm, "silu": _silu}
every_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)


class Twice(nn.Module):
    """A wrapper that does more to the layer's output."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, input: Tensor) -> Tensor:
        return 2 * self.base(input) - 1


def _another(layer: nn.Module) -> nn.Module:
    torch.manual_seed(7)
    if isinstance(layer, nn.Conv2d):
        return nn.Conv2d(3, layer.out_channels, 3, padding=1)
    return nn.BatchNorm2d(3).requires_grad_(False)


EDITS: dict[str, Callable[[nn.Sequential], None]] = {
    "first layer replaced": lambda net: net.__setitem__(0, _another(net[0])),
    "first layer wrapped": lambda net: net.__setitem__(0, Twice(net[0])),
    "activation replaced": lambda net: net.__setitem__(1, nn.GELU()),
    "activation taken out": lambda net: net.__setitem__(1, nn.Identity()),
    "last replaced": lambda net: net.__setitem__(len(net) - 1, nn.Identity()),
    "last deleted": lambda net: net.__delitem__(len(net) - 1),
    "nothing": lambda net: None,
}


def _pair(make: Callable[[], nn.Sequential]) -> tuple[nn.Sequential, nn.Sequential, Tensor]:
    """The same network of torch's layers and converted, and what it takes."""
    torch.manual_seed(0)
    plain = make()
    ours = replace_layers(copy.deepcopy(plain), "fused", quiet=True)
    assert isinstance(ours[0], HEADS)
    assert isinstance(ours[1], Done)
    return plain, ours, torch.randn(2, 3, 8, 8)


def _agree(plain: nn.Module, ours: nn.Module, image: Tensor) -> None:
    results = []
    for network in (plain, ours):
        x = image.clone().requires_grad_()
        y = network(x)
        network.zero_grad()
        y.square().sum().backward()
        grads = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
        results.append([y, x.grad, *[grads[n] for n in sorted(grads)]])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@every_network
def test_what_stands_there_is_computed(
    make: Callable[[], nn.Sequential], edit: Callable[[nn.Sequential], None]
) -> None:
    plain, ours, image = _pair(make)
    for network in (plain, ours):
        edit(network)
    _agree(plain, ours, image)
    _agree(plain, ours, image)  # as what it is from then on
    replace_layers(ours, "fused", quiet=True)
    _agree(plain, ours, image)
    _agree(plain, replace_layers(ours, "native", quiet=True), image)
    assert not any(isinstance(layer, Done) for layer in ours.modules())


@every_network
def test_a_block_is_kept_as_long_as_nothing_changes(make: Callable[[], nn.Sequential]) -> None:
    _, ours, image = _pair(make)
    kind = type(ours[0])
    for network in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        network(image)
        assert type(network[0]) is kind
        assert isinstance(network[1], Done)


def test_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    _, ours, image = _pair(_conv)
    ours[1] = nn.GELU()
    with caplog.at_level(logging.WARNING):
        ours(image)
        ours(image)
    (said,) = caplog.messages
    assert said.startswith(
        "ConvReLUPool is Conv2d again: another layer stands in its place, or in "
    )


@every_network
def test_copies_change_by_themselves(make: Callable[[], nn.Sequential]) -> None:
    plain, ours, image = _pair(make)
    other = copy.deepcopy(ours)
    changed = copy.deepcopy(plain)
    changed[1], other[1] = nn.GELU(), nn.GELU()
    _agree(changed, other, image)
    kind = type(ours[0])
    _agree(plain, ours, image)
    assert type(ours[0]) is kind
    assert not isinstance(other[0], HEADS)


@every_network
def test_a_slice_from_after_the_conversion_may_be_converted_back(
    make: Callable[[], nn.Sequential],
) -> None:
    plain, ours, image = _pair(make)
    part = nn.Sequential(*ours)
    _agree(plain, part, image)
    replace_layers(part, "native", quiet=True)
    _agree(plain, part, image)
    _agree(plain, ours, image)


@every_network
def test_layers_in_another_container_are_still_a_block(make: Callable[[], nn.Sequential]) -> None:
    plain, ours, image = _pair(make)
    other = nn.Sequential(*ours)
    kind = type(ours[0])
    del ours
    gc.collect()
    _agree(plain, other, image)
    assert type(other[0]) is kind


@every_network
def test_layers_that_are_renamed_are_still_a_block(make: Callable[[], nn.Sequential]) -> None:
    plain, ours, image = _pair(make)
    kind = type(ours[0])
    for network in (plain, ours):
        network.insert(0, nn.Identity())
        network.append(nn.Dropout(0.0))
    _agree(plain, ours, image)
    assert type(ours[1]) is kind
    for network in (plain, ours):
        del network[0]
    _agree(plain, ours, image)
    assert type(ours[0]) is kind
    for network in (plain, ours):
        network.insert(1, nn.Sigmoid())  # within
    _agree(plain, ours, image)
    assert not isinstance(ours[0], HEADS)


def test_a_part_that_stands_in_two_places_is_computed_in_the_other() -> None:
    """As a pooling that is called again behind the block, by a sequence or by the network's own code."""
    torch.manual_seed(0)
    pool, tanh = nn.MaxPool2d(2), nn.Tanh()
    for plain in (
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), pool, pool),
        nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), tanh, tanh),
    ):
        ours = replace_layers(copy.deepcopy(plain), "fused", quiet=True)
        _agree(plain, ours, torch.randn(2, 3, 8, 8))


@every_network
def test_outputs_in_between_may_be_copied(make: Callable[[], nn.Sequential]) -> None:
    """As code that steps through a network and moves what it gets to another device."""
    if make in (_norm, _silu):
        pytest.skip("an activation that gets another tensor than the normalisation gave computes")
    plain, ours, image = _pair(make)
    x, y = image, image
    for one, other in zip(plain, ours, strict=True):
        x, y = one(x), other(y).clone()
    torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


class Lists(nn.Module):
    """A network whose normalisations and activations stand in lists."""

    def __init__(self) -> None:
        super().__init__()
        self.norms, self.acts = nn.ModuleList([nn.BatchNorm2d(3)]), nn.ModuleList([nn.SiLU()])

    def forward(self, x: Tensor) -> Tensor:
        return self.acts[0](self.norms[0](x))


def test_copies_of_lists_leave_the_original_alone() -> None:
    torch.manual_seed(0)
    plain, image = Lists(), torch.randn(2, 3, 8, 8)
    ours = replace_layers(copy.deepcopy(plain), "fused", quiet=True)
    other = copy.deepcopy(ours)
    _agree(plain, other, image)
    _agree(plain, ours, image)
    assert isinstance(other.norms[0], BatchNormAct2d)


@every_network
def test_a_layer_that_is_pickled_takes_no_network_along(make: Callable[[], nn.Sequential]) -> None:
    _, ours, image = _pair(make)
    ours.more = nn.Linear(1000, 1000)
    assert len(pickle.dumps(ours[0])) < 100_000
    assert pickle.loads(pickle.dumps(ours[0]))(image).shape == ours[0](image).shape


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@every_network
def test_who_counts_on_blocks_finds_those_that_are_there(
    make: Callable[[], nn.Sequential], edit: Callable[[nn.Sequential], None]
) -> None:
    plain, ours, image = _pair(make)
    for network in (plain, ours):
        edit(network)

    def loss(output: Tensor, _: Tensor) -> Tensor:
        return output.square().sum()

    if not any(isinstance(layer, nn.BatchNorm2d) for layer in plain.modules()):
        found = per_sample_gradients(ours, loss, (image, torch.zeros(2)))
        right = per_sample_gradients(plain, loss, (image, torch.zeros(2)))
        for name, grads in right.items():
            torch.testing.assert_close(found[name], grads, rtol=1e-4, atol=1e-4)
    again = replace_layers(_pair(make)[0], "auto", quiet=True)
    edit(again)
    pin_algorithms(again, choose_algorithms(again, image))
    _agree(plain, again, image)


def test_a_network_goes_when_nobody_has_it() -> None:
    gc.collect()
    gc.disable()
    try:
        _, ours, image = _pair(_conv)
        ours(image)
        weight = ours[0].weight
        import weakref

        gone = weakref.ref(ours)
        del ours
        assert gone() is None
        assert weight.shape == (8, 3, 3, 3)
    finally:
        gc.enable()


@pytest.mark.parametrize("by", ["convert", "replace"])
@pytest.mark.parametrize("first", [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(3)], ids=["conv", "norm"])
def test_hooks_on_what_a_block_computes_stay_when_it_is_split(first: nn.Module, by: str) -> None:
    network = nn.Sequential(copy.deepcopy(first), nn.ReLU(), nn.MaxPool2d(2))
    ours = replace_layers(network, "fused", quiet=True).eval()
    seen: list[str] = []
    handles = [
        ours[place].register_forward_hook(lambda layer, *_: seen.append(type(layer).__name__))
        for place in (1, 2)
    ]
    if by == "convert":
        replace_layers(ours, "direct", quiet=True)
    else:
        ours[0] = copy.deepcopy(first)
    image = torch.randn(2, 3, 6, 6)
    ours(image)
    names = {"convert": ["ReLU", "MaxPool2d"], "replace": seen}[by]
    assert (len(seen), seen) == (2, names)
    handles[0].remove()
    ours(image)
    assert len(seen) == 3
