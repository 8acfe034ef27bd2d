"""The networks whose training steps are timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn

from cnnexp.models import LeNet5, SeedCNN, TinyCNN, VGGLike, torchvision_model
from cnnexp.speed.tutorials import CIFARResNet18, CIFARTutorial, MNISTExample


@dataclass(frozen=True)
class TimedNetwork:
    """A network for ten classes.

    Attributes:
        make: Makes it, with random weights, for images of a given height and width.
        channels: The number of channels of the images.
        size: Their height and width, unless another size is asked for.
        least: The smallest size that the network takes.
        most: The greatest; None if there is none.
        functions: Whether its ``forward`` calls activations and poolings, for ``replace_layers``.
    """

    make: Callable[[int], nn.Module]
    channels: int = 3
    size: int = 64
    least: int = 32
    most: int | None = None
    functions: bool = False


def _torchvision(name: str, least: int = 1) -> TimedNetwork:
    return TimedNetwork(lambda _size: torchvision_model(name), least=least)


def _ours(kind: Callable[..., nn.Module], least: int) -> TimedNetwork:
    make = partial(kind, 1, 10)
    return TimedNetwork(lambda size: make(image_size=(size, size)), 1, 28, least)


def network_named(name: str) -> TimedNetwork:
    """One of ``MODELS``, or any classifier of torchvision; see ``cnnexp.models.torchvision_model``."""
    return MODELS.get(name) or _torchvision(name)


def known_networks() -> list[str]:
    """The names that :func:`network_named` takes."""
    import torchvision.models

    return list(dict.fromkeys([*MODELS, *torchvision.models.list_models(torchvision.models)]))


MODELS: Mapping[str, TimedNetwork] = {
    "seed_cnn": _ours(SeedCNN, 16),
    "lenet5": _ours(LeNet5, 16),
    "tiny": _ours(TinyCNN, 16),
    "vgg": _ours(VGGLike, 8),
    "mnist_example": TimedNetwork(lambda _size: MNISTExample(), 1, 28, 28, 28, True),
    "cifar_tutorial": TimedNetwork(lambda _size: CIFARTutorial(), 3, 32, 32, 32, True),
    "cifar_resnet18": TimedNetwork(lambda _size: CIFARResNet18(), 3, 32, 8, None, True),
    "resnet18": _torchvision("resnet18"),
    "mobilenet_v3_small": _torchvision("mobilenet_v3_small"),
    "vgg11": _torchvision("vgg11", 32),
    "vgg11_bn": _torchvision("vgg11_bn", 32),
}
