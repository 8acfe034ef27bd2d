"""Blocks put together and taken apart, and algorithms chosen layer by layer."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import cnnexp.nn
import cnnexp.tuning
from cnnexp import ops
from cnnexp.models import SeedCNN
from cnnexp.tuning import auto


def _network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same"),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
        nn.ReLU(),
        nn.AvgPool2d(2, count_include_pad=False),
        nn.Flatten(),
        nn.Linear(6 * 4, 3),
    )


def test_blocks_compute_what_their_parts_do_and_keep_all_names() -> None:
    network, image = _network(), torch.randn(2, 1, 8, 8)
    expected = network(image)
    names, state = [n for n, _ in network.named_modules()], network.state_dict()
    fused = cnnexp.nn.replace_layers(copy.deepcopy(network), "fused")
    kinds = [type(layer).__name__ for layer in fused]
    assert kinds.count("ConvReLUPool") == 2
    assert [n for n, _ in fused.named_modules()] == names
    assert fused.state_dict().keys() == state.keys()
    torch.testing.assert_close(fused(image), expected)
    assert "pool=Pool(kind='max', kernel_size=2" in repr(fused)
    assert "done by the layer before: ReLU" in repr(fused)

    cnnexp.nn.replace_layers(fused, "native")
    assert [type(layer).__name__ for layer in fused] == [type(layer).__name__ for layer in network]
    assert isinstance(fused[1], nn.ReLU)
    assert fused[1].inplace
    torch.testing.assert_close(fused(image), expected)


@pytest.mark.parametrize("size", [12, 13])
def test_lenets_blocks_compute_what_their_parts_do_and_are_split_again(size: int) -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 5, 3, padding_mode="reflect", padding=1),
        nn.Tanh(),
        nn.MaxPool2d(2),  # stays a layer of its own
        nn.Conv2d(5, 2, 1),
        nn.Tanh(),
    )
    image = torch.randn(3, 1, size, size)
    fused = cnnexp.nn.replace_layers(copy.deepcopy(network), "fused")
    assert [type(layer).__name__ for layer in fused] == [
        *("ConvTanhPool", "Done", "Done"),
        *("ConvTanhPool", "Done", "MaxPool2d"),
        *("ConvTanhPool", "Done"),
    ]
    assert [n for n, _ in fused.named_modules()] == [n for n, _ in network.named_modules()]
    assert fused.state_dict().keys() == network.state_dict().keys()
    results = []
    for each in (network, fused, cnnexp.nn.replace_layers(copy.deepcopy(fused), "direct")):
        output = each(image)
        results.append([output, *torch.autograd.grad(output.square().sum(), [*each.parameters()])])
    for found in results[1:]:
        torch.testing.assert_close(found, results[0])
    cnnexp.nn.replace_layers(fused, "native")
    assert [type(layer).__name__ for layer in fused] == [type(layer).__name__ for layer in network]
    assert "pool" not in vars(fused[0])
    torch.testing.assert_close(fused(image), results[0][0])


@pytest.mark.parametrize("algorithm", ["fused", "direct"])
def test_the_state_dict_of_a_block_is_that_of_its_convolution(algorithm: str) -> None:
    block = cnnexp.nn.ConvReLUPool(2, 3, 3, pool=ops.Pool("max", 3, 2), algorithm=algorithm)
    twin = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(3, 2))
    twin[0].load_state_dict(block.state_dict())
    image = torch.randn(2, 2, 9, 9)
    torch.testing.assert_close(block(image), twin(image))


def test_what_is_no_plain_block_stays_as_it_is() -> None:
    shared = nn.Conv2d(2, 2, 1)
    hooked = nn.ReLU()
    seen: list[int] = []
    hooked.register_forward_hook(lambda *_: seen.append(1))
    network = nn.Sequential(
        nn.Sequential(shared, nn.ReLU(), nn.MaxPool2d(2)),  # its convolution is used twice
        shared,
        nn.Sequential(nn.Conv2d(2, 2, 1), hooked, nn.MaxPool2d(2)),  # someone looks inside
        nn.Sequential(nn.Conv2d(2, 2, 1), nn.MaxPool2d(2), nn.ReLU()),  # another order
        nn.Sequential(nn.Conv2d(2, 2, 1), nn.GELU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(2, 33, 1), nn.Tanh(), nn.Conv2d(33, 2, 1)),  # many channels
        nn.Sequential(nn.Conv2d(2, 2, 1, 2), nn.Tanh()),  # a stride
        nn.Sequential(nn.Conv2d(2, 2, 1, groups=2), nn.Tanh()),
    )
    image = torch.randn(1, 2, 32, 32)
    expected = network(image)
    cnnexp.nn.replace_layers(network, "fused")
    blocks = cnnexp.nn.ConvReLUPool, cnnexp.nn.ConvTanhPool
    assert not [m for m in network.modules() if isinstance(m, blocks)]
    torch.testing.assert_close(network(image), expected)
    assert seen == [1, 1]


def test_layers_on_auto_are_chosen_on_a_copy_and_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNEXP_CACHE", str(tmp_path))
    auto.forget()
    network = cnnexp.nn.replace_layers(_network(), "auto")
    before, state = torch.random.get_rng_state(), copy.deepcopy(network.state_dict())
    chosen = cnnexp.tuning.choose_algorithms(network, torch.randn(4, 1, 8, 8, generator=_seeded()))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert set(chosen) == {"0", "3", "7"}
    assert set(cnnexp.nn.layer_algorithms(network).values()) == {"auto"}
    cnnexp.tuning.pin_algorithms(network, chosen)
    assert cnnexp.nn.layer_algorithms(network) == chosen
    assert all(p.grad is None for p in network.parameters())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name])
    auto.forget()


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("algorithms", "message"),
    [
        ({"0": "fused"}, "given for the layers 0, but the network has 0, 3, 7"),
        ({"0": "fused", "3": "fused", "9": "direct"}, "the layers 0, 3, 9, but"),
        ({"0": "fused", "3": "fused", "7": "fft"}, "unknown algorithm 'fft' for linear"),
    ],
)
def test_pinning_what_does_not_fit_changes_nothing(
    algorithms: dict[str, str], message: str
) -> None:
    network = cnnexp.nn.replace_layers(_network(), "auto")
    with pytest.raises(ValueError, match=message):
        cnnexp.tuning.pin_algorithms(network, algorithms)
    assert set(cnnexp.nn.layer_algorithms(network).values()) == {"auto"}


@pytest.mark.parametrize("algorithm", ["direct", "fused", "im2col", "native"])
def test_torch_func_on_a_whole_network(algorithm: str) -> None:
    """grad, vmap over it, jacrev, jacfwd and hessian of a small network, as torch's own layers."""
    network = SeedCNN(image_size=(8, 8), channels=(2, 3), num_classes=2, activation="gelu").double()
    twin = copy.deepcopy(network)
    cnnexp.nn.replace_layers(network, algorithm)
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64)

    def results(module: nn.Module) -> list[object]:
        parameters = {name: p.detach() for name, p in module.named_parameters()}

        def loss(parameters: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
            logits = torch.func.functional_call(module, parameters, (image.unsqueeze(0),))
            return logits.square().sum()

        func = torch.func
        small = {"classifier.bias": parameters["classifier.bias"]}

        def of_bias(bias: torch.Tensor) -> torch.Tensor:
            return loss({**parameters, "classifier.bias": bias}, images[0])

        return [
            func.grad(loss)(parameters, images[0]),
            func.vmap(func.grad(loss), (None, 0))(parameters, images),
            func.jacrev(loss, argnums=1)(parameters, images[0]),
            func.jacfwd(loss, argnums=1)(parameters, images[0]),
            func.hessian(of_bias)(small["classifier.bias"]),
        ]

    torch.testing.assert_close(results(network), results(twin))
