"""Ways to spoil a training: its labels, its images, its network, its optimiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnexp.config import Composer, plain_config
from cnnexp.config.build import build_job
from cnnexp.config.resolvers import register_resolvers
from cnnexp.data import ImageDataModule, ImageSet, LabelledImages
from cnnexp.training import TrainingJob

Alter = Callable[[TrainingJob], TrainingJob]
_SHARED = (
    *("backward=native", "accelerator=cpu", "logger=csv", "test=false"),
    *("trainer.max_epochs=2", "data.batch_size=32"),
)
_DATA = ("data=mnist", "data.train_size=2000", "data.val_size=1000", "data.fallback=error")
_MODEL = ("model=seed_cnn", "model.channels=[8,16]")


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes:
        kind: Of failure; "healthy" for none.
        name: What tells it from others of its kind.
        overrides: Of ``cnnexp.train``, beyond those that all share.
        alter: What is done to it beyond the config.
        causes: The findings that name its failure.
    """

    kind: str
    name: str
    overrides: tuple[str, ...] = ()
    alter: Alter | None = None
    causes: tuple[str, ...] = ()

    def job(self) -> TrainingJob:
        """The training, ready to run."""
        register_resolvers()
        groups = {override.partition("=")[0] for override in self.overrides}
        shared = [*_SHARED, *(() if "data" in groups else _DATA)]
        shared += () if "model" in groups else _MODEL
        config = plain_config(Composer("train").compose([*shared, *self.overrides]))
        job = build_job(config)
        root = str(config["data"].get("root"))
        if config["data"]["_target_"].endswith("load_mnist_or_digits"):
            own = job.data
            job = replace(job, data=_with_load(own, partial(_mnist, root)))
        return job if self.alter is None else self.alter(job)


@cache
def _mnist(root: str) -> ImageSet:
    from cnnexp.data import load_mnist

    return load_mnist(root, download=False)


def _with_load(data: ImageDataModule, load: Callable[[], ImageSet]) -> ImageDataModule:
    made = ImageDataModule(
        load,
        batch_size=data.batch_size,
        val_size=data.val_size,
        train_size=data.train_size,
        split_seed=data.split_seed,
        shuffle_seed=data.shuffle_seed,
    )
    return made


def with_images(change: Callable[[ImageSet, int], ImageSet], seed: int = 0) -> Alter:
    """Another image set instead of the job's own."""

    def alter(job: TrainingJob) -> TrainingJob:
        own = job.data
        return replace(job, data=_with_load(own, lambda: change(own.images, seed)))

    return alter


def _parts(images: ImageSet, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> ImageSet:
    assert isinstance(images.train, LabelledImages)
    return replace(images, train=LabelledImages(*change(images.train.images, images.train.labels)))


def labels_to(make: Callable[[Tensor, int], Tensor]) -> Callable[[ImageSet, int], ImageSet]:
    """Training and validation labels replaced by what ``make`` makes of them."""
    return lambda images, seed: _parts(images, lambda x, y: (x, make(y, seed)))


def shuffled(labels: Tensor, seed: int) -> Tensor:
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


def constant(labels: Tensor, seed: int) -> Tensor:
    return torch.full_like(labels, seed % 10)


def noisy(share: float) -> Callable[[Tensor, int], Tensor]:
    def make(labels: Tensor, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        wrong = torch.rand(len(labels), generator=generator) < share
        return torch.where(wrong, torch.randint(10, labels.shape, generator=generator), labels)

    return make


def from_one(images: ImageSet, _seed: int) -> ImageSet:
    """Labels that count from 1, and so one class more than there are."""
    more = _parts(images, lambda x, y: (x, y + 1))
    return replace(more, classes=(*images.classes, "10"))


def of_some(kept: int) -> Callable[[ImageSet, int], ImageSet]:
    """Images of the first classes alone, with all classes named."""

    def change(images: ImageSet, _seed: int) -> ImageSet:
        return _parts(images, lambda x, y: (x[y < kept], y[y < kept]))

    return change


def as_pixels(mean: float, std: float) -> Callable[[ImageSet, int], ImageSet]:
    """Pixels normalised by other numbers than their own."""
    return lambda images, _seed: replace(images, mean=(mean,), std=(std,))


def truncated(images: ImageSet, _seed: int) -> ImageSet:
    """Pixels in 0…1 kept as whole numbers, and so 0 or 1 of 255."""
    made = _parts(images, lambda x, y: (x // 255, y))
    return replace(made, mean=(0.0,), std=(1.0,))


def repeated(times: int) -> Callable[[ImageSet, int], ImageSet]:
    """A few images several times, so that copies fall on both sides of the split."""

    def change(images: ImageSet, _seed: int) -> ImageSet:
        count = 3000 // times + 1
        return _parts(
            images, lambda x, y: (x[:count].repeat(times, 1, 1, 1), y[:count].repeat(times))
        )

    return change


class _Sorted(ImageDataModule):
    """Batches in the order of labels."""

    def train_dataloader(self) -> Any:
        from cnnexp.data import batch_loader

        order = self.train.labels.argsort(stable=True)
        return batch_loader(self.train.select(order), self.batch_size)


def sorted_by_label(job: TrainingJob) -> TrainingJob:
    own = job.data
    made = _Sorted(
        lambda: own.images,
        batch_size=own.batch_size,
        val_size=own.val_size,
        train_size=own.train_size,
    )
    return replace(job, data=made)


def with_network(change: Callable[[nn.Module], nn.Module]) -> Alter:
    """The job's network, changed."""

    def alter(job: TrainingJob) -> TrainingJob:
        make = job.network
        return replace(job, network=lambda images: change(make(images)))

    return alter


class Ending(nn.Module):
    """A network and one more function behind it."""

    def __init__(self, network: nn.Module, ending: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self._ending = network, ending

    def forward(self, images: Tensor) -> Tensor:
        return self._ending(self.network(images))


def softmax(network: nn.Module) -> nn.Module:
    return Ending(network, lambda logits: F.softmax(logits, 1))


def always_dropping(share: float) -> Callable[[nn.Module], nn.Module]:
    return lambda network: Ending(network, lambda logits: F.dropout(logits, share, training=True))


class _Cut(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        *first, last = network.children()
        self.first, self.last = nn.Sequential(*first), last

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.first(images)
        return self.last(features.flatten(1))


def cut(network: nn.Module) -> nn.Module:
    """Features computed without a gradient, though they are to train."""
    return _Cut(network)


def scaled(factor: float) -> Callable[[nn.Module], nn.Module]:
    """Weights that are too large or too small from the start."""

    def change(network: nn.Module) -> nn.Module:
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(factor)
        return network

    return change


def negative_biases(value: float) -> Callable[[nn.Module], nn.Module]:
    """Convolutions whose ReLU never opens."""

    def change(network: nn.Module) -> nn.Module:
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, nn.Conv2d) and module.bias is not None:
                    module.bias.fill_(value)
        return network

    return change


def equal_weights(value: float) -> Callable[[nn.Module], nn.Module]:
    def change(network: nn.Module) -> nn.Module:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(value)
        return network

    return change


def first_layer_only(job: TrainingJob) -> TrainingJob:
    """An optimiser that was given the first layer's weights alone."""
    rate = job.config["optimizer"]["lr"]
    return replace(
        job,
        optimizer=lambda network: torch.optim.SGD(list(network.parameters())[:1], lr=rate),
    )
