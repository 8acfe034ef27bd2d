"""Runs of linear layers and activations as one op each, in every habit of those who own the network."""

from __future__ import annotations

import copy
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations, prune

import cnnexp
from cnnexp.kernels.cpu import linear_act as kernels
from cnnexp.nn import replace_layers, split_blocks
from cnnexp.nn.linear import Linear, LinearAct
from cnnexp.nn.sequence import FusedSequential
from cnnexp.ops.fused_linear import of_parameters
from tests.ops.counting import count_calls


def head() -> nn.Sequential:
    """Runs of three layers, of one, and of two, behind each other."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(36, 48),
        nn.ReLU(inplace=True),
        nn.Linear(48, 32),
        nn.Tanh(),
        nn.Linear(32, 20),
        nn.ReLU(),
        nn.Dropout(0.0),
        nn.Linear(20, 24),
        nn.Tanh(),
        nn.Linear(24, 7),
    )


def draw(count: int = 12) -> Tensor:
    return torch.randn(count, 4, 3, 3, generator=torch.Generator().manual_seed(1))


def _results(network: nn.Module, images: Tensor | None = None) -> list[Tensor]:
    """Output and gradients of a pass."""
    images = (draw() if images is None else images).clone().requires_grad_()
    network.zero_grad()
    output = network(images)
    output.square().sum().backward()
    grads = [torch.zeros(()) if p.grad is None else p.grad for p in network.parameters()]
    assert images.grad is not None
    return [output.detach(), images.grad, *grads]


def agree(one: nn.Module, other: nn.Module) -> None:
    torch.testing.assert_close(_results(one), _results(other), rtol=1e-4, atol=1e-5)


def _calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of the kernels from now on."""
    calls: list[str] = []
    for name in ("forward", "backward"):
        count_calls(monkeypatch, kernels, name, calls)
    return calls


def test_runs_become_one_op_each_and_are_split_again(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = head()
    ours = replace_layers(copy.deepcopy(theirs), "fused")
    assert ours.__class__ is FusedSequential
    assert [name for name, layer in ours.named_modules() if isinstance(layer, LinearAct)] == [
        "1",
        "8",
    ]
    assert [n for n, _ in ours.named_modules()] == [n for n, _ in theirs.named_modules()]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    calls = _calls(monkeypatch)
    agree(ours, theirs)
    assert calls == ["forward"] * 2 + ["backward"] * 2
    assert replace_layers(ours, "native").__class__ is nn.Sequential
    assert not [layer for layer in ours.modules() if isinstance(layer, LinearAct)]
    agree(ours, theirs)
    assert len(calls) == 4


def test_one_sequence_within_another_and_their_own_class() -> None:
    class Own(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + 1

    theirs = nn.Sequential(
        nn.Flatten(), nn.Sequential(nn.Linear(36, 16), nn.ReLU()), Own(nn.Linear(16, 16), nn.ReLU())
    )
    ours = replace_layers(copy.deepcopy(theirs), "fused")
    assert [type(layer) for layer in ours.modules() if isinstance(layer, nn.Sequential)] == [
        *(nn.Sequential, FusedSequential, Own)
    ]
    agree(ours, theirs)


def _slice(network: nn.Sequential) -> nn.Module:
    return network[:4]


def _child_by_child(network: nn.Sequential) -> nn.Module:
    class Walk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole = network

        def forward(self, input: Tensor) -> Tensor:
            for layer in self.whole:
                input = layer(input)
            return input

    return Walk()


def _other_last_layer(network: nn.Sequential) -> nn.Module:
    torch.manual_seed(3)
    network[10] = nn.Linear(24, 3)
    network[3] = nn.Linear(48, 32)
    return network


def _longer(network: nn.Sequential) -> nn.Module:
    torch.manual_seed(3)
    network.append(nn.Tanh()).append(nn.Linear(7, 2))
    del network[2]
    return network


def _frozen(network: nn.Sequential) -> nn.Module:
    network[1].requires_grad_(False)
    network[3].bias.requires_grad_(False)
    return network


def _parametrised(network: nn.Sequential) -> nn.Module:
    torch.manual_seed(3)  # which the other draws from
    parametrizations.weight_norm(network[1])
    parametrizations.orthogonal(network[3])
    return network


def _pruned(network: nn.Sequential) -> nn.Module:
    prune.l1_unstructured(network[3], "weight", 0.5)
    return network


def _without_bias(network: nn.Sequential) -> nn.Module:
    network[3].register_parameter("bias", None)
    return network


HABITS: dict[str, Callable[[nn.Sequential], Any]] = {
    "a slice": _slice,
    "child by child": _child_by_child,
    "another last layer": _other_last_layer,
    "appended and deleted": _longer,
    "frozen": _frozen,
    "parametrised": _parametrised,
    "pruned": _pruned,
    "no bias": _without_bias,
    "in float64": lambda network: network.double().float(),
    "copied": copy.deepcopy,
    "pickled": lambda network: pickle.loads(pickle.dumps(network)),
    "traced by fx": lambda network: fx.symbolic_trace(network),
    "compiled": lambda network: torch.compile(network, backend="aot_eager", fullgraph=True),
    "in another sequence": lambda network: nn.Sequential(
        OrderedDict(first=network[:6], rest=network[6:])
    ),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("habit", HABITS)
def test_habits(habit: str, when: str) -> None:
    theirs, ours = head(), head()
    if when == "after":
        replace_layers(ours, "fused", quiet=True)
        _results(ours)  # what is looked up has been looked up
    changed = HABITS[habit](theirs), HABITS[habit](ours)
    if when == "before" and not isinstance(changed[1], fx.GraphModule):
        replace_layers(changed[1], "fused", quiet=True)
    agree(changed[1], changed[0])


@pytest.mark.parametrize("when", ["before", "after"])
def test_hooks_see_what_each_layer_gives(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours, seen = head(), head(), dict[str, list[Tensor]]()
    if when == "after":
        replace_layers(ours, "fused")
    handles: list[Any] = []
    for name, network in (("theirs", theirs), ("ours", ours)):
        outputs = seen.setdefault(name, [])
        for place in (1, 4, 10):
            hook = lambda _m, _i, output, outputs=outputs: outputs.append(output.detach().clone())  # noqa: E731
            handles.append(network[place].register_forward_hook(hook))
    if when == "before":
        replace_layers(ours, "fused")
    agree(ours, theirs)
    torch.testing.assert_close(seen["ours"], seen["theirs"])
    for handle in handles:
        handle.remove()
    if when == "after":
        calls = _calls(monkeypatch)
        agree(ours, theirs)
        assert calls == ["forward"] * 2 + ["backward"] * 2


def test_what_stands_in_several_places_or_is_too_narrow_is_left_alone() -> None:
    shared, act = nn.Linear(16, 16), nn.ReLU()
    network = nn.Sequential(
        nn.Sequential(shared, nn.ReLU(), shared),
        nn.Sequential(nn.Linear(16, 16), act, nn.Linear(16, 16), act),
        nn.Sequential(nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 16)),
        nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)),
        nn.Sequential(nn.Linear(16, 16), nn.GELU()),
        nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.0), nn.ReLU()),
        nn.Sequential(nn.LazyLinear(16), nn.ReLU()),
    )
    images = torch.randn(9, 16)
    network[6](images)
    expected = _results(network, images)
    replace_layers(network, "fused")
    kinds = [type(layer) for layer in network]
    assert kinds == [nn.Sequential] * 6 + [FusedSequential]
    torch.testing.assert_close(_results(network, images), expected, rtol=1e-4, atol=1e-5)
    split_blocks(network)
    assert {type(layer) for layer in network} == {nn.Sequential}


def test_functional_call_takes_the_given_parameters() -> None:
    ours, theirs = replace_layers(head(), "fused"), head()
    given = {name: p.detach() * 1.5 for name, p in ours.named_parameters()}
    found = torch.func.functional_call(ours, given, (draw(),))
    torch.testing.assert_close(found, torch.func.functional_call(theirs, given, (draw(),)))


def test_gradients_of_each_sample() -> None:
    ours, theirs = replace_layers(head(), "fused"), head()
    target = torch.arange(12) % 7
    found, expected = (
        cnnexp.nn.per_sample_gradients(each, nn.functional.cross_entropy, (draw(), target))
        for each in (ours, theirs)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_files_of_the_whole_network_load() -> None:
    ours, file = replace_layers(head(), "fused"), io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    agree(torch.load(file, weights_only=False), ours)


def test_a_network_that_recomputes_keeps_its_layers() -> None:
    network = replace_layers(head(), "fused", recompute=True)
    assert {type(layer) for layer in network if isinstance(layer, nn.Linear)} == {Linear}
    agree(network, head())


def test_a_layer_with_an_algorithm_of_its_own_is_computed_by_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = replace_layers(head(), "fused")
    replace_layers(network[3], "native")
    calls = _calls(monkeypatch)
    agree(network, head())
    assert calls[:3] == ["forward"] * 3  # of layers 1 and 2, of 5 and 6, and of 8 to 10
    replace_layers(network[1], "direct")
    calls.clear()
    agree(network, head())
    assert calls[:2] == ["forward"] * 2


def test_hooks_of_all_modules_see_every_layer() -> None:
    network, seen = replace_layers(head(), "fused"), list[nn.Module]()
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        network(draw())
    finally:
        handle.remove()
    assert [module for module in seen if module is not network] == list(network.children())


def test_a_slice_has_a_layer_of_several_places_as_often() -> None:
    act = nn.GELU()
    network = nn.Sequential(
        *(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), act, nn.Linear(32, 32), act)
    )
    replace_layers(network, "fused")
    assert isinstance(network, FusedSequential)
    assert len(network[:]) == 6
    assert network[3:][2] is network[5]


def test_what_waits_for_functions_is_computed_before_a_run() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.activates = nn.Conv2d(2, 4, 3), True
            self.head = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))

        def forward(self, input: Tensor) -> Tensor:
            x = self.conv(input)
            if self.activates:
                x = nn.functional.relu(x)
                x = nn.functional.max_pool2d(x, 2, 1)
            return self.head(x)

    torch.manual_seed(0)
    theirs = Net()
    theirs.head[0] = nn.Linear(16, 32)
    ours = replace_layers(copy.deepcopy(theirs), "fused", functions=True)
    for network in (theirs, ours):
        network.activates = False
    images = torch.randn(3, 2, 10, 18)
    _agree_on(ours, theirs, images)


def _agree_on(one: nn.Module, other: nn.Module, images: Tensor) -> None:
    found, expected = _results(one, images), _results(other, images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_what_is_converted_again_is_looked_up_again() -> None:
    network = replace_layers(head(), "fused")
    agree(network, head())
    replace_layers(network[1], "fused")  # a linear layer by itself now
    agree(network, head())
    split_blocks(network[8])
    agree(network, head())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "width"), [(0, 32), (3, 5), (12, 32)])
def test_weighted_gradients_of_any_batch(dtype: torch.dtype, count: int, width: int) -> None:
    torch.manual_seed(0)
    g, x, w = (torch.randn(size).to(dtype) for size in ((count, 4), (count, width), (4, width)))
    expected = g.double().t() @ x.double(), g.double().sum(0)
    for found, exact in zip(of_parameters(g, x, w), expected, strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), exact, rtol=0.02, atol=0.02)
