"""Networks whose convolutions compute again what a normalisation gave them: less memory, the same numbers."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

import cnnexp.nn
from cnnexp.nn import BatchNormAct2d, replace_layers
from cnnexp.nn.layer import Layer, layer_algorithms
from cnnexp.tuning import choose_algorithms, pin_algorithms
from cnnexp.tuning.memory import saved_bytes


class _Dynamic(nn.Module):
    """A forward that no trace can follow, around a sequence."""

    def __init__(self, *after: nn.Module) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), *after)

    def forward(self, input: Tensor) -> Tensor:
        return self.inside(input) if input.sum() > -1e9 else input


class _Squeezed(nn.Module):
    """A convolution reads the output, and so does a product, which keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.SiLU()
        self.gate = nn.Conv2d(4, 4, 1)

    def forward(self, input: Tensor) -> Tensor:
        output = self.act(self.bn(self.conv(input)))
        return output * self.gate(output).sigmoid()


class _Grown(nn.Module):
    """As a dense block: convolutions read the output, and it is joined to others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.after = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward(self, input: Tensor) -> Tensor:
        output = self.bn(self.conv(input))
        return torch.cat([output, self.after(output)], 1)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "sequence": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU6(), nn.Conv2d(4, 4, 3),
            nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        ),
        2,
    ),
    "no trace": (lambda: _Dynamic(nn.Conv2d(4, 3, 1)), 1),
    "no trace, no reader": (_Dynamic, 0),
    "squeezed": (_Squeezed, 0),
    "grown": (_Grown, 1),
}  # fmt: skip
BIG = {  # and how many normalisations recompute, and at most what of torch's memory is kept
    "resnet18": (18, 0.6),
    "resnet50": (51, 0.6),
    "densenet121": (119, 0.55),
    "mobilenet_v2": (41, 0.4),
    "regnet_y_400mf": (36, 0.6),
    "shufflenet_v2_x0_5": (35, 0.6),
}


def _again(network: nn.Module, algorithm: str = "fused") -> nn.Module:
    return replace_layers(copy.deepcopy(network), algorithm, recompute=True, quiet=True)


def _count(network: nn.Module) -> int:
    return sum(isinstance(each, BatchNormAct2d) and each.recompute for each in network.modules())


def _results(network: nn.Module, image: Tensor) -> list[Tensor]:
    torch.manual_seed(2)  # dropout
    image = image.clone().requires_grad_()
    output = network(image)
    grads = torch.autograd.grad(output.square().mean(), [image, *network.parameters()])
    return [output.detach(), *grads, *(b.clone() for b in network.buffers())]


@pytest.mark.parametrize("name", NETWORKS)
def test_only_what_convolutions_alone_keep_is_recomputed(name: str) -> None:
    make, count = NETWORKS[name]
    network = make()
    plain, again = replace_layers(copy.deepcopy(network), "fused", quiet=True), _again(network)
    assert _count(again) == count
    image = torch.randn(4, 3, 6, 5)
    for training in (True, False):
        pairs = zip(
            _results(again.train(training), image),
            _results(plain.train(training), image),
            strict=True,
        )
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    less = saved_bytes(lambda: again(image)) - saved_bytes(lambda: plain(image))
    assert less < 0 if count else less == 0


@pytest.mark.parametrize(
    "name", ["efficientnet_b0", "mobilenet_v3_small", "resnext50_32x4d", "vgg11_bn"]
)
def test_others_of_torchvision_keep_as_little(name: str) -> None:
    network = torchvision.models.get_model(name, num_classes=4)
    image = torch.randn(8, 3, 64, 64)
    again, plain = (
        saved_bytes(lambda each=each: each(image), each.parameters())
        for each in (_again(network), network)
    )
    assert again <= 0.6 * plain


@pytest.mark.parametrize("name", BIG)
def test_networks_of_torchvision(name: str) -> None:
    count, most = BIG[name]
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, num_classes=4).double()
    again = _again(network)
    assert _count(again) == count
    assert [n for n, _ in again.named_modules()] == [n for n, _ in network.named_modules()]
    assert list(again.state_dict()) == list(network.state_dict())
    image = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    for training in (True, False):
        ours, theirs = (_results(each.train(training), image) for each in (again, network))
        scale = max(each.abs().max().item() for each in theirs[2:] if each.is_floating_point())
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10 * scale)
    kept = [
        saved_bytes(lambda each=each: each(image), each.parameters())
        for each in (again.train(), network.train())
    ]
    assert kept[0] < most * kept[1]
    cnnexp.nn.split_blocks(again)
    assert not any(isinstance(each, BatchNormAct2d) for each in again.modules())
    replace_layers(again, "native", quiet=True)
    ours, theirs = (_results(each, image) for each in (again, network))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10 * scale)


def test_torchs_convolutions_keep_as_little() -> None:
    """What ``auto`` may choose: kernels of ours for the normalisations, torch's for the rest."""
    network = NETWORKS["sequence"][0]()
    plain, again = (
        replace_layers(copy.deepcopy(network), "auto", quiet=True),
        _again(network, "auto"),
    )
    for each in (plain, again):
        for layer in each.modules():
            if isinstance(layer, Layer):
                norm = layer.op in ("batch_norm", "batch_norm_act")
                layer.algorithm = "fused" if norm else "native"
    image = torch.randn(4, 3, 6, 5)
    pairs = zip(_results(again, image), _results(plain, image), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    kept = [
        saved_bytes(lambda each=each: each(image), each.parameters()) for each in (plain, again)
    ]
    # float32: what two convolutions read of 4 images, less copies of γ and β
    assert kept[0] - kept[1] == 4 * (4 * (4 * 6 * 5 + 4 * 4 * 3) - 2 * 2 * 4)


def test_auto_chooses_for_the_other_layers() -> None:
    again = _again(NETWORKS["sequence"][0](), "auto")
    found = layer_algorithms(again)
    assert [found[name] for name in ("1", "4")] == ["fused", "fused"]  # those that recompute
    assert {found[name] for name in ("0", "3", "5", "6")} == {"auto"}
    chosen = choose_algorithms(again, torch.randn(4, 3, 6, 5))
    assert not {"1", "4"} & set(chosen)
    pin_algorithms(again, chosen)
    assert layer_algorithms(again) == {**found, **chosen}


def test_another_algorithm_is_refused_and_nothing_is_changed() -> None:
    network = NETWORKS["sequence"][0]()
    with pytest.raises(ValueError, match="recompute goes with fused or auto, not direct"):
        replace_layers(network, "direct", recompute=True)
    assert not any(isinstance(layer, Layer) for layer in network.modules())


def test_a_later_call_without_it_takes_it_back() -> None:
    again = _again(NETWORKS["sequence"][0]())
    assert repr(again).count("recompute=True") == 2
    replace_layers(again, "fused", quiet=True)
    assert not _count(again)
    assert "recompute" not in repr(again)


def test_training_resumes_from_a_file_of_either_network() -> None:
    image, network = torch.randn(4, 3, 6, 5), NETWORKS["sequence"][0]()
    plain, again = replace_layers(copy.deepcopy(network), "fused", quiet=True), _again(network)
    both = [(each, torch.optim.Adam(each.parameters())) for each in (plain, again)]

    def train(pairs: list[tuple[nn.Module, torch.optim.Adam]]) -> None:
        for each, optimizer in pairs:
            for _ in range(2):
                optimizer.zero_grad()
                each(image).square().mean().backward()
                optimizer.step()

    train(both)
    files = [io.BytesIO(), io.BytesIO()]
    for file, (each, optimizer) in zip(files, both, strict=True):
        torch.save([each.state_dict(), optimizer.state_dict()], file)
        file.seek(0)
    for file, (each, optimizer) in zip(files, reversed(both), strict=True):
        weights, moments = torch.load(file, weights_only=True)
        each.load_state_dict(weights)
        optimizer.load_state_dict(moments)
    train(both)
    for ours, theirs in zip(again.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_network_that_recomputes_is_compiled_exported_and_pickled() -> None:
    network, image = _again(NETWORKS["sequence"][0]()), torch.randn(4, 3, 6, 5)
    expected = _results(network.eval(), image)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(network), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(image), expected[0])
    torch.testing.assert_close(compiled(image), expected[0])
    exported = torch.export.export(network, (image,))
    torch.testing.assert_close(exported.module()(image), expected[0])
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    read = torch.load(file, weights_only=False)
    assert all(torch.equal(a, b) for a, b in zip(_results(read, image), expected, strict=True))


@pytest.mark.parametrize("way", ["fused", "auto"])
def test_linear_layers_keep_no_cast_of_their_weights(way: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 48), nn.Linear(48, 5))
    ours = replace_layers(copy.deepcopy(network), way, recompute=True, quiet=True)
    images = torch.randn(3, 64)
    found = []
    for each in (network, ours):
        kept: list[int] = []

        def keep(tensor: Tensor, kept: list[int] = kept) -> Tensor:
            kept.append(tensor.numel() * tensor.element_size())
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16),
        ):
            output = each(images)
        output.float().square().sum().backward()
        halves = sum(size in (2 * 64 * 48, 2 * 48 * 5) for size in kept)
        found.append((halves, output, [p.grad for p in each.parameters()]))
    (theirs, expected, their_grads), (none, output, grads) = found
    assert (theirs, none) == (1, 0)  # the images need no gradient
    assert torch.equal(output, expected)
    for one, other in zip(grads, their_grads, strict=True):
        assert one is not None
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)
    cnnexp.nn.split_blocks(ours)
    assert "recompute" not in repr(ours)


def test_weights_that_are_computed_are_kept_as_a_cast() -> None:
    layer = replace_layers(nn.Sequential(nn.Linear(64, 48)), "auto", recompute=True, quiet=True)[0]
    torch.nn.utils.parametrizations.weight_norm(layer)
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(3, 64)).sum().backward()
    assert all(each.grad is not None for each in layer.parameters())
