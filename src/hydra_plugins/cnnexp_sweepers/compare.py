"""``hydra/sweeper=compare``: a Hydra sweeper that calls ``cnnexp.sweeps.comparison``.

Hydra looks for sweepers in this namespace package and imports them at each start: keep it light.
"""

from __future__ import annotations

from hydra_plugins.cnnexp_sweepers.base import OverLauncher


class CompareSweeper(OverLauncher):
    """Compare candidates fairly, with any launcher; the settings are those of its YAML."""

    def sweep(self, arguments: list[str]) -> None:
        """Run the comparison."""
        from cnnexp.sweeps.sweepers import compare

        compare(self.jobs(), arguments, self.settings)
