"""Layers of ``cnnexp.nn`` on a batch without images: what their twins in torch make of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnexp.nn
from cnnexp import ops

LAYERS: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {
    "AdaptiveAvgPool2d": [(((3, 2),), {}), ((1,), {})],
    "AvgPool2d": [((2,), {}), ((3,), {"stride": 2, "padding": 1})],
    "BatchNorm2d": [
        ((4,), {}),
        ((4,), {"momentum": None}),
        ((4,), {"affine": False}),
        ((4,), {"track_running_stats": False}),
    ],
    "Conv2d": [
        ((4, 3, 3), {}),
        ((4, 6, (3, 2)), {"stride": 2, "padding": 1, "groups": 2}),
        ((4, 3, 2), {"padding": "same"}),
        ((4, 3, 3), {"padding": 1, "padding_mode": "reflect", "bias": False}),
    ],
    "Dropout": [((0.3,), {}), ((0.3,), {"inplace": True})],
    "LeakyReLU": [((0.3,), {}), ((0.3,), {"inplace": True})],
    "Linear": [((8, 3), {})],
    "MaxPool2d": [((2,), {}), ((3,), {"stride": 2, "padding": 1, "return_indices": True})],
    "ReLU": [((), {}), ((), {"inplace": True})],
}
LAYERS |= {
    twin.__name__: [((), {})]
    for twin in cnnexp.nn.REPLACEMENTS.values()
    if ops.is_activation(twin.op) and twin.__name__ not in LAYERS
}
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def test_every_layer_has_a_case() -> None:
    names = {twin.__name__ for twin in cnnexp.nn.REPLACEMENTS.values()}
    assert set(LAYERS) == names - {"CrossEntropyLoss", "BCEWithLogitsLoss", "MSELoss", "HuberLoss"}


def _results(layer: nn.Module, images: Tensor) -> list[Any]:
    leaf = images.clone().requires_grad_()
    output = layer(leaf * 1)
    output = output[0] if isinstance(output, tuple) else output
    inputs = [leaf, *layer.parameters()]
    grads = torch.autograd.grad(output.sum(), inputs)
    return [output.detach(), *grads, dict(layer.state_dict())]


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [(n, a) for n in LAYERS for a in (*ops.algorithm_names(getattr(cnnexp.nn, n).op), "auto")],
)
def test_a_layer_is_its_twin_before_at_and_after_an_empty_batch(name: str, algorithm: str) -> None:
    """Also the running statistics and how many batches were counted."""
    for arguments, options in LAYERS[name]:
        theirs = getattr(nn, name)(*arguments, **options).double()
        ours = getattr(cnnexp.nn, name)(*arguments, **options, algorithm=algorithm).double()
        ours.load_state_dict(theirs.state_dict())
        images = torch.randn(2, 4, 7, 8).double()
        for training in (True, False):
            for layer in (ours, theirs):
                layer.train(training)
            for batch in (images, images[:0], images):
                if algorithm == "auto" and len(batch):
                    continue  # measured elsewhere
                results = []
                for layer in (ours, theirs):
                    torch.manual_seed(1)  # dropout draws
                    results.append(_results(layer, batch))
                torch.testing.assert_close(*results)


@pytest.mark.parametrize("algorithm", ops.algorithm_names("conv_relu_pool"))
def test_a_block_takes_an_empty_batch(algorithm: str) -> None:
    for pool in (ops.Pool(), ops.Pool("avg"), ops.Pool("max", 3, 2, 1, ceil_mode=True)):
        for channels in (3, 16):
            block = cnnexp.nn.ConvReLUPool(channels, 16, 3, pool=pool, algorithm=algorithm)
            output, grad, *others, _ = _results(block, torch.zeros(0, channels, 8, 9))
            assert output.shape == (0, 16, *block(torch.zeros(1, channels, 8, 9)).shape[2:])
            assert grad.shape == (0, channels, 8, 9)
            assert not any(each.any() for each in others)


@pytest.mark.parametrize("algorithm", ops.algorithm_names("cross_entropy"))
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_loss_of_no_images_is_that_of_torch(algorithm: str, reduction: str) -> None:
    for shape, size in (((0, 3), (0,)), ((0, 3, 2), (0, 2)), ((0, 3), (0, 3))):
        target = torch.zeros(size) if size == shape else torch.zeros(size, dtype=torch.int64)
        results = []
        for loss in (
            cnnexp.nn.CrossEntropyLoss(reduction=reduction, algorithm=algorithm),
            nn.CrossEntropyLoss(reduction=reduction),
        ):
            logits = torch.zeros(shape, requires_grad=True)
            value = loss(logits, target)
            results.append([value.detach(), torch.autograd.grad(value.sum(), logits)[0]])
        torch.testing.assert_close(*results, equal_nan=True)
