from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import cnnexp.nn
from cnnexp import ops
from cnnexp.models import LeNet5, SeedCNN
from cnnexp.nn.done import is_done
from cnnexp.ops.torch_internals import watching

PAIRS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("Conv2d", (2, 4, 3), {"padding": "same"}),
    ("Conv2d", (2, 4, 3), {"stride": 2, "padding": 1, "groups": 2, "bias": False}),
    ("Conv2d", (2, 4, 3), {"padding": 1, "padding_mode": "reflect"}),
    ("MaxPool2d", (2,), {}),
    ("MaxPool2d", (3,), {"stride": 2, "padding": 1, "return_indices": True}),
    ("AvgPool2d", (3,), {"stride": 2, "padding": 1, "count_include_pad": False}),
    ("AdaptiveAvgPool2d", ((3, 2),), {}),
    ("BatchNorm2d", (2,), {}),
    ("BatchNorm2d", (2,), {"momentum": None, "affine": False}),
    ("BatchNorm2d", (2,), {"track_running_stats": False}),
    ("ReLU", (), {}),
    ("LeakyReLU", (0.3,), {}),
    ("GELU", (), {"approximate": "tanh"}),
    ("Dropout", (0.3,), {}),
    ("Linear", (8, 3), {}),
    ("Linear", (8, 3), {"bias": False}),
]
PAIRS += [
    (twin.__name__, (), {})
    for twin in cnnexp.nn.REPLACEMENTS.values()
    if ops.is_activation(twin.op) and twin.__name__ not in {name for name, *_ in PAIRS}
]


LOSSES = {"CrossEntropyLoss", "BCEWithLogitsLoss", "MSELoss", "HuberLoss"}


def test_every_replacement_is_among_the_pairs() -> None:
    names = {twin.__name__ for twin in cnnexp.nn.REPLACEMENTS.values()}
    assert names == {name for name, *_ in PAIRS} | LOSSES


def _pairs() -> list[Any]:
    return [
        pytest.param(*pair, algorithm, id=f"{pair[0]}-{index}-{algorithm}")
        for index, pair in enumerate(PAIRS)
        for algorithm in ops.algorithm_names(getattr(cnnexp.nn, pair[0]).op)
    ]


@pytest.mark.parametrize(("name", "arguments", "options", "algorithm"), _pairs())
def test_a_layer_is_its_torch_twin(
    name: str, arguments: tuple[Any, ...], options: dict[str, Any], algorithm: str
) -> None:
    theirs = getattr(nn, name)(*arguments, **options)
    ours = getattr(cnnexp.nn, name)(*arguments, **options, algorithm=algorithm)
    ours.load_state_dict(theirs.state_dict())
    assert isinstance(ours, type(theirs))
    assert f"algorithm={algorithm}" in repr(ours)
    for training in (True, True, False):
        image = torch.randn(2, 2, 7, 8)
        results = []
        for layer in (ours.train(training), theirs.train(training)):
            torch.manual_seed(1)  # dropout draws
            results.append(layer(image))
        torch.testing.assert_close(*results)
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))


@pytest.mark.parametrize("name", sorted({pair[0] for pair in PAIRS}))
def test_a_native_layer_runs_the_very_forward_of_its_twin(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, options = next(pair[1:] for pair in PAIRS if pair[0] == name)
    layer = getattr(cnnexp.nn, name)(*arguments, **options, algorithm="native")
    image, result = torch.randn(2, 2, 7, 8), object()
    seen: list[Any] = []
    twin = getattr(nn, name)
    owner = next(base for base in twin.__mro__ if "forward" in vars(base))
    monkeypatch.setattr(owner, "forward", lambda *given: (seen.append(given), result)[1])
    assert layer(image) is result
    ((given, *inputs),) = seen
    assert given is layer
    assert len(inputs) == 1
    assert inputs[0] is image
    for algorithm in set(ops.algorithm_names(layer.op)) - {"native"}:
        layer.algorithm = algorithm
        assert layer(image) is not result


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.AvgPool2d(2)])
def test_a_native_block_is_three_calls_of_torchs(inplace: bool, pool: nn.Module) -> None:
    parts = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace), pool)
    block = cnnexp.nn.replace_layers(copy.deepcopy(parts), "fused")
    assert isinstance(block[0], cnnexp.nn.ConvReLUPool)
    block[0].algorithm = "native"  # pyright: ignore[reportArgumentType]
    image, called = torch.randn(2, 2, 9, 9), []
    for network in (parts, block):
        operations: list[str] = []
        with watching(lambda operation, into=operations: into.append(str(operation))):
            network(image)
        called.append(operations)
    assert called[0] == called[1]
    assert torch.equal(block(image), parts(image))
    cnnexp.nn.replace_layers(block, "direct")
    assert vars(block[0]).keys() == vars(parts[0]).keys() | {"algorithm"}


@pytest.mark.parametrize("algorithm", ops.algorithm_names("cross_entropy"))
def test_the_loss_is_its_torch_twin(algorithm: str) -> None:
    options: dict[str, Any] = {"weight": torch.rand(3), "label_smoothing": 0.1, "ignore_index": 1}
    logits, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 2])
    ours = cnnexp.nn.CrossEntropyLoss(**options, algorithm=algorithm)
    torch.testing.assert_close(ours(logits, target), nn.CrossEntropyLoss(**options)(logits, target))


@pytest.mark.parametrize("algorithm", ["direct", "native"])
def test_the_losses_of_labels_and_numbers_are_their_torch_twins(algorithm: str) -> None:
    values, numbers = torch.randn(4, 3), torch.randn(4, 3)
    each: list[tuple[str, dict[str, Any], torch.Tensor]] = [
        ("BCEWithLogitsLoss", {"pos_weight": torch.rand(3)}, numbers.sigmoid()),
        ("MSELoss", {"reduction": "sum"}, numbers),
        ("HuberLoss", {"delta": 0.5}, numbers),
    ]
    for name, options, target in each:
        ours = getattr(cnnexp.nn, name)(**options, algorithm=algorithm)
        theirs = getattr(nn, name)(**options)
        torch.testing.assert_close(ours(values, target), theirs(values, target))


@pytest.mark.parametrize("algorithm", ["direct", "native"])
def test_the_focal_loss_without_a_focus_is_the_cross_entropy(algorithm: str) -> None:
    logits, target, weight = torch.randn(4, 3), torch.tensor([0, 1, 2, 2]), torch.rand(3)
    focal = cnnexp.nn.FocalLoss(weight, gamma=0.0, algorithm=algorithm)
    torch.testing.assert_close(focal(logits, target), nn.CrossEntropyLoss(weight)(logits, target))
    with pytest.raises(ValueError, match="gamma must be at least 0, but got -1"):
        cnnexp.nn.FocalLoss(gamma=-1)


@pytest.mark.parametrize("algorithm", ["direct", "fused", "im2col"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn"])
def test_networks_of_torchvision_keep_outputs_and_gradients(
    name: str, training: bool, algorithm: str
) -> None:
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, num_classes=3)
    if name == "vgg11_bn":  # the same layers, without the hundred million weights of the first
        for place, widths in (("0", (25088, 32)), ("3", (32, 32)), ("6", (32, 3))):
            setattr(network.classifier, place, nn.Linear(*widths))
    network.double().train(training)
    twin = cnnexp.nn.replace_layers(copy.deepcopy(network), algorithm)
    ours = [m for m in twin.modules() if isinstance(m, cnnexp.nn.Layer) or is_done(m)]
    assert len(ours) == {"resnet18": 20 + 20 + 9 + 3, "vgg11_bn": 8 + 8 + 10 + 5 + 1 + 2 + 3}[name]
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    results = []
    for module in (twin, network):
        torch.manual_seed(1)  # dropout draws
        output = module(images)
        # where a bias is followed by batch normalisation, its gradient is 0 up to rounding
        grads = torch.autograd.grad(output.square().sum(), list(module.parameters()))
        results.append([output, *grads, *module.buffers()])
    torch.testing.assert_close(*results, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["Conv2d", "MaxPool2d", "AvgPool2d"])
def test_an_unknown_algorithm_is_refused_when_the_layer_is_made(name: str) -> None:
    arguments = (1, 1, 3) if name == "Conv2d" else (2,)
    with pytest.raises(ops.UnknownAlgorithmError, match="unknown algorithm 'magic'"):
        getattr(cnnexp.nn, name)(*arguments, algorithm="magic")


@pytest.mark.parametrize("algorithm", ops.algorithm_names("conv2d"))
@pytest.mark.parametrize("make", [SeedCNN, LeNet5])
def test_replace_layers_keeps_outputs_gradients_and_state(make: Any, algorithm: str) -> None:
    network = make()
    image, labels = torch.randn(4, 1, 28, 28), torch.tensor([1, 2, 3, 4])
    loss = nn.functional.cross_entropy(network(image), labels)
    expected = torch.autograd.grad(loss, list(network.parameters()))
    state, parameters = network.state_dict(), list(network.parameters())
    assert cnnexp.nn.replace_layers(network, algorithm) is network
    layers = [m for m in network.modules() if isinstance(m, cnnexp.nn.Layer)]
    assert len(layers) == (13 if make is SeedCNN else 11)
    assert all(one is other for one, other in zip(network.parameters(), parameters, strict=True))
    assert network.state_dict().keys() == state.keys()
    loss = nn.functional.cross_entropy(network(image), labels)
    # one step's gradients agree to 1e-5 of their size in float32
    for found, true in zip(
        torch.autograd.grad(loss, list(network.parameters())), expected, strict=True
    ):
        assert (found - true).norm() <= 1e-5 * true.norm()


def test_replace_layers_switches_ours_and_keeps_hooks_and_shared_layers() -> None:
    shared = nn.MaxPool2d(2)
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), shared, nn.Tanh(), shared)
    seen: list[torch.Size] = []
    network[0].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    cnnexp.nn.replace_layers(network, "im2col")
    assert network[1] is network[3] is shared
    cnnexp.nn.replace_layers(network, "direct")
    assert {m.algorithm for m in network.modules() if hasattr(m, "algorithm")} == {"direct"}
    network(torch.zeros(1, 1, 8, 8))
    assert seen == [torch.Size([1, 1, 8, 8])]


def test_replace_layers_leaves_subclasses_of_others_alone() -> None:
    class Quantised(nn.Conv2d):
        pass

    network = nn.Sequential(Quantised(1, 1, 3))
    cnnexp.nn.replace_layers(network)
    assert type(network[0]) is Quantised


def test_replace_layers_changes_nothing_when_it_refuses() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 3))
    with pytest.raises(ops.UnknownAlgorithmError):
        cnnexp.nn.replace_layers(network, "magic")
    assert type(network[0]) is nn.Conv2d
