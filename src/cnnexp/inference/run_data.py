"""The images of a run, wherever they are stored now, or other images that its network can take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cnnexp.config.build import build_job
from cnnexp.config.compose import Composer, plain_config
from cnnexp.config.errors import ConfigError
from cnnexp.config.resumption import trained_on
from cnnexp.data import DataUnavailableError, ImageDataModule
from cnnexp.inference.network import TrainedNetwork, for_inference


def data_of_run(
    trained: TrainedNetwork, data: Sequence[str] = (), extra_targets: Sequence[str] = ()
) -> ImageDataModule:
    """The images that ``trained`` was trained on, or others; split, and checked to fit the network.

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
    return module


def with_data(trained: TrainedNetwork, data: Sequence[str]) -> Mapping[str, Any]:
    """The run's config with the part ``data`` changed as the settings ask for."""
    if any(setting.startswith("data=") for setting in data):
        composed = plain_config(Composer("train").compose(list(data)))
        return {**trained.config, "data": composed["data"]}
    own = Composer("config", config_dir=str(trained.folder.path.resolve()))
    return plain_config(own.compose(list(data)))


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
