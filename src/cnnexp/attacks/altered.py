"""A run's data with some training images put in or left out, all else being the run's own.

A loader such as ``cnnexp.attacks.canaries.load`` calls the run's own loader and splits as the run did, so
that the config of an attack's training says what was done, and the training resumes as any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cnnexp.config.errors import ConfigError
from cnnexp.config.schema import DataConfig
from cnnexp.data import ImageDataModule, ImageSet, Samples, is_at_hand


@dataclass(frozen=True)
class RunSplit:
    """The keys of a run's ``data`` that split its images; see ``cnnexp.data.ImageDataModule``."""

    val_size: float | None
    train_size: float | None
    classes: Sequence[str] | None
    split_seed: int
    folds: int | None = None
    fold: int | None = None


@dataclass(frozen=True)
class Joined:
    """Samples of two places; none is read before it is asked for.

    Attributes:
        first, second: Where they are stored.
        places: (N,) which they are, as indices into ``first`` followed by ``second``.
        labels: (N,) the class of each.
    """

    first: Samples
    second: Samples
    places: Tensor
    labels: Tensor

    @property
    def at_hand(self) -> bool:
        """Whether the images are read without work."""
        return is_at_hand(self.first) and is_at_hand(self.second)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of each image."""
        return self.first.shape

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) and labels (B,) for (B,) indices, in that order."""
        places, count = self.places[indices], len(self.first)
        images = torch.empty(len(indices), *self.shape, dtype=torch.uint8)
        early = places < count
        images[early], _ = self.first.batch(places[early])
        images[~early], _ = self.second.batch(places[~early] - count)
        return images, self.labels[indices]

    def select(self, indices: Tensor, labels: Tensor | None = None) -> Joined:
        """The samples at ``indices``, in that order; ``labels`` (B,), if given, replace their labels."""
        new = self.labels[indices] if labels is None else labels
        return replace(self, places=self.places[indices], labels=new)


def join(first: Samples, second: Samples) -> Samples:
    """The samples of ``first``, then those of ``second``."""
    labels = torch.cat([first.labels, second.labels])
    return Joined(first, second, torch.arange(len(labels)), labels)


def split_as_the_run(
    loader: Callable[..., ImageSet], arguments: Mapping[str, Any], split: RunSplit
) -> ImageDataModule:
    """The images that ``loader`` gives for ``arguments``, split as the run has split them."""
    return ImageDataModule(partial(loader, **arguments), **asdict(split))


def altered(run: ImageDataModule, train: Samples, how: str) -> ImageSet:
    """The images of ``run`` with other training images, ``how`` being what tells the set from others.

    Validation images, test images, and the mean and standard deviation of pixels stay.
    """
    digest = hashlib.md5(f"{run.images.checksum} {how}".encode()).hexdigest()
    return replace(run.images, train=train, val=run.val, checksum=digest, stands_in_for=0)


def altered_config(
    config: Mapping[str, Any], target: str, more: Mapping[str, Any]
) -> dict[str, Any]:
    """The config of a run, with its loader wrapped by ``target``, which also gets ``more``.

    The test images stay unread by the training.

    Raises:
        ConfigError: The run is itself an attack's training.
    """
    node = config["data"]
    if str(node["_target_"]).startswith("cnnexp.attacks."):
        raise ConfigError(
            f"data._target_={node['_target_']}: the run is itself the training of an attack; name the run "
            f"that was attacked"
        )
    own = {field.name for field in fields(DataConfig)}
    kept = {key: value for key, value in node.items() if key in own}
    arguments = {key: v for key, v in node.items() if key not in own and key != "_target_"}
    split = {key: kept[key] for key in ("val_size", "train_size", "classes", "split_seed")}
    crossed = {key: kept[key] for key in ("folds", "fold") if kept.get(key) is not None}
    data = {
        "_target_": target,
        "loader": node["_target_"],
        **arguments,
        "run_split": {**split, **crossed},
        **more,
        **kept,
        **dict.fromkeys(crossed),
        "val_size": 0,
        "train_size": None,
        "classes": None,
    }
    return {**config, "data": data, "test": False}
