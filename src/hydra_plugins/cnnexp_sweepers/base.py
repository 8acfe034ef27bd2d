"""The base of cnnexp's sweepers: they run their jobs with the launcher that the command chose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from cnnexp.sweeps.sweepers import SweepJobs


class OverLauncher(Sweeper):
    """A sweeper that works with any launcher.

    Attributes:
        settings: The settings of its YAML.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Create the launcher."""
        self._context, self._config = hydra_context, config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def jobs(self) -> SweepJobs:
        """The jobs of this sweep; from this call on, its progress is logged on the terminal."""
        from cnnexp.sweeps.sweepers import SweepJobs

        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        return SweepJobs(self._context, self._config, self._launcher)
