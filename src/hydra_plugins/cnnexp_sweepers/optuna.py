"""``hydra/sweeper=optuna``: a Hydra sweeper over ``cnnexp.sweeps.search``.

Hydra looks for sweepers in this namespace package, and imports them at each start: keep it light.
"""

from __future__ import annotations

from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

__all__ = ["OptunaSweeper"]


class OptunaSweeper(Sweeper):
    """Search by Optuna, over any launcher; settings as in its YAML."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Make the launcher."""
        self._context, self._config = hydra_context, config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Search."""
        from cnnexp.sweeps.hydra import search

        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        search(self._context, self._config, self._launcher, arguments, self._settings)
