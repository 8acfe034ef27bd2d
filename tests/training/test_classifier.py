from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from cnnexp.models import LeNet5
from cnnexp.regularization import L2
from cnnexp.training import Classifier


def _classifier(**options: object) -> Classifier:
    settings = {
        "num_classes": 10,
        "mean": (0.25,),
        "std": (0.5,),
        "optimizer": lambda network: torch.optim.SGD(network.parameters(), lr=0.1),
    }
    return Classifier(LeNet5(), **settings | options)  # pyright: ignore[reportArgumentType]


def test_it_normalises_and_keeps_the_statistics_in_its_state() -> None:
    classifier = _classifier()
    images = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(classifier(images), classifier.network((images - 0.25) / 0.5))
    assert {"mean", "std"} <= classifier.state_dict().keys()


def test_channels_last_changes_the_layout_and_not_the_result() -> None:
    torch.manual_seed(0)
    plain = _classifier()
    torch.manual_seed(0)
    last = _classifier(channels_last=True)
    assert last.network.features[3].weight.is_contiguous(memory_format=torch.channels_last)  # pyright: ignore
    images = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(last(images), plain(images))


def test_the_training_loss_is_cross_entropy_plus_penalties() -> None:
    classifier = _classifier(regularizers=[L2(0.1)])
    classifier.log = lambda *arguments, **options: None  # no Trainer here to log to
    images, labels = torch.rand(4, 1, 28, 28), torch.tensor([0, 1, 2, 3])
    weights = [p for p in classifier.network.parameters() if p.dim() >= 2]
    expected = F.cross_entropy(classifier(images), labels)
    expected = expected + 0.05 * sum((w.square().sum() for w in weights), torch.zeros(()))
    torch.testing.assert_close(classifier.training_step((images, labels), 0), expected)


def test_its_state_loads_into_a_plain_network() -> None:
    classifier = _classifier()
    prefix = "network."
    state = {
        k[len(prefix) :]: v for k, v in classifier.state_dict().items() if k.startswith(prefix)
    }
    network: nn.Module = LeNet5()
    network.load_state_dict(state)
    images = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(network(images), classifier.network(images))
