"""Per-sample gradients against torch.func, over every layer class that can be told apart by sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.modules.lazy import LazyModuleMixin

import cnnexp
import cnnexp.nn as ours
from cnnexp.models import SeedCNN, TinyCNN
from cnnexp.nn import (
    PerSampleError,
    gradient_noise,
    largest_gradients,
    per_sample_gradients,
    per_sample_norms,
    replace_layers,
)
from cnnexp.nn import loss as losses
from cnnexp.nn.per_sample.calls import OpaqueCall
from cnnexp.nn.per_sample.watch import watched_layers
from cnnexp.ops import Pool
from tests.nn.residual import Functions, residual

N = 5
Make = Callable[[], nn.Module]


def _image(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(N, *shape, dtype=torch.float64)


def _words() -> Tensor:
    return torch.arange(N * 4).view(N, 4) % 7


MAP, ROW, LINE, SPACE = _image(4, 7, 6), _image(6), _image(4, 9), _image(4, 5, 4, 3)
# each layer whose parameters train, of ours and of torch's, and what it takes
# fmt: off
LAYERS: dict[str, tuple[Make, Callable[[], Tensor]]] = {
    "Linear": (lambda: nn.Linear(6, 3), ROW),
    "Linear of rows": (lambda: nn.Linear(6, 3, bias=False), _image(4, 3, 6)),
    "Conv1d": (lambda: nn.Conv1d(4, 3, 3, padding=1), LINE),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, groups=2, stride=2), MAP),
    "Conv2d of wide groups": (
        lambda: nn.Conv2d(4, 16, (3, 2), groups=2, stride=2, dilation=(1, 2), padding=1), MAP,
    ),
    "Conv3d": (lambda: nn.Conv3d(4, 2, 2), SPACE),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 3, 3), LINE),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 3, 3, stride=2), MAP),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(4, 2, 2), SPACE),
    "Embedding": (lambda: nn.Embedding(7, 3, padding_idx=1), _words),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), MAP),
    "LayerNorm": (lambda: nn.LayerNorm([7, 6]), MAP),
    "RMSNorm": (lambda: nn.RMSNorm(6), MAP),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(4, affine=True), LINE),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4, affine=True), MAP),
    "InstanceNorm3d": (lambda: nn.InstanceNorm3d(4, affine=True), SPACE),
    "PReLU": (lambda: nn.PReLU(4), MAP),
    "BatchNorm1d": (lambda: _moved(nn.BatchNorm1d(4)), LINE),
    "BatchNorm1d of rows": (lambda: _moved(nn.BatchNorm1d(6)), ROW),
    "BatchNorm2d": (lambda: _moved(nn.BatchNorm2d(4)), MAP),
    "BatchNorm3d": (lambda: _moved(nn.BatchNorm3d(4)), SPACE),
    "ours.Linear": (lambda: ours.Linear(6, 3), ROW),
    "ours.Conv2d": (lambda: ours.Conv2d(4, 3, 3, padding="same"), MAP),
    "ours.ConvReLUPool": (lambda: ours.ConvReLUPool(4, 3, 3, pool=Pool()), MAP),
    "ours.ConvTanhPool": (lambda: ours.ConvTanhPool(4, 3, 3, pool=Pool()), MAP),
    "ours.BatchNorm2d": (lambda: _moved(ours.BatchNorm2d(4)), MAP),
    "ours.BatchNormAct2d": (lambda: _moved(ours.BatchNormAct2d(4)), MAP),
}
# fmt: on
WITHOUT = {  # of ours: no parameters, parameters only once they are called, or no layer
    "Conversion",
    "Dropout",
    "GradientNoise",
    "LargestGradients",
    "Layer",
    "LayerNoise",
    "LazyBatchNorm2d",
    "LazyConv2d",
    "LazyLinear",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "MaxPool2d",
    "PerSampleError",
    "REPLACEMENTS",
    *ours.activation.__all__,
    *(kind.__name__ for kind in vars(losses).values() if isinstance(kind, type)),
}  # fmt: skip


def _moved(norm: Any) -> nn.Module:
    """A batch normalisation that has seen something."""
    nn.init.uniform_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.normal_(norm.weight)
    return norm.eval()


def test_every_layer_of_ours_that_has_parameters_is_here() -> None:
    classes = {name for name in ours.__all__ if name[0].isupper()}
    assert classes - WITHOUT == {name[5:] for name in LAYERS if name.startswith("ours.")}


def _made(make: Make) -> Any:
    torch.manual_seed(1)
    return make().double()


def _by_func(network: nn.Module, loss: Any, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    parameters = {n: p.detach() for n, p in network.named_parameters() if p.requires_grad}

    def own(parameters: dict[str, Tensor], input: Tensor, target: Tensor) -> Tensor:
        return loss(functional_call(network, parameters, (input[None],)), target[None])

    return vmap(grad(own), in_dims=(None, 0, 0))(parameters, inputs, targets)


def _agree(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert list(mine) == list(theirs)
    for name, g in theirs.items():
        assert mine[name].shape == g.shape
        assert torch.allclose(mine[name], g, rtol=1e-10, atol=1e-10 * float(g.abs().max())), name


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_between_others(name: str) -> None:
    make, inputs = LAYERS[name]
    layer, x = _made(make), inputs()
    network: nn.Module = layer
    if x.is_floating_point():  # a gradient must come to what is before it as well
        before = nn.Linear(x.size(-1), x.size(-1)).double()
        network = nn.Sequential(before, nn.Tanh(), layer)
    y = torch.randn_like(network(x))
    loss = nn.MSELoss(reduction="sum")
    twin = _without_ours(network)
    expected = _by_func(twin, loss, x, y)
    _agree(per_sample_gradients(network, loss, (x, y)), expected)
    norms = torch.stack([g.flatten(1).square().sum(1) for g in expected.values()]).sum(0).sqrt()
    assert torch.allclose(per_sample_norms(network, loss, (x, y)), norms, rtol=1e-10)


def _without_ours(network: nn.Module) -> nn.Module:
    """The network whose blocks torch.func can take apart."""
    for module in network.modules():
        if isinstance(module, (ours.ConvReLUPool, ours.BatchNormAct2d)):
            module.algorithm = "native"
    return network


@pytest.mark.parametrize(
    ("model", "backward"),
    [(SeedCNN, "direct"), *((TinyCNN, name) for name in ("native", "direct", "fused", "auto"))],
)
def test_a_whole_network_by_each_algorithm(model: Make, backward: str) -> None:
    network = _made(model).eval()
    x, y = torch.randn(N, 1, 28, 28, dtype=torch.float64), torch.arange(N)
    expected = _by_func(network, F.cross_entropy, x, y)
    replace_layers(network, backward)
    found = per_sample_gradients(network, F.cross_entropy, (x, y))
    _agree(found, expected)
    norms = torch.stack([g.flatten(1).square().sum(1) for g in expected.values()]).sum(0).sqrt()
    by_layer = per_sample_norms(network, F.cross_entropy, (x, y), by_layer=True)
    whole = torch.stack([*by_layer.values()]).square().sum(0).sqrt()
    assert torch.allclose(whole, norms, rtol=1e-10)
    for layer, own in by_layer.items():
        parts = [g.flatten(1) for name, g in expected.items() if name.rpartition(".")[0] == layer]
        assert torch.allclose(own, torch.cat(parts, 1).norm(dim=1), rtol=1e-10), layer


LOSSES: dict[str, Any] = {
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "mean": nn.CrossEntropyLoss(label_smoothing=0.1),
    "none": nn.CrossEntropyLoss(reduction="none"),
    "ours": ours.CrossEntropyLoss(),
    "weighted": nn.CrossEntropyLoss(torch.arange(1.0, 4).double()),
    "branch": lambda output, target: F.cross_entropy(output, target) * (2 if output.max() > 0 else 1),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_the_reduction_of_a_loss_does_not_matter(name: str) -> None:
    network, x, y = _made(lambda: nn.Linear(6, 3)), ROW(), torch.arange(N) % 3
    found, loss = per_sample_gradients(network, LOSSES[name], (x, y)), LOSSES[name]
    for n in range(N):  # by batches of one, the plain way
        value = loss(network(x[n : n + 1]), y[n : n + 1])
        alone = torch.autograd.grad(value.sum(), [*network.parameters()])
        for mine, theirs in zip(found.values(), alone, strict=True):
            assert torch.allclose(mine[n], theirs, rtol=1e-10, atol=1e-12)


class Shared(nn.Module):
    """One layer in two places, and a weight that two layers have in common."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.one, self.other = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.other.weight = self.one.weight
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(torch.tanh(self.one(torch.tanh(self.twice(torch.tanh(self.twice(x)))))))


def test_shared_parameters_get_the_sum_over_their_uses() -> None:
    network, x, y = _made(Shared), ROW(), torch.arange(N)
    expected = _by_func(network, F.cross_entropy, x, y)
    assert not expected["unused.weight"].any()
    _agree(per_sample_gradients(network, F.cross_entropy, (x, y)), expected)
    norms = per_sample_norms(network, F.cross_entropy, (x, y), by_layer=True)
    assert set(norms) == {"twice", "one+other", "unused"}
    together = [expected[name].flatten(1) for name in ("one.weight", "one.bias", "other.bias")]
    assert torch.allclose(norms["one+other"], torch.cat(together, 1).norm(dim=1), rtol=1e-10)


class Aliased(nn.Module):
    """A layer under two names, as ``self.head = self.body[1]`` gives."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(6, 6))
        self.head = self.body[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def test_a_layer_of_two_names_is_one() -> None:
    network, x, y = _made(Aliased), ROW(), torch.arange(N)
    expected = _by_func(network, F.cross_entropy, x, y)
    _agree(per_sample_gradients(network, F.cross_entropy, (x, y)), expected)
    norms = per_sample_norms(network, F.cross_entropy, (x, y), by_layer=True)
    assert set(norms) == {"body.1"}
    found = torch.cat([each.flatten(1) for each in expected.values()], 1).norm(dim=1)
    assert torch.allclose(norms["body.1"], found, rtol=1e-10)


def test_a_batch_of_nobody_gives_empty_gradients() -> None:
    network = _made(TinyCNN).eval()
    batch = torch.zeros(0, 1, 28, 28, dtype=torch.float64), torch.zeros(0).long()
    found = per_sample_gradients(network, F.cross_entropy, batch)
    shapes = {name: (0, *p.shape) for name, p in network.named_parameters()}
    assert {name: tuple(g.shape) for name, g in found.items()} == shapes
    assert per_sample_norms(network, F.cross_entropy, batch).shape == (0,)
    assert largest_gradients(network, F.cross_entropy, batch).indices.shape == (0,)
    with pytest.raises(ValueError, match="a batch of 0 has no variance"):
        gradient_noise(network, F.cross_entropy, batch)


def test_gradients_and_flags_of_the_network_stay() -> None:
    network, x, y = _made(lambda: nn.Linear(6, 3)), ROW().requires_grad_(), torch.arange(N) % 3
    network.weight.grad = before = torch.ones_like(network.weight)
    network.bias.requires_grad_(False)
    assert list(per_sample_gradients(network, F.cross_entropy, (x, y))) == ["weight"]
    assert network.weight.grad is before
    assert network.bias.grad is None
    assert x.grad is None
    assert network.weight.requires_grad
    assert not network.bias.requires_grad
    assert before.eq(1).all()


def test_noise_is_that_of_the_gradients_written_out() -> None:
    network = replace_layers(_made(TinyCNN).eval(), "fused")
    x, y = torch.randn(N, 1, 28, 28, dtype=torch.float64), torch.arange(N)
    grads = per_sample_gradients(network, F.cross_entropy, (x, y))
    flat = torch.cat([g.flatten(1) for g in grads.values()], 1)
    noise = gradient_noise(network, F.cross_entropy, (x, y))
    signal, variance = float(flat.mean(0).square().sum()), float(flat.var(0).sum())
    assert noise.mean_square == pytest.approx(signal, rel=1e-10)
    assert noise.variance == pytest.approx(variance, rel=1e-10)
    assert noise.signal_to_noise == pytest.approx(math.sqrt(signal / variance), rel=1e-10)
    assert noise.noise_scale == (
        pytest.approx(variance / (signal - variance / N), rel=1e-9)
        if signal > variance / N
        else math.inf
    )
    assert sum(layer.variance for layer in noise.layers.values()) == pytest.approx(noise.variance)
    last = list(noise.layers)[-1]
    own = [g.flatten(1) for name, g in grads.items() if name.rpartition(".")[0] == last]
    assert noise.layers[last].variance == pytest.approx(float(torch.cat(own, 1).var(0).sum()))


def test_equal_samples_have_no_noise() -> None:
    network, x = _made(lambda: nn.Linear(6, 3)), torch.ones(4, 6, dtype=torch.float64)
    noise = gradient_noise(network, F.cross_entropy, (x, torch.zeros(4).long()))
    assert noise.variance == pytest.approx(0, abs=1e-12)
    assert noise.signal_to_noise > 1e6


def test_the_largest_come_first() -> None:
    network, x, y = _made(lambda: nn.Linear(6, 3)), ROW(), torch.randn(N, 3, dtype=torch.float64)
    x[3] *= 100
    norms, indices = largest_gradients(network, F.mse_loss, (x, y), 2)
    every = per_sample_norms(network, F.mse_loss, (x, y))
    assert indices[0] == 3
    assert norms.tolist() == every.sort(descending=True).values[:2].tolist()
    assert len(largest_gradients(network, F.mse_loss, (x, y)).norms) == N
    with pytest.raises(ValueError, match="count=0: must be at least 1"):
        largest_gradients(network, F.mse_loss, (x, y), 0)


class Tied(nn.Module):
    """A weight that is also used outside of its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.inner(x), self.inner.weight)


BAD: dict[str, tuple[Make, Any, str]] = {
    "batch norm": (
        lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)), None,
        r"1 \(BatchNorm1d\) normalises each sample by mean .*; use GroupNorm in its place, or network.ev",
    ),
    "batch norm without parameters": (
        lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6, affine=False)), None, "use GroupNorm",
    ),
    "batch norm without statistics": (
        lambda: nn.Sequential(nn.BatchNorm1d(6, track_running_stats=False)).eval(), None, "use GroupNorm",
    ),
    "tied": (Tied, None, r"inner\.weight is used outside of the layer that it belongs to.*freeze it"),
    "lazy": (lambda: nn.LazyLinear(3), None, "weight has no shape yet; call the network once"),
    "two tensors": (lambda: nn.LSTM(6, 6), None, r"\(LSTM\) gives a tuple; each layer with parameters"),
    "no parameters": (nn.Tanh, None, "the loss does not depend on any parameter"),
    "a tensor": (lambda: nn.Linear(6, 3), lambda x, y: x, r"batch is a tensor; give tensors \(inp"),
    "no targets": (lambda: nn.Linear(6, 3), lambda x, y: (x,), r"batch is \['Tensor'\]; give tensors"),
    "a list": (lambda: nn.Linear(6, 3), lambda x, y: (x, y.tolist()), r"\['Tensor', 'list'\]"),
    "sizes": (lambda: nn.Linear(6, 3), lambda x, y: (x, y[:2]), r"tensors \[5, 6\], \[2\]; the first"),
    "flattened": (lambda: nn.Flatten(0), None, r"the network gives \[30\] for 5 samples"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_what_cannot_be_told_apart_is_refused(name: str) -> None:
    make, change, message = BAD[name]
    torch.manual_seed(0)
    network, x, y = make(), torch.randn(N, 6), torch.arange(N) % 3
    batch = (x, y) if change is None else change(x, y)
    for function in (per_sample_gradients, per_sample_norms):
        with pytest.raises(PerSampleError, match=message):
            function(network, F.cross_entropy, batch)


def test_a_loss_that_is_no_number_is_refused() -> None:
    network, x, y = nn.Linear(6, 3), torch.randn(N, 6), torch.arange(N) % 3
    with pytest.raises(
        PerSampleError, match=r"the loss of one sample is \[1, 3\]; it must be a sin"
    ):
        per_sample_gradients(network, lambda output, target: output, (x, y))
    no_tensor: Any = lambda output, target: 1.0  # noqa: E731
    with pytest.raises(PerSampleError, match="the loss of one sample is float"):
        per_sample_gradients(network, no_tensor, (x, y))


@pytest.mark.parametrize("recompute", [False, True])
def test_blocks_that_wait_for_functions(recompute: bool) -> None:
    network = residual(Functions).double().eval()
    network = nn.Sequential(network, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x, y = torch.randn(N, 3, 10, 8, dtype=torch.float64), torch.arange(N) % 2
    expected = _by_func(network, F.cross_entropy, x, y)
    replace_layers(network, "fused", recompute=recompute, functions=True, quiet=True)
    _agree(per_sample_gradients(network, F.cross_entropy, (x, y)), expected)


def _kinds(kind: type[nn.Module]) -> set[type[nn.Module]]:
    found = {each for below in kind.__subclasses__() for each in _kinds(below)}
    lazy = issubclass(kind, LazyModuleMixin)  # another class by the time that it has parameters
    return found if lazy or not kind.__module__.startswith("cnnexp.nn.") else {kind, *found}


@pytest.mark.parametrize(
    "kind", sorted(_kinds(nn.Conv2d) | _kinds(nn.Linear) | _kinds(nn.BatchNorm2d), key=str)
)
def test_each_class_of_ours_with_parameters_has_a_formula(kind: type[nn.Module]) -> None:
    twins: tuple[Any, ...] = nn.Conv2d, nn.Linear, nn.BatchNorm2d
    (twin,) = (each for each in twins if issubclass(kind, each))
    layer = twin(*{nn.Conv2d: (3, 3, 1), nn.Linear: (3, 3)}.get(twin, (3,)))
    layer.__class__ = kind
    ((_, (_, call)),) = watched_layers(nn.Sequential(layer)).items()
    assert call is not OpaqueCall


def test_it_is_offered_by_the_package() -> None:
    assert cnnexp.nn.per_sample_gradients is per_sample_gradients
