"""What people do with networks: each habit is one function of a :class:`Case`, entered by name.

A habit returns tensors by name; those of the network in any way are compared with those of torch's own
layers. Where torch itself raises, nothing is asked of ours.
"""

from __future__ import annotations

# isort: off
from tests.nn.matrix import training, copying, calling  # noqa: F401  (they enter their habits)

# isort: on
from tests.nn.matrix.habit import HABITS, Habit

__all__ = ["HABITS", "Habit"]
