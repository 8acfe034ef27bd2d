"""What stands in the place of an activation or pooling knows by a mark that the normalisation has done it."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

import cnnexp.nn
from cnnexp.nn import BatchNormAct2d
from cnnexp.nn.done import Done
from tests.nn.test_fuse_norms import Residual, count, results


def _hooked(layer: nn.Module, kind: str) -> None:
    if kind == "backward":
        layer.register_full_backward_hook(lambda *_: None)
    elif kind == "forward":
        layer.register_forward_hook(lambda _layer, _inputs, output: output.clone())
    else:
        layer.register_forward_pre_hook(lambda _layer, inputs: inputs[0].clone())


@pytest.mark.parametrize("kind", ["backward", "forward", "before"])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("way", ["fused", "native"])
def test_hooks_of_later_do_not_make_it_pool_again(kind: str, place: int, way: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(4), nn.SiLU(), nn.MaxPool2d(3, 1), nn.Conv2d(4, 4, 1))
    ours = cnnexp.nn.replace_layers(copy.deepcopy(network), "fused", quiet=True)
    assert count(ours, Done) == 2
    vars(ours[0])["algorithm"] = way
    _hooked(ours[place], kind)
    image = torch.randn(3, 4, 7, 5)
    ours, network = ours.double(), network.double()
    torch.testing.assert_close(results(ours, image.double()), results(network, image.double()))


def test_a_converted_normalisation_is_pooled_apart() -> None:
    network = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    ours = cnnexp.nn.replace_layers(copy.deepcopy(network), "fused", quiet=True)
    ours[0] = nn.BatchNorm2d(4)  # as SyncBatchNorm.convert_sync_batchnorm does
    image = torch.randn(3, 4, 6, 6)
    torch.testing.assert_close(ours(image), network(image))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("cut", range(1, 9))
@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU])
def test_a_checkpoint_may_begin_within_a_block(
    reentrant: bool, cut: int, activation: type[nn.Module]
) -> None:
    torch.manual_seed(0)
    act = activation()
    of_three = nn.BatchNorm2d(4), activation(), nn.MaxPool2d(2, 1)
    of_two = nn.BatchNorm2d(4), act, nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), act
    network = nn.Sequential(nn.Conv2d(4, 4, 1), *of_three, nn.Conv2d(4, 4, 1), *of_two).double()
    ours = cnnexp.nn.replace_layers(copy.deepcopy(network), "fused", quiet=True)
    assert count(ours, BatchNormAct2d) == (3 if activation is nn.ReLU else 1)
    found = []
    for each in (ours, network):
        image = (
            torch.linspace(-1, 1, 3 * 4 * 7 * 5).double().sin().view(3, 4, 7, 5).requires_grad_()
        )
        begun = checkpoint(each[:cut], image, use_reentrant=reentrant)
        output = checkpoint(each[cut:], begun, use_reentrant=reentrant)
        output.square().sum().backward()
        found.append([output, image.grad, *(p.grad for p in each.parameters())])
    torch.testing.assert_close(*found)


def test_a_normalisation_taken_out_leaves_its_activation() -> None:
    network = nn.Sequential(nn.BatchNorm2d(4), nn.SiLU(), nn.BatchNorm2d(4), nn.SiLU())
    ours = cnnexp.nn.replace_layers(copy.deepcopy(network), "fused", quiet=True)
    for each in (ours, network):
        each[2] = nn.Identity()  # as after folding it into a convolution
    image = torch.randn(3, 4, 6, 6)
    torch.testing.assert_close(ours(image), network(image))
    torch._dynamo.reset()
    compiled: Any = torch.compile(ours, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(image), network(image))


class _InPlace(nn.Module):
    """A block whose output is added to in place, and activated again by the same ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.relu = nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        z = self.relu(self.bn(x))
        z += x
        return self.relu(z)


def test_a_second_relu_gives_a_tensor_of_its_own() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn, self.relu = nn.BatchNorm2d(4), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            y = self.relu(self.bn(x))
            z = self.relu(y)
            z += 1
            return y + z

    torch.manual_seed(0)
    network, image = Twice().double(), torch.randn(3, 4, 6, 6, dtype=torch.float64)
    ours = cnnexp.nn.replace_layers(copy.deepcopy(network), "fused", quiet=True)
    assert count(ours, BatchNormAct2d) == 1
    with torch.no_grad():
        torch.testing.assert_close(ours(image), network(image))


class _HandsOn(Tensor):
    """As MONAI's and fastai's: what stands on a tensor is copied to all that is computed from it."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(found, _HandsOn) and args and isinstance(args[0], _HandsOn):
            for name, value in vars(args[0]).items():
                setattr(found, name, value)
        return found


class _Residuals(nn.Module):
    """One ReLU in several places, also behind a linear layer and of a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.more, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu, self.silu = nn.ReLU(), nn.SiLU()
        self.hidden, self.last = nn.Linear(4 * 36, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn(self.conv(x)))
        y = self.relu(self.norm(self.more(y)) + y)
        y = self.silu(self.norm(self.more(y)))
        return self.last(self.relu(self.hidden(y.flatten(1))))


@pytest.mark.parametrize("options", [{}, {"recompute": True}, {"functions": True}])
def test_classes_that_hand_on_what_stands_on_a_tensor(options: dict[str, bool]) -> None:
    torch.manual_seed(0)
    network = _Residuals().double()
    ours = cnnexp.nn.replace_layers(copy.deepcopy(network), "fused", quiet=True, **options)
    image = torch.randn(3, 3, 6, 6, dtype=torch.float64).as_subclass(_HandsOn)
    found, expected = ours(image), network(image)
    for each in (found, expected):
        each.sum().backward()
    torch.testing.assert_close(found, expected)
    for one, other in zip(ours.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("way", ["inference", "no_grad", "compiled", "vmap", "grad of func"])
def test_a_relu_of_several_places_activates_again_what_was_added_to(way: str) -> None:
    torch.manual_seed(0)
    network = _InPlace().double().eval()
    ours = cnnexp.nn.replace_layers(copy.deepcopy(network), "fused", quiet=True)
    assert count(ours, BatchNormAct2d) == 1
    image = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    expected = network(image.clone()).detach()
    if way == "compiled":
        torch._dynamo.reset()
        compiled: Any = torch.compile(ours, backend="aot_eager", fullgraph=True)
        found = compiled(image)
    elif way == "vmap":
        found = torch.func.vmap(ours)(image.unsqueeze(1)).squeeze(1)
    elif way == "grad of func":
        torch.func.grad(lambda x: ours(x).sum())(image)
        found = torch.func.vjp(ours, image)[0]
    else:
        with torch.inference_mode() if way == "inference" else torch.no_grad():
            found = ours(image)
    torch.testing.assert_close(found, expected)


def test_what_was_written_into_is_activated_again() -> None:
    """By a network that no trace can follow."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            z = self.body(x)
            if float(x.detach().sum()) > -1e9:
                z = self.body[1](z.add_(x))
            return z

    ours = cnnexp.nn.replace_layers(Odd().eval(), "fused", quiet=True)
    assert count(ours, Done) == 1
    image = torch.randn(3, 4, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), Odd().eval()(image))


def test_what_a_block_returns_can_be_saved(tmp_path: Path) -> None:
    network = nn.Sequential(nn.BatchNorm2d(4), nn.SiLU(), nn.MaxPool2d(2))
    ours = cnnexp.nn.replace_layers(network, "fused", quiet=True).eval()
    with torch.no_grad():
        output = ours(torch.randn(3, 4, 6, 6))
    torch.save(output, tmp_path / "output.pt")
    torch.testing.assert_close(torch.load(tmp_path / "output.pt", weights_only=True), output)


@pytest.mark.parametrize("by", ["deepcopy", "layer by layer", "pickle"])
@pytest.mark.parametrize("compiles", [False, True])
def test_copies_know_their_marks(by: str, compiles: bool) -> None:
    network = nn.Sequential(nn.BatchNorm2d(4), nn.SiLU(), nn.MaxPool2d(2, 1))
    ours = cnnexp.nn.replace_layers(network, "fused", quiet=True).eval()
    image = torch.randn(3, 4, 6, 6)
    expected = ours(image)
    if by == "pickle":
        copied = pickle.loads(pickle.dumps(ours))
    elif by == "deepcopy":
        copied = copy.deepcopy(ours)
    else:
        copied = nn.Sequential(*[copy.deepcopy(layer) for layer in ours])
    if compiles:
        torch._dynamo.reset()
        copied = torch.compile(copied, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(copied(image), expected)


def test_blocks_compiled_one_by_one_are_compiled_once() -> None:
    """As in a deep network whose blocks alone are compiled: those of one kind share what is compiled."""
    parts = [nn.Sequential(nn.BatchNorm2d(4), nn.SiLU(), nn.MaxPool2d(1)) for _ in range(3)]
    network = nn.Sequential(*parts, *[Residual() for _ in range(3)])
    ours = cnnexp.nn.replace_layers(network, "fused", quiet=True)
    image = torch.randn(3, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    for part in ours:
        expected = copy.deepcopy(part)(image)
        part.compile(backend=counter, fullgraph=True)
        torch.testing.assert_close(part(image), expected)
    assert counter.frame_count == 2
