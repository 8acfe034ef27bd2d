"""Per-sample norms and clipped sums against batches of one and torch.func, over layers and habits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from cnnexp.nn import ConvReLUPool, replace_layers
from cnnexp.nn.per_sample import PerSampleError, sample_norms, watched
from cnnexp.ops import Pool
from cnnexp.privacy import Clipping
from cnnexp.privacy.clipping import clipped_sums

pytestmark = pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")

SIZE = (3, 9, 8)  # of an image
CLASSES = 4


class Shared(nn.Module):
    """One layer in two places, and a weight that two layers have in common."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.one, self.other = nn.Linear(3 * 72, 3 * 72), nn.Linear(3 * 72, 3 * 72)
        self.other.weight = self.one.weight
        self.last = nn.Linear(3 * 72, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(torch.tanh(self.conv(x)))
        return self.last(torch.tanh(self.other(torch.tanh(self.one(x.flatten(1))))))


class ScaledInput(nn.Module):
    """A layer that nobody knows, with a parameter of its own beside a layer within."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(3, 1, 1))
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x * self.scale)


def _conv(**options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Conv2d(3, 6, **options), nn.Tanh(), nn.Flatten(), nn.LazyLinear(CLASSES)
    )


def _block(pool: Pool, **options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        ConvReLUPool(3, 6, 3, pool=pool, **options),
        ConvReLUPool(6, 5, 3, padding=1, pool=Pool()),
        nn.Flatten(),
        nn.LazyLinear(CLASSES),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "conv": _conv(kernel_size=3),
    "strides": _conv(kernel_size=(3, 2), stride=(2, 3), padding=(1, 2)),
    "dilated": _conv(kernel_size=3, dilation=(2, 1), padding=2),
    "groups": _conv(kernel_size=3, groups=3, bias=False),
    "same": _conv(kernel_size=(4, 3), padding="same"),
    "reflect": _conv(kernel_size=3, padding=2, padding_mode="reflect"),
    "max block": _block(Pool()),
    "overlapping block": _block(Pool(kernel_size=3, stride=1), padding=1),
    "average block": _block(Pool(kind="avg")),
    "grouped block": lambda: nn.Sequential(
        ConvReLUPool(3, 6, 3, groups=3), nn.Flatten(), nn.LazyLinear(CLASSES)
    ),
    "rows": lambda: nn.Sequential(nn.Linear(8, 5), nn.GELU(), nn.Flatten(), nn.LazyLinear(CLASSES)),
    "group norm": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.GroupNorm(2, 6),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.LazyLinear(CLASSES),
    ),
    "layer norm": lambda: nn.Sequential(
        nn.LayerNorm([9, 8]), nn.Flatten(), nn.LayerNorm(216), nn.Linear(216, CLASSES)
    ),
    "shared": Shared,
    "unknown": lambda: nn.Sequential(
        ScaledInput(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(CLASSES)
    ),
    "parametrised": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
        nn.Flatten(),
        nn.LazyLinear(CLASSES),
    ),
    "frozen": lambda: _freeze(_conv(kernel_size=3)()),
    "instance norm": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.InstanceNorm2d(4, affine=True),
        nn.PReLU(),
        nn.Flatten(),
        nn.LazyLinear(CLASSES),
    ),
}


def _freeze(network: nn.Module) -> nn.Module:
    first = next(network.children())
    first.weight.requires_grad_(False)
    return network


def made(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(1)
    network = NETWORKS[name]()
    network(torch.randn(2, *SIZE))
    return network.to(dtype)


def batch(samples: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.randn(samples, *SIZE, dtype=dtype), torch.arange(samples) % CLASSES


def per_sample(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """By torch.func alone."""
    parameters = {n: p.detach() for n, p in network.named_parameters() if p.requires_grad}

    def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(network, parameters, (image[None],)), label[None])

    return vmap(grad(loss), in_dims=(None, 0, 0))(parameters, images, labels)


def passed(network: nn.Module, images: Tensor, labels: Tensor) -> list:
    with watched(network, len(images)) as calls:
        F.cross_entropy(network(images), labels, reduction="sum").backward()
    assert all(p.grad is None for p in network.parameters())
    return calls


@pytest.mark.parametrize("backward", ["native", "direct", "fused", "im2col"])
@pytest.mark.parametrize("name", NETWORKS)
def test_norms_and_clipped_sums_are_those_of_each_sample_alone(name: str, backward: str) -> None:
    network, (images, labels) = made(name), batch(5)
    expected = per_sample(network, images, labels)
    replace_layers(network, backward)
    calls = passed(network, images, labels)
    norms = torch.stack([g.flatten(1).square().sum(1) for g in expected.values()]).sum(0).sqrt()
    assert torch.allclose(sample_norms(calls).sum(0).sqrt(), norms, rtol=1e-10)

    limit = float(norms.median())
    factors = (limit / norms).clamp(max=1)
    sums = clipped_sums(calls, Clipping(limit))
    named = {n: p for n, p in network.named_parameters() if p.requires_grad}
    assert set(sums) == set(named.values())
    for key, g in expected.items():
        summed = torch.einsum("n,n...->...", factors, g)
        assert torch.allclose(sums[named[key]], summed, rtol=1e-10, atol=1e-12), key


@pytest.mark.parametrize("name", NETWORKS)
def test_copies_of_a_sample_have_one_gradient(name: str) -> None:
    network, (images, labels) = made(name), batch(6)
    labels = labels // 2  # of three samples, two copies each
    expected = {
        n: g.unflatten(0, (3, 2)).sum(1) for n, g in per_sample(network, images, labels).items()
    }
    replace_layers(network, "fused")
    with watched(network, 3, copies=2) as calls:
        F.cross_entropy(network(images), labels, reduction="sum").backward()
    norms = torch.stack([g.flatten(1).square().sum(1) for g in expected.values()]).sum(0).sqrt()
    assert torch.allclose(sample_norms(calls).sum(0).sqrt(), norms, rtol=1e-10)
    factors = (norms.median() / norms).clamp(max=1)
    sums = clipped_sums(calls, Clipping(float(norms.median())))
    named = dict(network.named_parameters())
    for key, g in expected.items():
        summed = torch.einsum("n,n...->...", factors, g)
        assert torch.allclose(sums[named[key]], summed, rtol=1e-10, atol=1e-12), key


@pytest.mark.parametrize("name", NETWORKS)
def test_without_a_limit_the_sum_is_the_plain_gradient_to_the_bit(name: str) -> None:
    network, (images, labels) = (
        replace_layers(made(name, torch.float32), "direct"),
        batch(4, torch.float32),
    )
    sums = clipped_sums(passed(network, images, labels), Clipping(float("inf")))
    F.cross_entropy(network(images), labels, reduction="sum").backward()
    for key, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None
        if name == "shared":  # summed in another order
            assert torch.allclose(sums[parameter], parameter.grad, atol=1e-5), key
        else:
            assert torch.equal(sums[parameter], parameter.grad), key


@pytest.mark.parametrize(
    "name", sorted(set(NETWORKS) - {"instance norm"})
)  # torch's takes no empty batch
def test_a_batch_of_nobody_gives_zeros(name: str) -> None:
    network = replace_layers(made(name), "fused")
    with watched(network, 0) as calls:
        network(torch.zeros(0, *SIZE, dtype=torch.float64)).sum().backward()
    sums = clipped_sums(calls, Clipping(1.0))
    assert len(sums) == sum(p.requires_grad for p in network.parameters())
    assert all(not g.any() for g in sums.values())


@pytest.mark.parametrize("kind", ["flat", "per_layer", "automatic"])
def test_no_sample_moves_the_sum_by_more_than_the_limit(kind: Any) -> None:
    network, (images, labels) = made("group norm"), batch(6)
    images = images * torch.logspace(-3, 3, 6, dtype=torch.float64).view(-1, 1, 1, 1)
    clipping = Clipping(0.3, kind)
    whole = clipped_sums(passed(network, images, labels), clipping)
    moved = []
    for left_out in range(6):
        kept = [n for n in range(6) if n != left_out]
        rest = clipped_sums(passed(network, images[kept], labels[kept]), clipping)
        moved.append(math.sqrt(sum(float((whole[p] - rest[p]).square().sum()) for p in whole)))
    assert max(moved) <= 0.3 * (1 + 1e-9)
    assert max(moved) > 0.1  # the limit is made use of


def test_the_limit_by_layer_holds_for_each_layer() -> None:
    squares = torch.tensor([[4.0, 0.01], [9.0, 0.0]])
    factors = Clipping(1.0, "per_layer").factors(squares)
    assert torch.allclose(factors, torch.tensor([[0.5**0.5 / 2, 1.0], [0.5**0.5 / 3, 1.0]]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), "clip=0.0: must be greater than 0"),
        ((float("nan"),), "clip=nan: must be greater than 0"),
        ((1.0, "global"), "clipping=global: must be one of flat, per_layer, automatic"),
        ((float("inf"), "automatic"), "clip=inf: clipping=automatic scales each gradient to it"),
    ],
)
def test_clipping_that_makes_no_sense_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace(".", r"\.")):
        Clipping(*arguments)


class Folded(nn.Module):
    """Rows of an image as a batch of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.row, self.last = nn.Linear(8, 2), nn.Linear(54, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.row(x.reshape(-1, 8)).view(len(x), -1))


def test_a_batch_that_is_folded_away_is_refused() -> None:
    network = Folded().double()
    message = r"row \(Linear\) takes or gives a tensor \[108, 8\] in a batch of 4 samples"
    with pytest.raises(PerSampleError, match=message):
        passed(network, *batch(4))
    assert network.row.weight.requires_grad  # as found
    assert "forward" not in vars(network.row)


@pytest.mark.parametrize(
    "backward", ["native", "direct", "narrow", "depthwise", "implicit_gemm", "im2col"]
)
@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
def test_within_autocast_an_image_is_what_the_op_rounded_it_to(backward: str, inside: bool) -> None:
    """∂L/∂y is of bfloat16 there, and the image that the first layer was given is not."""
    torch.manual_seed(3)
    groups = 16 if backward == "depthwise" else 1
    network = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=groups))
    replace_layers(network, backward, quiet=True)
    images = torch.randn(8, 16, 5, 4)

    def losses() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(images).square().float().sum()

    with watched(network, len(images)) as calls:
        losses().backward()
    with torch.autocast("cpu", torch.bfloat16, enabled=inside):
        sums = clipped_sums(calls, Clipping(float("inf")))
    losses().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(
            sums[parameter].float(), parameter.grad, rtol=0.02, atol=0.1, msg=name
        )
