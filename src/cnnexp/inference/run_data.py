"""The images of a run, wherever they are stored now, or other images that its network can take."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torchmetrics import Metric

from cnnexp.config.build import build_job
from cnnexp.config.compose import Composer, plain_config
from cnnexp.config.errors import ConfigError
from cnnexp.config.resumption import trained_on
from cnnexp.data import DataUnavailableError, ImageDataModule
from cnnexp.inference.network import TrainedNetwork, for_inference

log = logging.getLogger(__name__)


def data_of_run(
    trained: TrainedNetwork, data: Sequence[str] = (), extra_targets: Sequence[str] = ()
) -> ImageDataModule:
    """The images that ``trained`` was trained on, or others; split, and checked to fit the network.

    Classes of the same names have the run's order, whatever theirs was; other names are said by a warning.

    Args:
        trained: The network of a run folder.
        data: Settings that begin with ``data=`` or ``data.``, for example ``["data.root=…"]``.
        extra_targets: Prefixes of ``_target_`` allowed beyond cnnexp's own list.

    Raises:
        ConfigError: The images are not available, or differ from the run's though ``data`` does not say
            so, or do not fit the network.
    """
    config = for_inference(with_data(trained, data), "native")
    module = build_job(config, extra_targets).data
    try:
        module.split()
    except (ValueError, DataUnavailableError) as error:
        raise ConfigError(str(error)) from error
    images = module.images
    if not data and not trained_on(trained.folder, images.checksum):
        raise ConfigError(
            f"data: the run is of {trained.dataset}, but what is found now ({images.name}) has another "
            f"checksum; set data.root to where the run's data is, or name other images with data=…"
        )
    if images.train.shape != trained.shape or len(images.classes) != len(trained.classes):
        raise ConfigError(
            f"data: the network takes {_shape(trained.shape)} images of {len(trained.classes)} classes, "
            f"but {images.name} has {_shape(images.train.shape)} of {len(images.classes)}"
        )
    if images.classes == trained.classes:
        return module
    if images.targets == "classes" and set(images.classes) == set(trained.classes):
        ordered = {**config["data"], "classes": list(trained.classes)}  # as the outputs are
        module = build_job({**config, "data": ordered}, extra_targets).data
        module.split()
        return module
    here, there = next(
        each for each in zip(images.classes, trained.classes, strict=True) if each[0] != each[1]
    )
    log.warning(
        "data: the classes of %s have other names than the run's, as %s for %s: they are taken in this order",
        images.name,
        here,
        there,
    )
    return module


def judges_of_run(
    trained: TrainedNetwork, data: ImageDataModule, extra_targets: Sequence[str] = ()
) -> tuple[nn.Module | None, dict[str, Metric]]:
    """The loss and the further metrics that the run was judged by, as in its result.json.

    Args:
        trained: The network of a run folder.
        data: The images to be judged on; balanced class weights are those of its training images.
        extra_targets: Prefixes of ``_target_`` allowed beyond cnnexp's own list.

    Returns:
        The loss, None for the softmax cross-entropy; and the metrics by name.

    Raises:
        ConfigError: One is not allowed, or cannot be made for these images.
    """
    own = {part: trained.config.get(part) or {} for part in ("loss", "metrics")}
    job = build_job({**for_inference(trained.config, "native"), **own}, extra_targets)
    loss = None if job.loss is None else job.loss(data)
    return loss, {} if job.metrics is None else dict(job.metrics(data.images))


def with_data(trained: TrainedNetwork, data: Sequence[str]) -> Mapping[str, Any]:
    """The run's config with the part ``data`` changed as the settings ask for."""
    if any(setting.startswith("data=") for setting in data):
        composed = plain_config(Composer("train").compose(list(data)))
        return {**trained.config, "data": composed["data"]}
    own = Composer("config", config_dir=str(trained.folder.path.resolve()))
    return plain_config(own.compose(list(data)))


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
