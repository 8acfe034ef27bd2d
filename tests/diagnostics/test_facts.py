"""What is seen of data and network without training: small cases with answers worked out by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnexp import ops
from cnnexp.diagnostics import Predictions, trace_layers
from cnnexp.diagnostics.data_facts import (
    above_chance,
    duplicates,
    expected_classes,
    label_facts,
    neighbour_agreement,
)
from cnnexp.diagnostics.loss_facts import loss_facts
from cnnexp.diagnostics.network_facts import network_facts, output_kind
from cnnexp.nn import FocalLoss


def test_facts_of_labels() -> None:
    train, val = torch.tensor([1, 1, 1, 2]), torch.tensor([1, 0, 2, 2])
    assert label_facts(train, val, 4) == {
        "train_images": 4,
        "val_images": 4,
        "present": 2,
        "missing": [0, 3],
        "majority": 0.25,
        "unseen": 0.25,
    }
    assert label_facts(train, val[:0], 4)["majority"] == 0.75


def test_how_many_classes_a_batch_is_expected_to_have() -> None:
    assert expected_classes(torch.tensor([5, 5]), 2) == pytest.approx(1.5)
    assert expected_classes(torch.tensor([9, 0]), 4) == pytest.approx(1.0)


def test_copies_are_found_pixel_by_pixel_and_plain_images_are_none() -> None:
    train = torch.randint(256, (5, 3, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    val = torch.cat([train[3:], train[:1] ^ 1, torch.zeros(1, 3, 4, 4).byte()])
    plain = torch.cat([train, torch.zeros(1, 3, 4, 4).byte()])
    for parts in (1, 2, 6):
        assert duplicates(plain.split(parts), val.split(parts)) == 0.5
    assert duplicates([train[:3]], [val]) == 0.0


def test_nothing_is_read_where_there_is_nothing_to_compare() -> None:
    def refused() -> torch.Tensor:
        raise AssertionError("it was read")

    for val in ([torch.zeros(0, 3, 4, 4).byte()], []):
        assert duplicates((refused() for _ in range(1)), val) == 0.0


def test_neighbours_agree_where_labels_belong_to_images() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    images = labels.view(-1, 1, 1, 1) * 50 + torch.randint(20, (400, 1, 3, 3), generator=generator)
    images = images.byte()
    share, chance = neighbour_agreement(images[:200], labels[:200], images[200:], labels[200:])
    assert share > 0.95
    assert chance == pytest.approx(0.25, abs=0.02)
    mixed = labels[torch.randperm(400, generator=generator)]
    share, chance = neighbour_agreement(images[:200], mixed[:200], images[200:], mixed[200:])
    assert not above_chance(share, chance, 200)


class _Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return F.dropout(self.layer(images.flatten(1)), 0.5, training=True)


def test_facts_of_a_network_that_is_left_as_it_was() -> None:
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 3)
    )
    nn.init.constant_(network[4].weight, 2.0)  # pyright: ignore
    network[1].requires_grad_(False)
    images = torch.tensor([1.0, 3.0]).repeat(8, 2).view(8, 1, 2, 2)
    layers = trace_layers(network, images)
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    facts = network_facts(network, layers, images)
    assert facts == {
        "input_mean": 2.0,
        "input_std": 1.0,
        "outputs": "logits",
        "random": False,
        "frozen": pytest.approx(30 / (30 + 12 + 21)),
        "frozen_layers": ["1"],
        "constant_layers": ["4"],
        "dropout": 0.3,
        "batch_norm": True,
    }
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_that_is_left_on_is_noticed_without_a_change_of_the_random_state() -> None:
    network, images = _Dropping(), torch.ones(8, 1, 2, 2)
    state = torch.get_rng_state()
    assert network_facts(network, trace_layers(network, images), images)["random"]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [
        (torch.randn(4, 3).softmax(1), "probabilities"),
        (torch.randn(4, 3).sigmoid(), "within 0 and 1"),
        (torch.randn(4, 3, requires_grad=True).sigmoid(), "sigmoid"),
        (torch.randn(4, 3, requires_grad=True).sigmoid().view(4, 3).double(), "sigmoid"),
        (torch.randn(4, 3, requires_grad=True).tanh(), "tanh"),
        (torch.randn(4, 3, requires_grad=True).relu().clone(), "relu"),
        (ops.relu(torch.randn(4, 3, requires_grad=True)), "relu"),
        (ops.tanh(torch.randn(4, 3, requires_grad=True)), "tanh"),
        (torch.randn(4, 3, 5, requires_grad=True).mul(9).relu().mean(2), "logits"),
        (torch.randn(4, 3, requires_grad=True) * 1e3, "logits"),
        (torch.tensor([[0.0, 2.0], [1.0, 0.0]]), "logits"),
        (torch.randn(4, 3).log_softmax(1), "logits"),
        (torch.rand(4, 1), "logits"),
    ],
)
def test_the_kind_of_outputs(outputs: Tensor, kind: str) -> None:
    assert output_kind(outputs) == kind


class _Loss(nn.Module):
    def __init__(self, of: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.of = of

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return self.of(outputs, labels)


def _refusing(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy(outputs, F.one_hot(labels, 5).float())


@pytest.mark.parametrize(
    ("loss", "softmax", "chance"),
    [
        (nn.CrossEntropyLoss(), True, math.log(5)),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5, 1, 1, 2])), True, math.log(5)),
        (FocalLoss(), True, 0.8**2 * math.log(5)),
        (_Loss(lambda x, y: 100 * F.cross_entropy(x, y)), True, 100 * math.log(5)),
        (_Loss(lambda x, y: F.mse_loss(x, F.one_hot(y, 5).float())), False, 0.2),
        (_Loss(F.nll_loss), False, None),  # 0 where all is 0
        (_Loss(_refusing), False, None),
    ],
    ids=["cross-entropy", "weighted", "focal", "scaled", "mse", "nll", "refusing"],
)
def test_facts_of_a_loss(loss: nn.Module, softmax: bool, chance: float | None) -> None:
    state = torch.get_rng_state()
    expected = {"softmax": softmax} if chance is None else {"softmax": softmax, "chance": chance}
    assert loss_facts(loss, 5) == pytest.approx(expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_rank_of_the_label_among_errors() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]] * 4)
    seen = Predictions(4)
    seen.add(logits, torch.tensor([0, 1, 2, 3]))  # right, second, third and last choice
    assert seen.figures() == {
        "images": 4,
        "wrong": 0.75,
        "error_rank": 0.5,
        "commonest": 0,
        "commonest_share": 1.0,
        "least": 0.0,
        "greatest": 3.0,
    }
    assert Predictions(4).figures() == {}
