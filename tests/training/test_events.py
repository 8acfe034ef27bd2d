"""The events of a training step call whoever takes part in them, in order and with what they need."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from cnnexp.data import BatchSlice
from cnnexp.regularization import (
    EVENTS,
    Clip,
    Draws,
    LabelSmoothing,
    MixUp,
    RandomShift,
    Regularizer,
    taking_part,
)
from cnnexp.training import Classifier
from cnnexp.training.events import StepEvents


class _NextLabel(Regularizer):
    """Makes each label that of the next class."""

    name = "next_label"

    def labels(self, labels: Tensor, classes: int, draws: Draws) -> Tensor:
        return (labels + 1) % classes


class _Add(Regularizer):
    """Adds to the gradients and to the weights."""

    def __init__(self, number: float) -> None:
        self.number = number

    def gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.add_(self.number)

    @torch.no_grad()
    def weights(self, network: nn.Module) -> None:
        for parameter in network.parameters():
            parameter.mul_(2).add_(self.number)


def _batch() -> tuple[Tensor, Tensor]:
    return torch.rand(6, 1, 5, 5, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


def _events(*regularizers: Regularizer) -> StepEvents:
    return StepEvents(regularizers, classes=3, seed=1)


def _changed(*regularizers: Regularizer) -> tuple[Tensor, Tensor]:
    whole = BatchSlice.of_rank(6, 0, 1)
    return _events(*regularizers).batch(*_batch(), epoch=0, batch_idx=0, share=whole)


def test_a_class_takes_part_in_what_it_overrides_and_in_nothing_else() -> None:
    assert [e for e in EVENTS if taking_part([_Add(1.0)], e)] == ["gradients", "weights"]
    assert [e for e in EVENTS if taking_part([Clip(norm=1.0)], e)] == ["gradients"]

    class Knob(Regularizer):
        loss = 0.5  # a knob that is called as an event is none  # pyright: ignore

    assert not taking_part([Knob()], "loss")


def test_labels_change_before_images_are_mixed() -> None:
    images, labels = _batch()
    same, changed = _changed(_NextLabel())
    assert torch.equal(same, images)
    assert torch.equal(changed, (labels + 1) % 3)
    _, mixed = _changed(MixUp(1.0))
    _, both = _changed(_NextLabel(), MixUp(1.0))
    torch.testing.assert_close(both, mixed.roll(1, dims=1))


def test_nothing_is_drawn_where_nobody_changes_a_batch() -> None:
    images, labels = _batch()
    same, targets = _changed(LabelSmoothing(0.1), Clip(norm=1.0))
    assert torch.equal(same, images)
    assert torch.equal(targets, labels)
    assert not torch.equal(_changed(RandomShift(2))[0], images)


def test_gradients_and_weights_are_changed_in_the_order_given() -> None:
    network = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(network.weight)
    network.weight.grad = torch.zeros(1, 2)
    events = _events(_Add(1.0), _Add(10.0))
    events.gradients(list(network.parameters()))
    events.weights(network)
    assert network.weight.grad.tolist() == [[11.0, 11.0]]
    assert network.weight.tolist() == [[12.0, 12.0]]


def test_a_loss_that_is_no_cross_entropy_has_no_labels_to_smooth() -> None:
    plain = nn.CrossEntropyLoss()
    smoothed = _events(LabelSmoothing(0.25)).loss(plain)
    assert isinstance(smoothed, nn.CrossEntropyLoss)
    assert (plain.label_smoothing, smoothed.label_smoothing) == (0.0, 0.25)
    with pytest.raises(TypeError, match=r"label_smoothing: smooths the targets .* not of MSELoss"):
        _events(LabelSmoothing(0.25)).loss(nn.MSELoss())


def test_gradients_that_are_still_scaled_are_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Linear(2, 2)
    module = Classifier(
        network,
        num_classes=2,
        mean=[0.0],
        std=[1.0],
        optimizer=lambda network: torch.optim.SGD(network.parameters(), lr=0.1),
        regularizers=[Clip(norm=1.0)],
    )
    scaled = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=object()))
    monkeypatch.setattr(type(module), "trainer", scaled)
    fused = torch.optim.SGD(network.parameters(), lr=0.1)
    fused.defaults["fused"] = True
    with pytest.raises(RuntimeError, match=r"SGD with fused=true .* leave optimizer\.fused out"):
        module.configure_gradient_clipping(fused)
