"""Batch normalisations put together with their activations, in sequences and in other people's forwards."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import cnnexp.nn
from cnnexp.nn import BatchNormAct2d
from cnnexp.nn.done import Done
from cnnexp.tuning import choose_algorithms, pin_algorithms


class Residual(nn.Module):
    """As torchvision's blocks: one ReLU in two places, the second after a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.calls = 0

    def forward(self, input: Tensor) -> Tensor:
        self.calls += 1
        output = self.relu(self.bn1(self.conv1(input)))
        output = self.bn2(self.conv2(output))
        output += input
        return self.relu(output)


class _Dynamic(nn.Module):
    """A forward that no trace can follow, around a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.SiLU())

    def forward(self, input: Tensor) -> Tensor:
        return self.inside(input) if input.sum() > -1e9 else input


def _sequence() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 5, 1),
        nn.BatchNorm2d(5, affine=False),
        nn.Hardswish(),
        nn.Conv2d(5, 4, 1),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.ReLU6(),
        nn.BatchNorm2d(4, momentum=None),
    )


class _Pooled(nn.Module):
    """Poolings outside of a sequence: of an activation, of one that is read twice, and one of two places."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.act1, self.pool1 = nn.BatchNorm2d(4), nn.SiLU(), nn.MaxPool2d(3, 1, 1)
        self.bn2, self.act2, self.pool2 = nn.BatchNorm2d(4), nn.ReLU6(), nn.MaxPool2d(3, 1, 1)
        self.bn3, self.act3, self.pool3 = nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2, 1)

    def forward(self, input: Tensor) -> Tensor:
        output = self.pool1(self.act1(self.bn1(input)))
        active = self.act2(self.bn2(output))
        output = active + self.pool2(active)
        return self.pool3(self.pool3(self.act3(self.bn3(output))))


def _pooled_sequence() -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2, return_indices=True),
    )


class _DynamicPool(_Dynamic):
    """With a pooling in the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Sequential(
            *self.inside, nn.MaxPool2d(2, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()
        )


class _First(nn.Module):
    """The output of a sequence that gives the indices as well."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = _pooled_sequence()

    def forward(self, input: Tensor) -> Tensor:
        return self.inside(input)[0]


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    # blocks, and activations and poolings that are replaced
    "sequence": (_sequence, 3, 3),
    "residual": (Residual, 1, 0),
    "no trace": (_Dynamic, 1, 1),
    "poolings in a sequence": (_First, 2, 3),
    "poolings anywhere": (_Pooled, 3, 3),
    "pooling, no trace": (_DynamicPool, 2, 2),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def count(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(layer, kind) for layer in network.modules())


def results(network: nn.Module, image: Tensor) -> list[Tensor]:
    image = image.clone().requires_grad_()
    output = network(image)
    output.square().sum().backward()
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    assert image.grad is not None
    return [output.detach(), image.grad, *grads, *(b.clone() for b in network.buffers())]


@every_network
@pytest.mark.parametrize("algorithm", ["fused", "auto"])
def test_a_fused_network_computes_what_it_did_and_is_put_back(name: str, algorithm: str) -> None:
    make, blocks, replaced = NETWORKS[name]
    network = make().double()
    ours = cnnexp.nn.replace_layers(copy.deepcopy(network), "fused", quiet=True)
    assert (count(ours, BatchNormAct2d), count(ours, Done)) == (blocks, replaced)
    assert [n for n, _ in ours.named_modules()] == [n for n, _ in network.named_modules()]
    assert list(ours.state_dict()) == list(network.state_dict())
    image = torch.randn(3, 4, 7, 5, dtype=torch.float64)
    for training in (True, False, True):
        for each in (network, ours):
            each.train(training)
        torch.testing.assert_close(results(ours, image), results(network, image))
    copied = copy.deepcopy(ours)
    cnnexp.nn.split_blocks(ours)
    assert not count(ours, BatchNormAct2d) + count(ours, Done)
    twins = [type(layer) for layer in network.modules()]
    cnnexp.nn.replace_layers(ours, "native")
    for kind, layer in zip(twins, ours.modules(), strict=True):
        assert isinstance(layer, kind)
    for each in (copied, ours):
        torch.testing.assert_close(results(each, image), results(copy.deepcopy(network), image))


def test_the_trace_leaves_no_trace() -> None:
    network = Residual().eval()
    network.conv1.train()
    cnnexp.nn.replace_layers(network, "fused")
    assert network.calls == 0
    assert [layer.training for layer in (network, network.conv1, network.bn1)] == [
        False,
        True,
        False,
    ]


def test_what_others_look_at_stays() -> None:
    hooked = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())
    hooked[0].register_forward_hook(lambda *_: None)
    shared = nn.BatchNorm2d(4)
    silu = nn.SiLU()

    class Both(nn.Module):
        """What the normalisation returns is read twice."""

        def __init__(self) -> None:
            super().__init__()
            self.bn, self.relu = nn.BatchNorm2d(4), nn.ReLU()

        def forward(self, input: Tensor) -> Tensor:
            output = self.bn(input)
            return self.relu(output) + output

    class InTraining(Both):
        """Other layers in evaluation than in training."""

        def forward(self, input: Tensor) -> Tensor:
            output = self.bn(input)
            return self.relu(output) if self.training else output

    class Own(nn.BatchNorm2d):
        """Somebody else's."""

    network = nn.Sequential(
        hooked,
        nn.Sequential(shared, nn.ReLU()),
        shared,
        Both(),
        InTraining(),
        nn.Sequential(nn.BatchNorm2d(4), silu, nn.BatchNorm2d(4), silu),  # not idempotent
        nn.Sequential(Own(4), nn.ReLU()),
        nn.Sequential(nn.BatchNorm2d(4), nn.Tanh()),
    ).double()
    ours = cnnexp.nn.replace_layers(copy.deepcopy(network), "fused", quiet=True)
    assert not count(ours, BatchNormAct2d) + count(ours, Done)
    image = torch.randn(3, 4, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(results(ours, image), results(network, image))


@every_network
def test_another_layer_in_place_of_the_normalisation_gets_its_activation(name: str) -> None:
    """What ``convert_sync_batchnorm`` does: it looks for what derives from torch's own."""
    network = NETWORKS[name][0]().double()
    ours = cnnexp.nn.replace_layers(copy.deepcopy(network), "fused", quiet=True)
    for path, layer in list(ours.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            theirs = nn.BatchNorm2d(layer.num_features, affine=layer.affine, dtype=torch.float64)
            theirs.load_state_dict(layer.state_dict(), strict=False)
            parent, _, child = path.rpartition(".")
            setattr(ours.get_submodule(parent), child, theirs)
    image = torch.randn(3, 4, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(ours(image), network(image))


@pytest.mark.parametrize(
    ("name", "blocks"), [("mobilenet_v2", 35), ("shufflenet_v2_x0_5", 37), ("resnet18", 9)]
)
def test_networks_of_torchvision(name: str, blocks: int) -> None:
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, num_classes=4).double().eval()
    ours = cnnexp.nn.replace_layers(copy.deepcopy(network), "fused", quiet=True)
    assert count(ours, BatchNormAct2d) == blocks
    assert list(ours.state_dict()) == list(network.state_dict())
    image = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(results(ours, image), results(network, image))
    for each in (ours, network):
        each.train()
        torch.manual_seed(1)  # dropout
        each(image.repeat(4, 1, 2, 2) * torch.linspace(0.5, 2, 8).double().view(-1, 1, 1, 1))
    torch.testing.assert_close(dict(ours.named_buffers()), dict(network.named_buffers()))


def test_compiled_and_traced_again() -> None:
    network = cnnexp.nn.replace_layers(_sequence().double(), "fused", quiet=True)
    image = torch.randn(3, 4, 7, 5, dtype=torch.float64)
    expected = copy.deepcopy(network)(image)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(network), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image), expected)
    traced = torch.fx.symbolic_trace(copy.deepcopy(network))
    torch.testing.assert_close(traced(image), expected)


class _Head(nn.Module):
    """A stem as that of torchvision's ResNet, whose pooling is no part of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.relu, self.pool = nn.BatchNorm2d(4), nn.SiLU(), nn.MaxPool2d(2, 1)

    def forward(self, input: Tensor) -> Tensor:
        return self.pool(self.relu(self.bn(input)))


def test_a_pooling_outside_of_a_sequence_is_part_of_a_block_only_with_functions() -> None:
    plain, ours = (
        cnnexp.nn.replace_layers(_Head().double(), "fused", functions=functions, quiet=True)
        for functions in (False, True)
    )
    assert (count(plain, Done), count(ours, Done)) == (1, 2)
    image = torch.randn(3, 4, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(results(ours, image), results(plain, image))
    setattr(plain, "pool", nn.Identity())  # noqa: B010 (as for small images)
    assert plain(image).shape == image.shape


def test_a_layer_of_several_places_is_not_overlooked_between_activation_and_pooling() -> None:
    drop = nn.Dropout(0.5)

    class Dynamic(_Dynamic):
        """Whose sequence holds one dropout twice."""

        def __init__(self) -> None:
            super().__init__()
            norm, relu, pool = nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2, 1)
            self.inside = nn.Sequential(drop, norm, relu, drop, pool)

    ours = cnnexp.nn.replace_layers(Dynamic(), "fused", quiet=True)
    assert isinstance(ours.inside[4], nn.MaxPool2d)
    assert ours(torch.randn(2, 4, 5, 5)).shape == (2, 4, 4, 4)


def test_windows_may_be_lists() -> None:
    network = nn.Sequential(
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d([2, 2], stride=[2, 2]),  # pyright: ignore[reportArgumentType]
    )
    expected = copy.deepcopy(network)
    ours = cnnexp.nn.replace_layers(network, "auto", quiet=True)
    image = torch.randn(3, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    chosen = choose_algorithms(ours, image)
    assert list(chosen) == ["0"]
    # of a run from before the pooling was a part of the block
    pin_algorithms(ours, {**chosen, "2": "native"})
    torch.testing.assert_close(ours(image), expected(image))


def test_a_pooled_block_compiles_and_is_mapped() -> None:
    network = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2))
    ours = cnnexp.nn.replace_layers(network, "fused", quiet=True)
    ours = ours.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    image = torch.randn(3, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    for training in (False, True):
        ours.train(training)
        plain = copy.deepcopy(ours)
        compiled: Any = torch.compile(copy.deepcopy(ours), backend="aot_eager", fullgraph=True)
        found = [results(each, image) for each in (plain, compiled)]
        torch.testing.assert_close(*found)
    ours.eval()
    mapped = torch.func.vmap(ours)(image.unsqueeze(1))
    torch.testing.assert_close(mapped.squeeze(1), ours(image))
