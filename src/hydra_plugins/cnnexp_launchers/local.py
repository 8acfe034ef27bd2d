"""``hydra/launcher=local``: a Hydra launcher that calls ``cnnexp.sweeps.LocalLauncher``.

Hydra looks for launchers in this namespace package and imports them at each start: keep it light.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, configure_log
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LocalLauncher(Launcher):
    """Run each job in a process of its own, several at a time; the settings are those of its YAML."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what is needed to compose jobs."""
        self._context, self._config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs and return their results; the result of a job that fails is None."""
        from cnnexp.sweeps.hydra import launch

        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        kind = type(self).__name__
        return launch(kind, self._context, self._config, job_overrides, self._settings)
