"""How the gradients of a run are computed: ``conf/backward``."""

from __future__ import annotations

from typing import Any

from cnnexp import ops
from cnnexp.config.errors import ConfigError
from cnnexp.config.schema import BackwardConfig


def backward_settings(config: BackwardConfig) -> dict[str, Any]:
    """The arguments of ``cnnexp.training.TrainingJob`` that ``config`` describes.

    Raises:
        ConfigError: No op has the algorithm.
    """
    try:
        ops.resolve_algorithm("conv2d", config.name)
    except ops.UnknownAlgorithmError as error:
        raise ConfigError(f"backward.name={config.name}: {error}") from error
    options = {"recompute": config.recompute, "functions": config.functions}
    return {"backward": config.name, "backward_layers": config.layers, **options}
