"""Choose the fastest way of computing: measured, remembered, and pinned to the layers of a network.

The measurements are kept in a file in the user's cache folder (see :mod:`cnnexp.tuning.choices`).
"""

from cnnexp.tuning.auto import recorded_choices, recorded_times
from cnnexp.tuning.network import StepChoice, choose_algorithms, choose_step, pin_algorithms

__all__ = [
    "StepChoice",
    "choose_algorithms",
    "choose_step",
    "pin_algorithms",
    "recorded_choices",
    "recorded_times",
]
