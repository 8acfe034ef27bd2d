"""``hydra/sweeper=optuna``: a Hydra sweeper that calls ``cnnexp.sweeps.search``.

Hydra looks for sweepers in this namespace package and imports them at each start: keep it light.
"""

from __future__ import annotations

from hydra_plugins.cnnexp_sweepers.base import OverLauncher


class OptunaSweeper(OverLauncher):
    """Search with Optuna, with any launcher; the settings are those of its YAML."""

    def sweep(self, arguments: list[str]) -> None:
        """Run the search."""
        from cnnexp.sweeps.sweepers import search

        search(self.jobs(), arguments, self.settings)
