"""``hydra/launcher=slurm``: a Hydra launcher over ``cnnexp.sweeps.slurm``.

Hydra looks for launchers in this namespace package, and imports them at each start: keep it light.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.utils import JobReturn, configure_log

from hydra_plugins.cnnexp_launchers.local import LocalLauncher

__all__ = ["SlurmLauncher"]


class SlurmLauncher(LocalLauncher):
    """Submit the jobs to SLURM and wait for them; settings as in its YAML."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs; a job that fails gives None."""
        from cnnexp.sweeps.hydra import launch_on_slurm

        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        return launch_on_slurm(self._context, self._config, job_overrides, self._settings)
