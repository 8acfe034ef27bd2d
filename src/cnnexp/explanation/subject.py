"""The subject of a page: a network, trained or not, and one image from a data set or a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnnexp.config.build import build_job
from cnnexp.config.compose import Composer, plain_config
from cnnexp.config.errors import ConfigError
from cnnexp.config.interpolation import blamed
from cnnexp.data import DataUnavailableError, ImageSet
from cnnexp.inference import TrainedNetwork
from cnnexp.inference.network import for_inference
from cnnexp.inference.prediction import read_for, stated_range
from cnnexp.runs import RunFolder
from cnnexp.training import StartingWeightsError, make_classifier

_MANY = 20  # as many names fit into a message


@dataclass(frozen=True)
class Subject:
    """One image.

    Attributes:
        pixels: (C, H, W) float32 in 0…1.
        origin: Where it comes from, for example ``"digits, test image 5"``.
        true_class: The index of its class; None if it is unknown.
    """

    pixels: Tensor
    origin: str
    true_class: int | None = None


def load_untrained(
    overrides: Sequence[str], extra_targets: Sequence[str] = ()
) -> tuple[TrainedNetwork, ImageSet]:
    """The network that a training with ``overrides`` would start from, and the images of its data.

    Args:
        overrides: Overrides of the config of ``cnnexp.train``, for example ``["model=lenet5", "seed=3"]``.
        extra_targets: Prefixes of ``_target_`` allowed beyond cnnexp's own list.

    Returns:
        The network, of epoch 0, with the plain backward of its separate layers.

    Raises:
        ConfigError: The config is invalid, or its data is not available.
    """
    composed = Composer("train").compose(list(overrides))
    config = plain_config(composed)
    try:
        job = build_job(
            {**for_inference(config, "direct"), "init_from": config.get("init_from") or {}},
            extra_targets,
        )
    except ConfigError as error:
        raise blamed(error, composed) from error
    images = _loaded(job.data)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(job.seed)  # as a run does
        try:
            classifier = make_classifier(job, images)
            if job.start is not None:
                job.start.give_to(classifier.network)
        except StartingWeightsError as error:
            raise ConfigError(str(error)) from error
        except (RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"model: the network cannot be made: {reason}") from error
    network = TrainedNetwork(
        classifier=classifier.eval().requires_grad_(False),
        dataset=images.name,
        classes=images.classes,
        shape=images.train.shape,
        folder=RunFolder(Path()),
        checkpoint="",
        epoch=0,
        trained_weights=None,
        config=config,
    )
    return network, images


def _loaded(data: Any) -> ImageSet:
    try:
        return data.images
    except (ValueError, DataUnavailableError) as error:
        raise ConfigError(str(error)) from error


def numbered_image(images: ImageSet, index: int) -> Subject:
    """Test image ``index``, counted from 0.

    Raises:
        ConfigError: There is no image of this number.
    """
    count = len(images.test)
    if not 0 <= index < count:
        raise ConfigError(
            f"image={index}: {images.name} has {count:,} test images, so image= must be 0…{count - 1}, "
            f"or the name of a picture file"
        )
    pixels, labels = images.test.batch(torch.tensor([index]))
    return Subject(pixels[0].float() / 255, f"{images.name}, test image {index}", int(labels[0]))


def picture(network: TrainedNetwork, file: Path, value_range: str = "") -> Subject:
    """The picture in ``file``, brought to the network's input shape as ``cnnexp.predict`` does it.

    Args:
        network: The network that is to take it.
        file: The picture.
        value_range: The text that the user gave, see ``stated_range``.

    Raises:
        ConfigError: There is no such file, or ``value_range`` is not a range.
        DataFileError: The file is not a picture, or nothing is drawn in it.
    """
    if not file.is_file():
        raise ConfigError(
            f"image={file}: there is no such file; name a picture, or the number of a test image"
        )
    pixels = read_for(network, file, value_range=stated_range(network, value_range))
    return Subject(pixels.float() / 255, file.name)


def class_named(classes: Sequence[str], name: str) -> int:
    """The index of the class ``name``.

    Raises:
        ConfigError: There is no such class.
    """
    if name in classes:
        return list(classes).index(name)
    known = ", ".join(classes[:_MANY]) + (", …" if len(classes) > _MANY else "")
    raise ConfigError(f"label={name}: there is no such class; known: {known}")
