"""Networks of other people: measured as they are, never copied, and left as they were found."""

from __future__ import annotations

import copy
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.nn.utils.parametrize import register_parametrization
from torch.utils.checkpoint import checkpoint

import cnnexp.nn
import cnnexp.tuning
from cnnexp.nn import left_as_found
from cnnexp.tuning import auto, measure, paired
from cnnexp.tuning import network as network_choice
from tests.nn.test_checkpoint import fake_times


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CNNEXP_CACHE", str(tmp_path))
    monkeypatch.setattr(measure, "interleaved_times", fake_times())
    monkeypatch.setattr(paired, "LOOKS", (5,))
    monkeypatch.setattr(network_choice, "BUSY", 0.0)  # whatever else the machine does
    auto.forget()
    yield
    auto.forget()


class Net(nn.Module):
    """Convolution, normalisation, dropout and a linear layer; a habit changes something of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(3 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.norm(self.conv(x)).relu()).flatten(1))


class Doing(Net):
    """One whose forward does something besides."""

    def __init__(self, do: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.do = do
        self.count, self.seen, self.table = 0, [], {"a": [1]}
        self.last, self.names = deque([1, 2], maxlen=2), {"a"}
        self.register_buffer("mean", torch.zeros(3))
        self.plain = torch.zeros(2)
        self.generator = torch.Generator()

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.do(self, x)
        return super().forward(x)


class _Double(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def _open_file(network: Any) -> None:
    network.file, network.lock = open(__file__), threading.Lock()  # noqa: SIM115
    network.act = lambda x: x


def _frozen(network: Net) -> None:
    network.conv.requires_grad_(False)
    network.norm.eval()


def _with_grad(network: Net) -> None:
    for p in network.parameters():
        p.grad = torch.ones_like(p)


def _kept_norm(network: Any) -> None:
    def train(mode: bool = True) -> nn.Module:
        nn.Module.train(network, mode)
        network.norm.eval()
        return network

    network.train = train


def _own_checkpoint(network: Net) -> None:
    network.conv.forward = lambda x, f=network.conv.forward: checkpoint(f, x, use_reentrant=False)  # pyright: ignore[reportFunctionMemberAccess, reportAttributeAccessIssue]


MADE: dict[str, Callable[[Net], Any]] = {
    "weight_norm, old": lambda n: weight_norm(n.conv),
    "spectral_norm, old": lambda n: spectral_norm(n.conv),
    "pruned": lambda n: prune.l1_unstructured(n.conv, "weight", 0.3),
    "pruned in part": lambda n: prune.random_structured(n.fc, "weight", 0.5, dim=0),
    "weight_norm": lambda n: parametrizations.weight_norm(n.conv),
    "spectral_norm": lambda n: parametrizations.spectral_norm(n.conv),
    "orthogonal": lambda n: parametrizations.orthogonal(n.fc),
    "parametrised": lambda n: register_parametrization(n.conv, "weight", _Double()),
    "a computed attribute": lambda n: setattr(n, "scale", torch.ones(2, requires_grad=True) * 2),
    "a file, a lock, a lambda": _open_file,
    "a hook": lambda n: n.conv.register_forward_hook(lambda *seen: seen[2] + 0),
    "frozen in part": _frozen,
    "with gradients": _with_grad,
    "in evaluation": lambda n: n.eval(),
    "its own train()": _kept_norm,
    "its own forward on a layer": _own_checkpoint,
    "a hidden part": lambda n: setattr(n, "teachers", [nn.BatchNorm2d(3)]),
    "float64": lambda n: n.double(),
}

DONE: dict[str, Callable[[Any, Tensor], Any]] = {
    "counts": lambda n, x: setattr(n, "count", n.count + 1),
    "keeps what it sees": lambda n, x: (n.seen.append(x), n.last.append(x), n.names.add("b")),
    "keeps deeper": lambda n, x: n.table["a"].append(2),
    "another attribute": lambda n, x: setattr(n, "new", 1),
    "less attributes": lambda n, x: n.__dict__.pop("count"),
    "writes a buffer": lambda n, x: n.mean.add_(1),
    "another buffer": lambda n, x: setattr(n, "mean", n.mean + 1),
    "a plain tensor": lambda n, x: n.plain.add_(1),
    "writes a parameter": lambda n, x: n.conv.weight.mul_(0.5),
    "writes its data": lambda n, x: n.conv.weight.data.mul_(0.5),
    "freezes": lambda n, x: n.conv.requires_grad_(False),
    "a mode": lambda n, x: n.norm.eval(),
    "a gradient": lambda n, x: setattr(n.fc.bias, "grad", torch.ones(2)),
    "a hook": lambda n, x: n.conv.register_forward_hook(lambda m, i, o: o),
    "a layer": lambda n, x: setattr(n, "drop", nn.Identity()),
    "draws": lambda n, x: (random.random(), np.random.rand(), torch.rand(1)),
    "draws by its own": lambda n, x: torch.rand(1, generator=n.generator),
}


def _fingerprint(network: nn.Module) -> dict[str, Any]:
    """All that belongs to ``network``, with the identity of its objects and the values of tensors."""
    found: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": str(np.random.get_state()),
        "torch": torch.get_rng_state().tolist(),
    }

    def look(where: str, value: Any) -> None:
        found[where] = (id(value), type(value))
        if isinstance(value, Tensor):
            grad = value.grad if value.is_leaf else None
            found[f"{where} values"] = (value.tolist(), value.dtype, value.requires_grad, id(grad))
            found[f"{where} memory"] = (value.data_ptr(), value.stride())
        elif isinstance(value, torch.Generator):
            found[f"{where} state"] = value.get_state().tolist()
        elif isinstance(value, dict):
            for key, each in value.items():
                look(f"{where}[{key!r}]", each)
        elif isinstance(value, (list, deque)):
            for index, each in enumerate(value):
                look(f"{where}[{index}]", each)
        elif isinstance(value, set):
            found[f"{where} members"] = sorted(value)
        elif isinstance(value, nn.Module) and where.endswith("]"):
            look(f"{where} attributes", vars(value))

    for name, module in network.named_modules():
        found[f"{name} class"] = type(module)
        look(name, vars(module))
    return found


def _never(self: Any, memo: Any) -> Any:
    raise AssertionError("a network is copied")


def _network(habit: str) -> nn.Module:
    if habit in DONE:
        return Doing(DONE[habit])
    network = Net()
    MADE[habit](network)
    return network


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")  # and in use everywhere
@pytest.mark.parametrize("habit", [*MADE, *DONE])
def test_choosing_leaves_any_network_as_it_was_found(
    habit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = cnnexp.nn.replace_layers(_network(habit), "auto")
    dtype = next(network.parameters()).dtype
    monkeypatch.setattr(nn.Module, "__deepcopy__", _never, raising=False)
    images = torch.randn(2, 1, 6, 6, dtype=dtype)
    before = _fingerprint(network)
    chosen = cnnexp.tuning.choose_algorithms(network, images)
    assert _fingerprint(network) == before
    expected = {"conv", "norm", "drop", "fc"} - ({"conv"} if "forward on" in habit else set())
    assert set(chosen) == expected
    cnnexp.tuning.pin_algorithms(network, chosen)
    loss = network.train()(images).square().sum()
    parameters = [p for p in network.parameters() if p.requires_grad]
    assert all(g is not None for g in torch.autograd.grad(loss, parameters))
    if hasattr(network, "file"):
        network.file.close()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]


def test_a_graph_made_before_can_be_followed_after_choosing() -> None:
    network = cnnexp.nn.replace_layers(Net(), "auto")
    images = torch.randn(2, 1, 6, 6)
    loss = network(images).sum()
    cnnexp.tuning.choose_algorithms(network, images)
    loss.backward()  # it has kept the parameters


def test_a_network_moved_converted_and_broken_off_is_as_it_was() -> None:
    network = Net()
    before = _fingerprint(network)

    def work() -> None:
        with left_as_found(network):
            network.double().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            cnnexp.nn.replace_layers(network, "fused").eval().requires_grad_(False)
            raise ValueError("broken off")

    with pytest.raises(ValueError, match="broken off"):
        work()
    assert _fingerprint(network) == before


def test_images_of_inference_mode_and_a_caller_in_it() -> None:
    network = cnnexp.nn.replace_layers(Net(), "auto")
    with torch.inference_mode():
        chosen = cnnexp.tuning.choose_algorithms(network, torch.randn(2, 1, 6, 6))
    cnnexp.tuning.pin_algorithms(network, chosen)
    network(torch.randn(2, 1, 6, 6)).sum().backward()


def test_a_network_that_is_known_is_run_once_forward_in_training() -> None:
    network = cnnexp.nn.replace_layers(Net(), "auto").eval()
    images = torch.randn(2, 1, 6, 6)
    seen: list[bool] = []
    network.register_forward_hook(lambda module, *_: seen.append(module.training))
    chosen = cnnexp.tuning.choose_algorithms(network, images)
    assert len(seen) > 1
    assert all(seen)
    assert not network.training
    seen.clear()
    network.register_full_backward_hook(lambda *_: pytest.fail("a backward pass"))
    assert cnnexp.tuning.choose_algorithms(network, images) == chosen
    assert seen == [True]
    assert not network.training


def test_what_is_copied_is_no_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard of the tests above works."""
    monkeypatch.setattr(nn.Module, "__deepcopy__", _never, raising=False)
    with pytest.raises(AssertionError, match="is copied"):
        copy.deepcopy(Net())
