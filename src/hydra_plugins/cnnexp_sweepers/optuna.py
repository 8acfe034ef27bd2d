"""``hydra/sweeper=optuna``: a Hydra sweeper over ``cnnexp.sweeps.search``.

Hydra looks for sweepers in this namespace package, and imports them at each start: keep it light.
"""

from __future__ import annotations

from hydra_plugins.cnnexp_sweepers.base import OverLauncher

__all__ = ["OptunaSweeper"]


class OptunaSweeper(OverLauncher):
    """Search by Optuna, over any launcher; settings as in its YAML."""

    def sweep(self, arguments: list[str]) -> None:
        """Search."""
        from cnnexp.sweeps.sweepers import search

        search(self.jobs(), arguments, self.settings)
