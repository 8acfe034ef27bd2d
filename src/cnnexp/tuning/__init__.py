"""Which way of computing is the fastest: measured, remembered, and pinned to the layers of a network.

What is measured is kept in a file in the user's cache folder (see :mod:`cnnexp.tuning.choices`).
"""

from cnnexp.tuning.auto import recorded_choices, recorded_times
from cnnexp.tuning.network import choose_algorithms, pin_algorithms

__all__ = ["choose_algorithms", "pin_algorithms", "recorded_choices", "recorded_times"]
