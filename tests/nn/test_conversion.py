"""Layers that are dressed, lazy, shared or somebody's own: converted, or said to stay torch's."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import cnnexp.nn
import cnnexp.tuning
from cnnexp import ops
from cnnexp.nn.twins import become, plain_class
from cnnexp.tuning import auto, measure
from tests.conftest import ROOT
from tests.nn.test_checkpoint import fake_times

WAYS = ["direct", "im2col", "fused", "native", "auto"]


class _Half(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight * 2


DRESSED: dict[str, Callable[[nn.Module], Any]] = {
    "spectral_norm": parametrizations.spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "register_parametrization": lambda m: parametrize.register_parametrization(
        m, "weight", _Half()
    ),
    "two": lambda m: (
        parametrize.register_parametrization(m, "weight", _Half()),
        parametrize.register_parametrization(m, "bias", _Half()),
    ),
    "spectral_norm, old": spectral_norm,
    "weight_norm, old": weight_norm,
    "pruned": lambda m: prune.l1_unstructured(m, "weight", 0.4),
}
WEIGHTED: dict[str, tuple[Any, ...]] = {
    "Conv2d": (2, 4, 3),
    "Linear": (6, 3),
    "BatchNorm2d": (2,),
    "ConvReLUPool": (2, 4, 3),
}
ONE_DIMENSION = ("register_parametrization", "two", "pruned")  # what fits γ of a normalisation


def _dressed_cases() -> list[Any]:
    return [
        pytest.param(name, dress, id=f"{name}-{dress}")
        for name in WEIGHTED
        for dress in DRESSED
        if name != "BatchNorm2d" or dress in ONE_DIMENSION
    ]


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize(("name", "dress"), _dressed_cases())
def test_dressed_layers_are_converted_and_can_be_undressed(name: str, dress: str) -> None:
    image = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    if name == "ConvReLUPool":
        plain = nn.Sequential(nn.Conv2d(*WEIGHTED[name]), nn.ReLU(), nn.MaxPool2d(2)).double()
    else:
        plain = nn.Sequential(getattr(nn, name)(*WEIGHTED[name])).double()
    network = copy.deepcopy(plain)
    if name == "ConvReLUPool":  # fused first, then dressed
        cnnexp.nn.replace_layers(network, "fused")
    for each in (plain, network):
        torch.manual_seed(3)  # the power iteration begins at random
        DRESSED[dress](each[0])
    state, names = plain.state_dict(), [n for n, _ in plain.named_modules()]
    state = {key: value.clone() for key, value in state.items()}
    expected = _step(plain, image)
    ours = cnnexp.nn.Conv2d if name == "ConvReLUPool" else getattr(cnnexp.nn, name)
    for way in WAYS[:-1]:
        cnnexp.nn.replace_layers(network, way)
        assert plain_class(network[0]) in (ours, cnnexp.nn.ConvReLUPool)
        assert [n for n, _ in network.named_modules()] == names
        assert network.state_dict().keys() == state.keys()
        network.load_state_dict(state)
        torch.testing.assert_close(_step(network, image), expected)
        op = plain_class(network[0]).op  # pyright: ignore[reportAttributeAccessIssue]
        assert network[0].algorithm == ops.resolve_algorithm(op, way)
    if parametrize.is_parametrized(network[0]):
        assert plain_class(network[0]) is not type(network[0])
        twin = copy.deepcopy(network)
        for attribute in list(network[0].parametrizations):  # pyright: ignore[reportArgumentType, reportCallIssue]
            parametrize.remove_parametrizations(network[0], attribute)
        assert type(network[0]) is ours
        assert parametrize.is_parametrized(twin[0])


def _step(network: nn.Module, image: Tensor) -> list[Tensor]:
    """Output, gradients and buffers, as the network is now."""
    state = copy.deepcopy(network.state_dict())
    output = network(image)
    parameters = list(network.parameters())
    grads = torch.autograd.grad(output.square().sum(), parameters)
    buffers = [b.detach().clone() for b in network.buffers()]
    network.load_state_dict(state)
    return [output.detach(), *grads, *buffers]


def test_a_copy_that_shares_a_parametrised_class_stays_what_it_is() -> None:
    network = nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(1, 2, 3)))
    twin = copy.deepcopy(network)
    cnnexp.nn.replace_layers(twin, "direct")
    assert isinstance(twin[0], cnnexp.nn.Conv2d)
    assert not isinstance(network[0], cnnexp.nn.Conv2d)
    assert not isinstance(network[0], cnnexp.nn.Layer)
    become(twin[0], nn.Conv2d)
    assert not isinstance(twin[0], cnnexp.nn.Layer)
    twin(torch.randn(1, 1, 4, 4))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize("way", WAYS)
def test_lazy_layers_become_ours_at_the_first_pass(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNEXP_CACHE", str(tmp_path))
    monkeypatch.setattr(measure, "interleaved_times", fake_times())
    auto.forget()

    def make() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.LazyConv2d(3, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)
        )

    image, expected, network = torch.randn(2, 1, 5, 5), make(), make()
    keys = list(network.state_dict())
    cnnexp.nn.replace_layers(network, way)
    assert cnnexp.nn.conversion(network).kept == {}
    assert list(network.state_dict()) == keys
    if way == "auto":
        torch.manual_seed(1)
        cnnexp.tuning.pin_algorithms(network, cnnexp.tuning.choose_algorithms(network, image))
        assert not any(map(torch.nn.parameter.is_lazy, network.parameters()))
    results = []
    for each in (network, expected):
        torch.manual_seed(1)  # the first pass draws the weights
        output = each(image)
        if way == "auto":
            each.load_state_dict(network.state_dict())
            output = each(image)
        results.append(output)
    torch.testing.assert_close(*results)
    kinds = [type(m) for m in network]
    assert kinds[0] is cnnexp.nn.Conv2d
    assert kinds[1] is cnnexp.nn.BatchNorm2d
    assert kinds[4] is cnnexp.nn.Linear
    torch.testing.assert_close(pickle.loads(pickle.dumps(network.eval()))(image), network(image))


class OwnForward(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


class OwnInit(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.sigmoid()


def _patched() -> nn.Module:
    layer = nn.ReLU()
    layer.forward = lambda input: input.abs()
    return layer


KEPT: dict[str, tuple[Callable[[], nn.Module], str, bool]] = {
    "own forward": (
        lambda: OwnForward(1, 1, 3),
        "stays in layer (OwnForward): a class derived from Conv2d has a forward of its own",
        True,
    ),
    "own __init__": (OwnInit, "layer (OwnInit): a class derived from Linear may change it", True),
    "replaced": (_patched, "layer (ReLU): its forward was replaced on the object", True),
    "no twin": (lambda: nn.GroupNorm(1, 2), "GroupNorm ×1: cnnexp.nn has no such layer", False),
    "of nobody's": (Swish, "stays in Swish ×1: cnnexp.nn has no such layer", False),
    "attention": (
        lambda: nn.MultiheadAttention(2, 1),
        "stays in MultiheadAttention ×1: cnnexp.nn has no such layer",
        False,
    ),
    "another dimension": (lambda: nn.Conv1d(1, 1, 1), "stays in Conv1d ×1", False),
    "lazy, of another dimension": (lambda: nn.LazyConv1d(1, 1), "stays in LazyConv1d ×1", False),
    "parametrised, own": (
        lambda: parametrizations.spectral_norm(OwnForward(1, 2, 3)),
        "layer (OwnForward): a class derived from Conv2d has a forward of its own",
        True,
    ),
    "quantised": (
        lambda: torch.ao.nn.quantized.ReLU6(),
        "layer (ReLU6): a quantised layer has no gradient",
        False,
    ),
}


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
@pytest.mark.parametrize("case", KEPT)
def test_what_stays_torchs_is_said_once_with_the_reason(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, message, surprising = KEPT[case]
    layer = make()
    kind = type(layer)
    holder = nn.ModuleDict({"layer": layer, "ours": nn.ReLU(), "again": layer})
    with caplog.at_level(logging.INFO):
        cnnexp.nn.replace_layers(holder, "direct")
    assert type(holder["layer"]) is kind
    (record,) = [r for r in caplog.records if message in r.getMessage()]
    assert record.levelno == (logging.WARNING if surprising else logging.INFO)
    found = cnnexp.nn.conversion(holder)
    assert "layer" in found.kept
    assert found.algorithms == {"ours": "direct"}
    assert found.unexpected == (("layer",) if surprising else ())
    assert message in str(found)
    assert "layers of cnnexp.nn: direct ×1" in str(found)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        cnnexp.nn.replace_layers(holder, "direct", quiet=True)
        cnnexp.nn.replace_layers(holder, "native")  # torch's own everywhere
    assert caplog.records == []


def test_a_network_that_is_converted_as_a_whole_says_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shared = nn.Conv2d(1, 1, 3, padding=1)
    network = nn.Sequential(shared, nn.Identity(), nn.ModuleList([shared]).pop(0), nn.Flatten())
    with caplog.at_level(logging.INFO):
        for way in WAYS:
            cnnexp.nn.replace_layers(network, way)
    assert caplog.records == []
    assert network[0] is network[2]
    assert cnnexp.nn.conversion(network).kept == {}


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_the_guide_for_ones_own_network_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CNNEXP_CACHE", str(tmp_path))
    monkeypatch.setattr(measure, "interleaved_times", fake_times())
    auto.forget()
    guide = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    _, _, rest = guide.partition("`mynetwork.py`:\n\n```python\n")
    made: dict[str, Any] = {"__name__": "mynetwork"}
    exec(rest.partition("```")[0], made)
    auto.forget()
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "layers of cnnexp.nn: auto ×3",
        "torch's own backward stays in 0 (Standardised): a class derived from Conv2d has a forward of "
        "its own",
        "torch's own backward stays in GroupNorm ×1: cnnexp.nn has no such layer",
    ]
    assert "auto" not in cnnexp.nn.layer_algorithms(made["network"]).values()


def test_a_layer_that_nobody_converted_is_named_as_such() -> None:
    found = cnnexp.nn.conversion(nn.Sequential(nn.ReLU()))
    assert found.kept == {"0": "replace_layers was not called"}


def test_sequences_with_a_forward_of_their_own_are_not_fused() -> None:
    class Taps(nn.Sequential):
        def forward(self, x: Tensor) -> list[Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
            outputs = []
            for layer in self:
                x = layer(x)
                outputs.append(x)
            return outputs

    network = Taps(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2))
    image = torch.randn(1, 1, 6, 6)
    expected = network(image)
    torch.testing.assert_close(cnnexp.nn.replace_layers(network, "fused")(image), expected)
