"""``hydra/sweeper=compare``: a Hydra sweeper over ``cnnexp.sweeps.comparison``.

Hydra looks for sweepers in this namespace package, and imports them at each start: keep it light.
"""

from __future__ import annotations

from hydra_plugins.cnnexp_sweepers.base import OverLauncher

__all__ = ["CompareSweeper"]


class CompareSweeper(OverLauncher):
    """Compare candidates fairly, over any launcher; settings as in its YAML."""

    def sweep(self, arguments: list[str]) -> None:
        """Compare."""
        from cnnexp.sweeps.sweepers import compare

        compare(self.jobs(), arguments, self.settings)
