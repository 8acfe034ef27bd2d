"""Trainings as other people write them: their networks, the habits that spoil them, and their right twins.

No limit of the verdict was set by these; each habit has the network that it was written for, in the style of
that network's authors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verdict_parts.altering import (
    Alter,
    Case,
    as_pixels,
    from_one,
    labels_to,
    noisy,
    sorted_by_label,
    with_images,
    with_network,
)

_SGD, _MOMENTUM = "optimizer=sgd", "optimizer=momentum"


class TutorialNet(nn.Module):
    """As in a first tutorial: layers in ``__init__``, everything else as functions in ``forward``."""

    def __init__(
        self,
        end: Callable[[Tensor], Tensor] = lambda x: x,
        drop: float = 0.0,
        always: bool = False,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 4 * 4, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)
        self.end, self.drop, self.always = end, drop, always

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, 16 * 4 * 4)
        x = F.relu(self.fc1(x))
        x = F.dropout(x, self.drop, training=self.always or self.training)
        return self.end(self.fc3(F.relu(self.fc2(x))))


class ExampleNet(nn.Module):
    """As in a well-known example: two convolutions, dropout, and log-softmax at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, 1)
        self.conv2 = nn.Conv2d(16, 16, 3, 1)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(2304, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = torch.flatten(self.dropout1(F.max_pool2d(x, 2)), 1)
        x = self.dropout2(F.relu(self.fc1(x)))
        return F.log_softmax(self.fc2(x), dim=1)


def conv_bn(into: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)
    )


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def fast_resnet() -> nn.Sequential:
    """As in a contest for seconds: one expression of small parts, global pooling."""
    return nn.Sequential(
        conv_bn(1, 8, 2),
        conv_bn(8, 16, 2),
        Residual(nn.Sequential(conv_bn(16, 16), conv_bn(16, 16))),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


class Mlp(nn.Module):
    """As in a course on back-propagation: no convolution at all."""

    def __init__(self, end: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(784, 100), nn.Linear(100, 60), nn.Linear(60, 10)])
        self.end = end or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(x.shape[0], -1)
        for layer in self.layers[:-1]:
            x = torch.tanh(layer(x))
        return self.end(self.layers[-1](x))


class Transferred(nn.Module):
    """As in a tutorial on transfer: a backbone, and a head that is replaced."""

    def __init__(self, frozen: bool) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv_bn(1, 16, 2), conv_bn(16, 16, 2), nn.Flatten())
        last = nn.Linear(32, 10)
        self.head = nn.Sequential(nn.Linear(16 * 7 * 7, 32), nn.GELU(), last)
        if frozen:  # meant for weights that were trained before, and typed for the whole network
            for p in self.parameters():
                p.requires_grad = False
            last.weight.requires_grad = True

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


class Squared(nn.Module):
    """As in a course before it comes to the cross-entropy."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(x, F.one_hot(y, x.size(1)).float())


class Hundredfold(nn.Module):
    """A loss by somebody who sums up where others average."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return 100 * F.cross_entropy(x, y)


def _loss(make: Callable[[], nn.Module]) -> Alter:
    return lambda job: replace(job, loss=lambda _: make())


def _net(make: Callable[[], nn.Module]) -> Alter:
    return with_network(lambda _: make())


def _both(first: Alter, second: Alter) -> Alter:
    return lambda job: second(first(job))


def _rolled(labels: Tensor, _seed: int) -> Tensor:
    """A file of labels that was read from its second line on."""
    return labels.roll(1)


def _spoilt(name: str, cause: str, alter: Alter, *overrides: str) -> Case:
    causes = (cause, "exploding") if cause == "lr too high" else (cause,)
    return Case("habit", name, overrides, alter, causes)


def _right(name: str, alter: Alter, *overrides: str) -> Case:
    return Case("healthy", name, overrides, alter)


SPOILT = (
    _spoilt(
        "images not normalised",
        "images not normalised",
        _both(_net(TutorialNet), with_images(as_pixels(0.0, 1 / 255))),
        *(_MOMENTUM, "optimizer.lr=0.01"),
    ),
    _spoilt(
        "labels shifted by one image",
        "labels do not fit",
        _both(_net(Mlp), with_images(labels_to(_rolled))),
    ),
    _spoilt(
        "a fifth of the labels by chance",
        "label noise",
        _both(_net(TutorialNet), with_images(labels_to(noisy(0.2)), 1)),
        "trainer.max_epochs=4",
    ),
    _spoilt(
        "labels counted from 1, and a class more",
        "classes missing",
        _both(with_images(from_one), _net(lambda: TutorialNet(classes=11))),
    ),
    _spoilt(
        "sorted images, not shuffled",
        "sorted batches",
        _both(_net(TutorialNet), sorted_by_label),
        *(_SGD, "optimizer.lr=0.05"),
    ),
    _spoilt(
        "softmax before cross-entropy",
        "outputs squashed",
        _net(lambda: TutorialNet(lambda x: F.softmax(x, dim=1))),
        *(_SGD, "optimizer.lr=0.05"),
    ),
    _spoilt(
        "sigmoid before cross-entropy",
        "outputs squashed",
        _net(lambda: Mlp(nn.Sigmoid())),
        *(_SGD, "optimizer.lr=0.05"),
    ),
    _spoilt(
        "tanh before cross-entropy",
        "outputs squashed",
        _net(lambda: Mlp(nn.Tanh())),
        *(_SGD, "optimizer.lr=0.05"),
    ),
    _spoilt(
        "ReLU before cross-entropy",
        "outputs squashed",
        _net(lambda: TutorialNet(torch.relu)),
    ),
    _spoilt(
        "dropout left on",
        "random in evaluation",
        _net(lambda: TutorialNet(drop=0.5, always=True)),
    ),
    _spoilt("Adam's rate for SGD", "lr too low", _net(TutorialNet), _SGD, "optimizer.lr=0.001"),
    _spoilt("SGD's rate for Adam", "lr too high", _net(TutorialNet), "optimizer.lr=0.1"),
    _spoilt(
        "a rate that kills most units",
        "dead",
        _net(fast_resnet),
        *("optimizer=nesterov", "optimizer.lr=0.05"),
    ),
    _spoilt(
        "weight decay on everything",
        "penalty too strong",
        _net(fast_resnet),
        *("regularization=l2", "regularization.l2.strength=0.5", "parameters.decay_all=true"),
    ),
    _spoilt(
        "two images a batch, with BatchNorm",
        "tiny batch",
        _net(fast_resnet),
        *("data.batch_size=2", "data.train_size=600", "optimizer.lr=0.03"),
    ),
    _spoilt(
        "frozen by accident",
        "frozen",
        _net(lambda: Transferred(frozen=True)),
        *(_SGD, "optimizer.lr=0.001"),
    ),
)

RIGHT = (
    _right("tutorial, momentum", _net(TutorialNet), _MOMENTUM, "optimizer.lr=0.02"),
    _right("tutorial, dropout", _net(lambda: TutorialNet(drop=0.3))),
    _right("tutorial, 1,000 outputs", _net(lambda: TutorialNet(classes=1000))),
    _right("example, Adadelta", _net(ExampleNet), "optimizer=adadelta", "optimizer.lr=1.0"),
    _right("example, Adam", _net(ExampleNet)),
    _right("contest, Nesterov", _net(fast_resnet), "optimizer=nesterov", "optimizer.lr=0.01"),
    _right("contest, AdamW", _net(fast_resnet), "optimizer=adamw", "optimizer.lr=0.01"),
    _right("course, SGD", _net(Mlp), _SGD, "optimizer.lr=0.1"),
    _right("course, Adam", _net(Mlp)),
    _right(
        "course, sigmoid and squared errors", _both(_net(lambda: Mlp(nn.Sigmoid())), _loss(Squared))
    ),
    _right("tutorial, a hundred times the loss", _both(_net(TutorialNet), _loss(Hundredfold))),
    _right("tutorial, focal loss", _net(TutorialNet), "loss=focal"),
    _right("transfer, nothing frozen", _net(lambda: Transferred(frozen=False))),
)
