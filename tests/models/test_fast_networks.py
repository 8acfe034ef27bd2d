"""The networks of the shortest trainings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnnexp.config import Composer, plain_config
from cnnexp.config.build import build_job
from cnnexp.models import FastCNN, WhitenedCNN


def test_fast_cnn_has_the_layers_that_it_says() -> None:
    network = FastCNN()
    # 25·16 + 9·16·32 weights of convolutions, 512·96 + 96·10 of linear layers; norms and a bias
    expected = 400 + 4_608 + 49_152 + 960 + 2 * (16 + 32 + 96) + 10
    assert sum(p.numel() for p in network.parameters()) == expected
    assert network(torch.randn(3, 1, 28, 28)).shape == (3, 10)
    assert FastCNN(3, 7, (32, 40), (4, 6, 8), crop=0)(torch.randn(2, 3, 32, 40)).shape == (2, 7)


def test_fast_cnn_does_not_see_what_is_cropped() -> None:
    network = FastCNN(crop=3).eval()
    images = torch.randn(2, 1, 28, 28)
    framed = images.clone()
    framed[:, :, :3], framed[:, :, :, -3:] = 5.0, -5.0
    assert torch.equal(network(images), network(framed))
    framed[:, :, 3] = 5.0
    assert not torch.equal(network(images), network(framed))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (8,)}, r"channels must be two or more positive numbers.*\[8\]"),
        ({"hidden": 0}, "hidden at least 1, but got"),
        ({"crop": -1}, "crop must be at least 0, but got -1"),
        ({"crop": 11}, "images of 28×28 are too small for 2 convolutions after a crop of 11"),
        ({"norm_memory": 0.0}, "norm_memory must be above 0 and at most 1"),
    ],
)
def test_fast_cnn_says_what_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FastCNN(**options)


def test_whitened_patches_are_uncorrelated_with_variance_1() -> None:
    torch.manual_seed(0)
    images = F.avg_pool2d(torch.randn(64, 3, 34, 34), 3, stride=1)  # neighbours are alike
    network = WhitenedCNN(channels=(8,))
    network.init_from_images(images)
    half = 3 * 2**2
    found = network.whitening(images)[:, :half].movedim(1, -1).flatten(0, -2)
    moments = found.mT @ found / len(found)
    torch.testing.assert_close(moments, torch.eye(half), atol=0.05, rtol=0)
    both = network.whitening(images)
    torch.testing.assert_close(both[:, half:], -both[:, :half])


def test_whitened_cnn_learns_all_but_the_kernels_and_scales() -> None:
    network = WhitenedCNN(channels=(8, 16))
    fixed = [name for name, p in network.named_parameters() if not p.requires_grad]
    norms = [n for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert sorted(fixed) == sorted(["whitening.weight", *(f"{name}.weight" for name in norms)])
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    first = next(m for m in network.features if isinstance(m, nn.Conv2d))
    x = torch.randn(1, 24, 5, 5)[:, :8]  # dirac: the first channels pass
    assert torch.equal(F.conv2d(torch.cat([x, x, x], 1), first.weight[:8], padding=1), x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": ()}, "channels must be one or more positive numbers"),
        ({"patch": 0}, "patch at least 1, but got"),
        ({"image_size": (6, 6)}, "images of 6×6 are too small to be halved 3 times"),
        ({"norm_memory": 1.5}, "norm_memory must be above 0 and at most 1, but got 1.5"),
    ],
)
def test_whitened_cnn_says_what_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WhitenedCNN(**options)


def test_a_config_sets_the_whitening_by_the_training_images() -> None:
    settings = ["model=whitened_cnn", "model.channels=[4]", "data=synthetic", "data.image_size=12"]
    sizes = ["data.channels=3", "data.size=60", "data.val_size=10"]
    job = build_job(plain_config(Composer("train").compose([*settings, *sizes])))
    network = job.network(job.data.images)
    assert isinstance(network, WhitenedCNN)
    images = job.data.images
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (images.mean, images.std))
    pixels, _ = images.train.batch(torch.arange(60))
    found = network.whitening((pixels.float() / 255 - mean) / std)[:, :12]
    moments = found.movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(
        moments.mT @ moments / len(moments), torch.eye(12), atol=0.05, rtol=0
    )
