"""``hydra/launcher=slurm``: a Hydra launcher that calls ``cnnexp.sweeps.SlurmLauncher``.

Hydra looks for launchers in this namespace package and imports them at each start: keep it light.
"""

from __future__ import annotations

from hydra_plugins.cnnexp_launchers.local import LocalLauncher


class SlurmLauncher(LocalLauncher):
    """Submit the jobs to SLURM and wait for them; the settings are those of its YAML."""
