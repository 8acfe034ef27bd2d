"""``hydra/launcher=slurm``: a Hydra launcher over ``cnnexp.sweeps.SlurmLauncher``.

Hydra looks for launchers in this namespace package, and imports them at each start: keep it light.
"""

from __future__ import annotations

from hydra_plugins.cnnexp_launchers.local import LocalLauncher

__all__ = ["SlurmLauncher"]


class SlurmLauncher(LocalLauncher):
    """Submit the jobs to SLURM and wait for them; settings as in its YAML."""
